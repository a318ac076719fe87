"""Properties of the placement functions: balance, movement, zones, independence from addresses and order.

`test_print_balance_and_movement` prints the table of docs/explanation/placement.md: run it with `pytest -s`.
"""

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailfront.cluster.hashing import (
    BUCKETS_COUNT,
    BucketHash,
    Node,
    capacities,
    desired_order,
    plan_assignment,
    ranking,
)
from mailfront.cluster.placement import ClusterMap
from mailfront.cluster.settings import NodeSettings
from mailfront.mail.names import MailboxKey, NodeId

SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])

node_ids = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)
small_clusters = st.lists(
    st.builds(Node, node_ids, st.integers(1, 1000), st.sampled_from(["", "a", "b"])),
    min_size=2,
    max_size=8,
    unique_by=lambda node: node.id,
)
clusters = st.lists(
    st.builds(Node, node_ids, st.integers(1, 1000)), min_size=2, max_size=64, unique_by=lambda node: node.id
)


@SLOW
@given(nodes=clusters)
def test_every_plan_is_within_capacity(nodes: list[Node]) -> None:
    """Each bucket has one owner, and no node has more than 1.02 of its share by weight, rounded up."""
    owners = plan_assignment(nodes, "cluster")
    room = capacities(nodes)
    assert len(owners) == BUCKETS_COUNT
    assert all(count <= room[owner] for owner, count in Counter(owners).items())


@given(nodes=small_clusters, bucket=st.integers(0, 4095), data=st.data())
def test_order_of_configuration_does_not_matter(nodes: list[Node], bucket: int, data: st.DataObject) -> None:
    """Listing the nodes in another order changes nothing."""
    shuffled = data.draw(st.permutations(nodes))
    assert desired_order(bucket, nodes, "c") == desired_order(bucket, shuffled, "c")


@given(nodes=small_clusters, bucket=st.integers(0, 4095))
def test_order_holds_every_node_once_and_obeys_zones(nodes: list[Node], bucket: int) -> None:
    """Home first, every node once, and the first secondary from another zone if there is one."""
    order = desired_order(bucket, nodes, "c")
    zones = {node.id: node.zone for node in nodes}
    assert sorted(order) == sorted(zones)
    if len(set(zones.values())) > 1:
        assert zones[order[0]] != zones[order[1]]


@given(nodes=small_clusters, bucket=st.integers(0, 4095), data=st.data())
def test_removing_a_node_only_takes_it_out(nodes: list[Node], bucket: int, data: st.DataObject) -> None:
    """The ranking of the nodes that stay is the same with and without the one that goes."""
    gone = data.draw(st.sampled_from(nodes))
    before = [node for node in ranking(bucket, nodes, "c") if node is not gone]
    assert list(ranking(bucket, [node for node in nodes if node is not gone], "c")) == before


@given(weight=st.integers(2, 1000), bucket=st.integers(0, 4095), nodes=small_clusters)
def test_more_weight_never_repels(weight: int, bucket: int, nodes: list[Node]) -> None:
    """A node that gets more weight keeps every bucket that was drawn to it."""
    first = ranking(bucket, nodes, "c")[0]
    heavier = [Node(node.id, node.weight + weight if node is first else node.weight) for node in nodes]
    assert ranking(bucket, heavier, "c")[0].id == first.id


@given(host=st.ip_addresses(v=4).map(str), port=st.integers(1, 65535), bucket=st.integers(0, 4095))
def test_ids_decide_not_addresses(host: str, port: int, bucket: int) -> None:
    """Moving a node to another machine or port changes no placement."""
    plain = [NodeSettings(id=f"store{number}", host="10.0.0.1") for number in range(4)]
    moved = [
        NodeSettings.model_validate({"id": f"store{number}", "host": host, "lmtp": port, "imap": port})
        for number in range(4)
    ]
    orders = [desired_order(bucket, [setting.as_node() for setting in table], "c") for table in (plain, moved)]
    assert orders[0] == orders[1]


@given(key=st.text(min_size=1, max_size=80).filter(lambda text: text.isprintable()))
def test_place_agrees_with_the_stored_owner(key: str) -> None:
    """`place` answers with the owner that the map stores for the key's bucket, whatever the hash would like."""
    backwards = tuple(reversed(OWNERS))
    placed = ClusterMap(version=1, cluster="c", nodes=NODES, owners=backwards).place(MailboxKey(key))
    assert placed.home == backwards[placed.bucket]
    assert placed.home not in placed.secondaries
    assert {placed.home, *placed.secondaries} == {node.id for node in NODES}


NODES = [Node(NodeId(f"store{number}")) for number in range(1, 4)]
OWNERS = plan_assignment(NODES, "c")


def _moved(before: tuple[NodeId, ...], after: tuple[NodeId, ...]) -> float:
    return sum(old != new for old, new in zip(before, after, strict=True)) / BUCKETS_COUNT


def test_print_balance_and_movement() -> None:
    """Balance and movement for 55,000 mailboxes stay near the ideal from 2 to 63 nodes, added and removed."""
    keys = [MailboxKey(f"u{number:05d}@uni.example") for number in range(55_000)]
    hashed = Counter(map(BucketHash("example").bucket, keys))
    print("\nnodes | most/mean mailboxes | least/mean | moved on +1 node (ideal) | moved on -1 node (ideal) | spread")
    for count in (2, 3, 4, 5, 8, 16, 32, 63):
        nodes = [Node(NodeId(f"store{number}")) for number in range(1, count + 1)]
        owners = plan_assignment(nodes, "example")
        more = plan_assignment([*nodes, Node(NodeId("storenew"))], "example")
        fewer = plan_assignment(nodes[1:], "example") if count > 2 else ("store2",) * BUCKETS_COUNT
        load: Counter[NodeId] = Counter()
        heirs: Counter[NodeId] = Counter()
        for bucket, owner in enumerate(owners):
            load[owner] += hashed[bucket]
            if owner == "store1":
                heirs[desired_order(bucket, nodes, "example")[1]] += hashed[bucket]
        mean = len(keys) / count
        most, least = max(load.values()) / mean, min(load.values()) / mean
        added, removed = _moved(owners, more), _moved(owners, tuple(map(NodeId, fewer)))
        spread = max(heirs.values()) / heirs.total()
        print(
            f"{count:5} | {most:19.3f} | {least:10.3f} | {added:16.3f} ({1 / (count + 1):.3f})"
            f" | {removed:16.3f} ({1 / count:.3f}) | {spread:.2f} ({1 / max(count - 1, 1):.2f})"
        )
        assert max(Counter(owners).values()) <= -(-4178 // count) + 1
        # 2 % of slack in buckets, one bucket of rounding, and four standard deviations of mailboxes per node.
        assert most < 1.02 + count / BUCKETS_COUNT + 4 / mean**0.5
        assert added < 1 / (count + 1) * 1.1 + 0.008
        assert removed < 1 / count * 1.1 + 0.008
