"""The map as the queue looks at it."""

from mailfront.app.homes import MapHomes
from mailfront.cluster.hashing import BUCKETS_COUNT, Node
from mailfront.cluster.placement import ClusterMap
from mailfront.mail.names import MailboxKey, NodeId

A, B = NodeId("a"), NodeId("b")


def test_a_row_is_at_its_pin_else_at_its_bucket() -> None:
    """Views ask by bucket alone: without a pin the owner of that bucket counts, whatever the key."""
    owners = [A if bucket < 1000 else B for bucket in range(BUCKETS_COUNT)]
    plain = ClusterMap(version=1, cluster="c", nodes=[Node(A, 1, ""), Node(B, 1, "")], owners=owners)
    pinned = MailboxKey("ana@example.edu")
    bucket = plain.bucket(pinned)
    other = B if owners[bucket] == A else A
    homes = MapHomes(plain.with_pins({pinned: other, MailboxKey("by-bucket@example.edu"): None}, version=2))
    assert homes.home_of(pinned, bucket) == other
    assert homes.home_of(MailboxKey(""), bucket) == owners[bucket]
    assert homes.home_of(MailboxKey(""), 5) == A
    assert homes.pins_in(bucket) == {pinned: other}
    assert len(homes.buckets_of(A)) == 1000
    assert sorted([*homes.buckets_of(A), *homes.buckets_of(B)]) == list(range(BUCKETS_COUNT))
