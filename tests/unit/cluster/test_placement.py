"""The map: precedence, hosts, first placements, and the way from the keeper to a worker."""

import json
from typing import Any

import pytest

from mailfront.base.errors import Unavailable
from mailfront.cluster.hashing import Node, bucket_of, plan_assignment
from mailfront.cluster.placement import PINS_PER_PAGE_COUNT, ClusterMap, MapReceiver, Reason, pins_push
from mailfront.mail.names import MailboxKey, NodeId

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
NODES = (Node(A, 100, "x"), Node(B, 100, "x"), Node(C, 200, "y"))
OWNERS = plan_assignment(NODES, "cluster")
ANA = MailboxKey("ana")


def a_map(**changes: Any) -> ClusterMap:
    values: dict[str, Any] = {"version": 1, "cluster": "cluster", "nodes": NODES, "owners": OWNERS} | changes
    return ClusterMap(**values)


def test_bucket_owner_is_the_home() -> None:
    """Without a pin the stored owner of the bucket is the home, and the answer says so."""
    placed = a_map().place(ANA)
    assert placed.bucket == bucket_of(ANA, "cluster") == a_map().bucket(ANA)
    assert (placed.home, placed.reason) == (OWNERS[placed.bucket], Reason.BUCKET)


def test_pin_beats_bucket() -> None:
    """A pinned mailbox lives on its node, with secondaries seen from there."""
    for node in (A, B, C):
        placed = a_map(pins={ANA: node}).place(ANA)
        assert (placed.home, placed.reason) == (node, Reason.PIN)
        assert sorted({placed.home, *placed.secondaries}) == [A, B, C]
        assert {NODES[0]: "y", NODES[1]: "y", NODES[2]: "x"}[next(n for n in NODES if n.id == node)] == next(
            n.zone for n in NODES if n.id == placed.secondaries[0]
        )


def test_placement_before_the_pin_has_arrived() -> None:
    """A worker that was told a pin in an answer places the mailbox there at once, as the pushed map will."""
    at_once = a_map().place_at(ANA, C)
    assert at_once == a_map(pins={ANA: C}).place(ANA)


def test_remembered_by_bucket() -> None:
    """A first placement that was remembered as "by its bucket" follows the bucket."""
    cluster_map = a_map(pins={ANA: None}, first_placements=True)
    assert cluster_map.place(ANA).reason is Reason.BUCKET
    assert not cluster_map.must_announce(ANA)
    assert cluster_map.must_announce(MailboxKey("ben"))


def test_nothing_to_announce_without_host_attribute() -> None:
    """Where the directory has no host attribute, no first placement is remembered."""
    assert not a_map().must_announce(ANA)


def test_answers_are_made_once() -> None:
    """The same bucket gives the same object, also after pins were added: the hot path builds nothing."""
    before = a_map()
    after = before.with_pins({MailboxKey("ben"): C}, version=2)
    assert before.place(ANA) is after.place(ANA)
    assert after.place(MailboxKey("ben")) is after.place(MailboxKey("ben"))
    assert (before.version, after.version) == (1, 2)
    assert before.place(MailboxKey("ben")).reason is Reason.BUCKET


def test_host_attribute_names_a_node() -> None:
    """By id first, then by address in any case; anything else is no node."""
    cluster_map = a_map(hosts={"mail1.example.edu": A, "c": B})
    assert cluster_map.node_of_host("c") == C
    assert cluster_map.node_of_host("Mail1.Example.EDU") == A
    assert cluster_map.node_of_host("mail9.example.edu") is None


def test_host_that_changed_is_noticed() -> None:
    """A host attribute that names another node than the home disagrees; so does one that names no node."""
    cluster_map = a_map(pins={ANA: C})
    assert cluster_map.agrees(ANA, "c")
    assert not cluster_map.agrees(ANA, "a")
    assert not cluster_map.agrees(ANA, "nowhere")


def test_map_refuses_nonsense() -> None:
    """Too few owners, and owners or pins that are no nodes, are bugs and are not carried around."""
    with pytest.raises(ValueError, match="4096 owners"):
        a_map(owners=OWNERS[:-1])
    with pytest.raises(ValueError, match="not nodes: zz"):
        a_map(owners=(NodeId("zz"), *OWNERS[1:]))
    with pytest.raises(ValueError, match="not nodes: zz"):
        a_map(pins={ANA: NodeId("zz")})


def through_json(pages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(json.dumps(page)) for page in pages]


def test_travels_in_pages() -> None:
    """A map with many pins is cut into pages, and what arrives answers as what was sent."""
    pins = {MailboxKey(f"user{number}"): (A if number % 2 else None) for number in range(2 * PINS_PER_PAGE_COUNT + 5)}
    sent = a_map(pins=pins, hosts={"h": B}, first_placements=True, version=7)
    pages = through_json(sent.as_push())
    assert len(pages) == 3
    got = ClusterMap.from_push(pages)
    assert (got.version, got.nodes, got.owners, dict(got.pins)) == (7, sent.nodes, sent.owners, pins)
    assert got.first_placements
    assert got.node_of_host("H") == B


def test_receiver_takes_pages_and_additions() -> None:
    """A worker swaps its map when the last page has come, and adds pins on top."""
    receiver = MapReceiver()
    with pytest.raises(Unavailable):
        receiver.require()
    for page in through_json(a_map().as_push()):
        assert receiver.receive(page)
    assert receiver.require().place(ANA).reason is Reason.BUCKET
    assert receiver.receive(through_json([pins_push({ANA: C}, base=1, version=2)])[0])
    assert receiver.require().place(ANA).home == C
    assert receiver.require().version == 2
    assert receiver.receive(pins_push({ANA: C}, base=1, version=2)), "what is known already may come again"
    assert receiver.require().version == 2


def test_receiver_says_when_something_is_missing() -> None:
    """An addition to another version, or a page out of order, is refused and the map in force stays."""
    receiver = MapReceiver()
    assert not receiver.receive(pins_push({ANA: C}, base=1, version=2))
    for page in a_map(version=3).as_push():
        receiver.receive(page)
    assert not receiver.receive(pins_push({ANA: C}, base=4, version=5))
    pins = {MailboxKey(f"user{number}"): A for number in range(2 * PINS_PER_PAGE_COUNT + 5)}
    first, second, third = a_map(version=8, pins=pins).as_push()
    assert receiver.receive(first)
    assert not receiver.receive(third)
    assert not receiver.receive(second)
    assert receiver.receive(first)
    assert not receiver.receive({**second, "version": 9}), "a page of another map"
    assert receiver.require().version == 3
    assert all(receiver.receive(page) for page in (first, second, third))
    assert receiver.require().version == 8
