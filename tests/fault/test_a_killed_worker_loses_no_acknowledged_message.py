"""kill -9 of all workers while messages are at every step of their way to the home and to a secondary.

Real Dovecot nodes, each behind a relay that stops a message at its step. The clients send again until they have a 250.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.fault_cluster import Case, FaultCluster
from tests.support.holding_proxy import Hold, Step
from tests.support.senders import Letter, Posting

STEPS: tuple[Step, ...] = ("RCPT", "body", "dot", "answer")
HOME, OTHERS = "store1", ("store2", "store3")


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Three Dovecots behind relays."""
    with FaultCluster.of_dovecots(3) as running:
        yield running


def kill_workers(cluster: FaultCluster) -> None:
    """kill -9 all workers, and wait until the supervisor has started others."""
    victims = cluster.server.workers()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    cluster.server.wait_for_parts(other_than=victims)


def held_at(case: Case, step: Step) -> tuple[Letter, Posting, Hold]:
    """A letter to the home that has stopped at a step."""
    letter = case.letter(HOME)
    hold = case.cluster.hold(HOME, step, letter.mailboxes[0])
    posting = case.post(letter)
    hold.wait()
    return letter, posting, hold


def test_on_the_way_to_the_home(cluster: FaultCluster) -> None:
    """Before the home has the message there is one copy in the end; if it had stored it, there are two, excused."""
    case = cluster.case()
    held = {step: held_at(case, step) for step in STEPS}
    kill_workers(cluster)
    for _, posting, hold in held.values():
        hold.cut()
        assert posting.wait().ok
    case.settle()
    report = case.check("workers killed on the way to the home")
    copies = {step: sum(case.copies(letter).values()) for step, (letter, _, _) in held.items()}
    assert copies == {"RCPT": 1, "body": 1, "dot": 1, "answer": 2}
    assert report.excused_duplicates == 1
    assert all(not letter.tries[0].ok for letter, _, _ in held.values())


def test_after_a_250_for_a_message_past_its_dot(cluster: FaultCluster) -> None:
    """The reply was due before the home answered. The row is active in the dead worker, becomes unknown, and the
    mailbox is searched: found or not, there is one copy."""
    case = cluster.case()
    held = {step: held_at(case, step) for step in ("dot", "answer")}
    for _, posting, _ in held.values():
        assert posting.wait().text.endswith("queued")
    assert [(row.state, row.node) for row in case.rows()] == [("active", HOME)] * 2
    kill_workers(cluster)
    for _, _, hold in held.values():
        hold.cut()
    case.settle()
    report = case.check("workers killed with active rows")
    assert (report.delivered, report.excused_duplicates) == (2, 0)
    assert case.resolved(held["dot"][0]) == ["not found"]
    assert case.resolved(held["answer"][0]) == ["found"]


def test_on_the_way_to_a_secondary(cluster: FaultCluster) -> None:
    """The home cannot be reached. What is acknowledged comes home once; a copy that the secondary had stored without
    our knowing comes home too, excused. A hint without a copy is said aloud."""
    case = cluster.case()
    # More than a connection's buffers: the hint is written when only the end of the message is missing.
    letters = {step: case.letter(HOME, size_bytes=8_000_000 if step == "body" else 0) for step in STEPS}
    held: dict[Step, tuple[Posting, Hold]] = {}
    with ExitStack() as away:
        for letter in letters.values():
            away.enter_context(cluster.proxies[HOME].breaks_at_rcpt(letter.mailboxes[0]))
        for step, letter in letters.items():
            held[step] = held_at_a_holder(case, step, letter)
        hinted = {hint.mailbox for hint in case.hints()}
        assert hinted == {letters[step].mailboxes[0] for step in ("dot", "answer")}
        kill_workers(cluster)
        for posting, hold in held.values():
            hold.cut()
            assert posting.wait().ok
    expected = ["expunged"] * 5 + ["held"]
    case.wait_until(lambda: sorted(hint.state for hint in case.hints()) == expected, "the hints' ends")
    report = case.check("workers killed on the way to a secondary")
    copies = {step: sum(case.copies(letter).values()) for step, letter in letters.items()}
    assert copies == {"RCPT": 1, "body": 1, "dot": 1, "answer": 2}
    assert report.excused_duplicates == 1
    assert not case.away()
    assert [alarm["name"] for alarm in case.alarms() if "no copy" in alarm["text"]] == ["handoff.missing"]


def held_at_a_holder(case: Case, step: Step, letter: Letter) -> tuple[Posting, Hold]:
    """A letter whose copy has stopped at a step of its way to a secondary."""
    holds = [case.cluster.hold(node, step, "handoff") for node in OTHERS]
    posting = case.post(letter)
    reached = case.wait_for_hold(holds)
    for hold in holds:
        if hold is not reached:
            hold.forget()
    return posting, reached
