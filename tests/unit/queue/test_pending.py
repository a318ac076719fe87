"""The index of what is due: buckets, pins, kicks, unknown rows."""

from math import inf

from mailfront.mail.names import MailboxKey
from mailfront.queue.pending import PendingIndex, Visit
from tests.support.queue_rows import A, B, C, FakeHomes

_ANA, _BOB = MailboxKey("ana"), MailboxKey("bob")


def test_a_node_sees_its_own_buckets_oldest_first() -> None:
    """Only due buckets of the node's own are visited, the longest waiting first."""
    index = PendingIndex(FakeHomes())
    for bucket, next_s in ((0, 50.0), (2, 20.0), (4, 200.0), (1, 5.0)):
        index.note(bucket, _ANA, next_s)
    assert [visit.bucket for visit in index.visits(A, 100.0, 10)] == [2, 0]
    assert [visit.bucket for visit in index.visits(A, 100.0, 1)] == [2]
    assert [visit.bucket for visit in index.visits(B, 100.0, 10)] == [1]
    assert index.has_due(A, 20.0)
    assert not index.has_due(A, 19.0)
    assert index.next_due_s([A]) == 20.0
    assert index.next_due_s([A, B]) == 5.0
    assert index.next_due_s([]) == inf


def test_a_visit_corrects_the_number() -> None:
    """After a visit the slot says what the rows say."""
    index = PendingIndex(FakeHomes())
    index.note(0, _ANA, 10.0)
    (visit,) = index.visits(A, 100.0, 10)
    index.visited(visit, 500.0, is_exhausted=True, now_s=100.0)
    assert index.visits(A, 100.0, 10) == []
    index.visited(visit, None, is_exhausted=True, now_s=100.0)
    assert index.next_due_s([A]) == inf


def test_pinned_mailboxes_have_slots_of_their_own() -> None:
    """Rows of a pinned mailbox are due at the node that it is pinned to, and never wake the bucket's owner."""
    index = PendingIndex(FakeHomes(pins={(0, _BOB): B}))
    index.note(0, _BOB, 10.0)
    assert index.visits(A, 100.0, 10) == []
    (visit,) = index.visits(B, 100.0, 10)
    assert visit == Visit(bucket=0, pinned=B, keys_in=frozenset({_BOB}))
    index.note(0, _ANA, 10.0)
    (visit,) = index.visits(A, 100.0, 10)
    assert visit == Visit(bucket=0, keys_not_in=frozenset({_BOB}))


def test_a_kick_makes_everything_due_until_it_was_seen() -> None:
    """Waiting slots of a returned node are visited whatever their time, again and again until one visit saw all."""
    index = PendingIndex(FakeHomes())
    index.note(0, _ANA, 5000.0)
    index.note(1, _ANA, 5000.0)
    index.kick(A, 100.0)
    (visit,) = index.visits(A, 100.0, 10)
    assert (visit.bucket, visit.kicked_s) == (0, 100.0)
    index.visited(visit, 6000.0, is_exhausted=False, now_s=100.0)
    (visit,) = index.visits(A, 100.0, 10)
    index.visited(visit, 6000.0, is_exhausted=True, now_s=100.0)
    assert index.visits(A, 100.0, 10) == []
    assert index.next_due_s([A]) == 6000.0


def test_kicked_slots_take_turns() -> None:
    """The longest waiting goes first; a slot that is not exhausted goes to the end of the line, even in one instant."""
    index = PendingIndex(FakeHomes())
    for bucket, next_s in ((0, 5000.0), (2, 4000.0), (4, 6000.0)):
        index.note(bucket, _ANA, next_s)
    index.kick(A, 100.0)
    seen = []
    for _ in range(7):
        visit = index.visits(A, 100.0, 1)[0]
        seen.append(visit.bucket)
        index.visited(visit, 4000.0, is_exhausted=visit.bucket == 4, now_s=100.0)
    assert seen == [2, 0, 4, 2, 0, 2, 0]
    index.kick(A, 101.0)
    assert [visit.bucket for visit in index.visits(A, 101.0, 3)] == [2, 0, 4]


def test_what_is_due_since_before_goes_before_a_slot_that_had_its_turn() -> None:
    """A kick that takes long does not keep new rows waiting either."""
    index = PendingIndex(FakeHomes())
    index.note(0, _ANA, 5000.0)
    index.kick(A, 100.0)
    index.note(2, _ANA, 103.0)
    (visit,) = index.visits(A, 102.0, 10)
    index.visited(visit, 5000.0, is_exhausted=False, now_s=104.0)
    assert [visit.bucket for visit in index.visits(A, 104.0, 10)] == [2, 0]


def test_a_kick_during_a_visit_is_not_lost() -> None:
    """A visit that began before a kick does not end the kick."""
    index = PendingIndex(FakeHomes())
    index.note(0, _ANA, 10.0)
    (visit,) = index.visits(A, 100.0, 10)
    index.kick(A, 101.0)
    index.visited(visit, 9000.0, is_exhausted=True, now_s=100.0)
    (again,) = index.visits(A, 101.0, 10)
    assert again.kicked_s == 101.0


def test_unknown_rows_are_bound_to_their_node() -> None:
    """Rows of unknown outcome are due at their node, and a kick makes them due at once."""
    index = PendingIndex(FakeHomes())
    index.note_unknown(A, 5000.0)
    assert not index.has_due(A, 100.0)
    index.kick(A, 100.0)
    assert index.unknown_is_due(A, 100.0)
    kicked_s = index.unknown_kicked_s(A)
    index.visited_unknown(A, kicked_s, 6000.0, is_exhausted=False)
    assert index.unknown_is_due(A, 100.0)
    index.visited_unknown(A, kicked_s, 6000.0, is_exhausted=True)
    assert index.next_due_s([A]) == 6000.0
    index.visited_unknown(A, None, None, is_exhausted=True)
    assert index.next_due_s([A]) == inf


def test_a_new_map_forgets_nothing() -> None:
    """When buckets move or pins change, what was waiting is due at its new home, never later than before."""
    index = PendingIndex(FakeHomes(pins={(0, _BOB): B}))
    index.note(0, _BOB, 10.0)
    index.note(0, _ANA, 90.0)
    index.set_homes(FakeHomes(nodes=(C,), pins={(0, _ANA): A}))
    assert [visit.bucket for visit in index.visits(C, 10.0, 10)] == [0]
    (visit,) = index.visits(A, 100.0, 10)
    assert visit.keys_in == frozenset({_ANA})


def test_loading_from_rows() -> None:
    """At start every part of a bucket gets the bucket's number; a row with a damaged bucket is left to `check`."""
    index = PendingIndex(FakeHomes(pins={(0, _BOB): B}))
    index.load({0: 10.0, 99999: 1.0}, {A: 20.0})
    assert index.next_due_s([A]) == 10.0
    assert index.next_due_s([B]) == 10.0
    assert index.unknown_is_due(A, 20.0)
