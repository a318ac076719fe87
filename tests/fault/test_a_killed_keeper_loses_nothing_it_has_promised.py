"""kill -9 of the keeper: while it commits, while its runner delivers, while it brings handed-off mail home.

Real Dovecot nodes behind relays that stop a message at its step; strace stops the keeper inside a commit.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal

import pytest

from tests.support.fault_cluster import Case, FaultCluster
from tests.support.holding_proxy import Hold, Step
from tests.support.senders import Letter
from tests.support.slow_syscall import stopped_at

STEP_AT: dict[str, Step] = {"store1": "RCPT", "store2": "dot", "store3": "answer"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Three Dovecots behind relays; a reply is due after two seconds."""
    with FaultCluster.of_dovecots(3, settings={"intake": {"deadline": "2s"}}) as running:
        yield running


def kill_keeper(cluster: FaultCluster) -> None:
    """kill -9 the keeper, and wait until the supervisor has started another."""
    victim = cluster.server.keeper_pid()
    os.kill(victim, signal.SIGKILL)
    cluster.server.wait_for_parts(other_than=[victim])


def queued_and_held(case: Case, home: str, step: Step) -> tuple[Letter, Hold]:
    """A letter that was queued with an unknown outcome (its home never got the end), and whose next attempt, from the
    queue, has stopped at a step."""
    letter = case.letter(home)
    first = case.cluster.hold(home, "dot", letter.mailboxes[0])
    posting = case.post(letter)
    first.wait()
    again = case.cluster.hold(home, step, letter.mailboxes[0])
    first.cut()
    assert posting.wait().text.endswith("queued")
    again.wait()
    return letter, again


def test_while_the_runner_delivers(cluster: FaultCluster) -> None:
    """The attempts are found as unknown, the mailboxes are searched, and there is one copy each."""
    case = cluster.case()
    held = {home: queued_and_held(case, home, step) for home, step in STEP_AT.items()}
    assert {row.state for row in case.rows()} == {"active"}
    kill_keeper(cluster)
    for _, hold in held.values():
        hold.cut()
    case.settle()
    report = case.check("keeper killed while the runner delivers")
    assert (report.delivered, report.excused_duplicates) == (3, 0)
    for home, (letter, _) in held.items():
        assert case.resolved(letter)[-1] == ("found" if STEP_AT[home] == "answer" else "not found")


def test_while_the_drain_delivers(cluster: FaultCluster) -> None:
    """The rows are draining without a lease, the homes are searched, and there is one copy each, all at home."""
    case = cluster.case()
    held: list[Hold] = []
    with ExitStack() as away:
        letters = {}
        for home in STEP_AT:
            letters[home] = case.letter(home)
            away.enter_context(cluster.proxies[home].breaks_at_rcpt(letters[home].mailboxes[0]))
        for letter in letters.values():
            assert case.post(letter).wait().text.endswith("queued")
        assert len(case.hints()) == 3
        assert not case.rows()
        held = [cluster.hold(home, step, letters[home].mailboxes[0]) for home, step in STEP_AT.items()]
    for hold in held:
        hold.wait(60.0)
    assert {hint.state for hint in case.hints()} == {"draining"}
    kill_keeper(cluster)
    for hold in held:
        hold.cut()
    case.settle()
    report = case.check("keeper killed while the drain delivers")
    assert (report.delivered, report.excused_duplicates, report.handed_off) == (3, 0, 0)


def test_between_the_delivery_home_and_the_end_of_the_copy(cluster: FaultCluster) -> None:
    """The message is at home, and its copy could not be expunged: the next keeper's scan expunges it."""
    case = cluster.case()
    letter = case.letter("store1")
    with cluster.proxies["store1"].breaks_at_rcpt(letter.mailboxes[0]):
        assert case.post(letter).wait().text.endswith("queued")
        holder = cluster.dovecot(case.hints()[0].holder)
        hold = cluster.hold("store1", "answer", letter.mailboxes[0])
    hold.wait(60.0)
    holder.hang()
    hold.go()
    case.wait_until(lambda: [hint.state for hint in case.hints()] == ["done"], "the commit of `done`")
    kill_keeper(cluster)
    holder.resume()
    assert len(holder.handoff_messages()) == 1
    case.settle()
    report = case.check("keeper killed before the copy was expunged")
    assert (report.delivered, report.excused_duplicates) == (1, 0)
    assert not holder.handoff_messages()


@pytest.mark.parametrize("when", ["before", "after"])
def test_while_it_commits(cluster: FaultCluster, when: Literal["before", "after"]) -> None:
    """A message that must be queued waits for a commit that the keeper does not survive, and another one is being
    handed off. The worker asks the next keeper again, and the client gets its 250 at the first try."""
    cluster.wait_until_well()
    case = cluster.case()
    late, away = case.letter("store1"), case.letter("store2")
    hold = cluster.hold("store1", "answer", late.mailboxes[0])
    posted = case.post(late)
    hold.wait()
    victim = cluster.server.keeper_pid()
    copies = [cluster.hold(node, "RCPT", "handoff") for node in ("store1", "store3")]
    with (
        cluster.proxies["store2"].breaks_at_rcpt(away.mailboxes[0]),
        stopped_at(victim, "fdatasync,fsync", when) as stop,
    ):
        stop.wait()
        posted_away = case.post(away)
        case.wait_for_hold(copies)
        stop.kill9()
        for copy in copies:
            copy.forget()
        assert posted.wait().ok
        assert posted_away.wait().ok
    assert len(late.tries) == 1
    cluster.server.wait_for_parts(other_than=[victim])
    hold.go()
    case.settle()
    report = case.check(f"keeper killed {when} the fsync")
    assert (report.delivered, report.excused_duplicates) == (2, 0)
