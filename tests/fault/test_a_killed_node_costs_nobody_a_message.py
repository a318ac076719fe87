"""kill -9 of a storage node at every step: as the home of mail, as the holder of copies, in the middle of the drain.

Real Dovecot nodes behind relays that stop a message at its step. No client ever has to send twice.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.fault_cluster import FaultCluster
from tests.support.holding_proxy import Step
from tests.support.processes import wait_until

STEPS: tuple[Step, ...] = ("RCPT", "body", "dot", "answer")


def kill_noticed(cluster: FaultCluster, node: str) -> None:
    """kill -9 a node, and wait until the front end knows it: its return is then noticed too."""
    seen_count = len(cluster.server.events("node_state"))
    cluster.dovecot(node).kill9()

    def is_noticed() -> bool:
        changes = cluster.server.events("node_state")[seen_count:]
        return any((change["node"], change["protocol"]) == (node, "imap") for change in changes)

    wait_until(is_noticed, 60.0, f"notice that {node} is away")


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Three Dovecots behind relays."""
    with FaultCluster.of_dovecots(3) as running:
        yield running


def test_the_home_dies_before_and_after_the_dot(cluster: FaultCluster) -> None:
    """Before the dot the copy goes to a secondary; after it the outcome is unknown and waits for that node alone. Back
    again, the node is searched, and all messages are at home once."""
    case = cluster.case()
    held = {}
    for step in STEPS:
        # More than the buffers of a connection: a small message is sent in one piece with its end.
        letter = case.letter("store1", size_bytes=8_000_000 if step == "body" else 0)
        hold = cluster.hold("store1", step, letter.mailboxes[0])
        held[step] = (letter, case.post(letter), hold)
        hold.wait()
    kill_noticed(cluster, "store1")
    for _, posting, hold in held.values():
        hold.cut()
        assert posting.wait().text.endswith("queued")
    before_dot = {mailbox for step in ("RCPT", "body") for mailbox in held[step][0].mailboxes}
    after_dot = {mailbox for step in ("dot", "answer") for mailbox in held[step][0].mailboxes}
    assert {hint.mailbox for hint in case.hints()} == before_dot
    assert {(row.mailbox, row.state, row.node) for row in case.rows()} == {
        (mailbox, "unknown", "store1") for mailbox in after_dot
    }
    assert case.check("home killed, still away").handed_off == 2
    cluster.dovecot("store1").start()
    case.settle()
    report = case.check("home killed, back again")
    assert (report.delivered, report.excused_duplicates) == (4, 0)
    assert all(len(letter.tries) == 1 for letter in case.letters)
    assert case.resolved(held["dot"][0])[-1] == "not found"
    assert case.resolved(held["answer"][0])[-1] == "found"


def test_the_holder_dies_while_it_gets_a_copy(cluster: FaultCluster) -> None:
    """It has stored the copy and cannot say so: the other secondary or the queue takes over at once, and the copy is
    expunged when it is back."""
    case = cluster.case()
    letter = case.letter("store2")
    others = ("store1", "store3")
    holds = {node: cluster.hold(node, "answer", "handoff") for node in others}
    with ExitStack() as away:
        away.enter_context(cluster.proxies["store2"].breaks_at_rcpt(letter.mailboxes[0]))
        posting = case.post(letter)
        reached = case.wait_for_hold(list(holds.values()))
        dead = next(node for node in others if holds[node] is reached)
        for hold in holds.values():
            if hold is not reached:
                hold.forget()
        kill_noticed(cluster, dead)
        reached.cut()
        assert posting.wait().text.endswith("queued")
        case.check("holder killed")
    cluster.dovecot(dead).start()
    case.settle()
    case.wait_until(lambda: not case.away(), "empty handoff mailboxes")
    report = case.check("holder killed, back again")
    assert (report.delivered, report.excused_duplicates, len(letter.tries)) == (1, 0, 1)
    assert {hint.state for hint in case.hints()} <= {"superseded", "expunged"}


@pytest.mark.parametrize("victim", ["home", "holder"])
def test_a_node_dies_in_the_middle_of_the_drain(cluster: FaultCluster, victim: str) -> None:
    """The home has the message, its answer is lost, or the holder cannot expunge its copy: in the end there is one."""
    case = cluster.case()
    letter = case.letter("store3")
    with cluster.proxies["store3"].breaks_at_rcpt(letter.mailboxes[0]):
        assert case.post(letter).wait().text.endswith("queued")
        holder = cluster.dovecot(case.hints()[0].holder)
        hold = cluster.hold("store3", "answer", letter.mailboxes[0])
    hold.wait(60.0)
    dead = "store3" if victim == "home" else holder.id
    kill_noticed(cluster, dead)
    if victim == "home":
        hold.cut()
    else:
        hold.go()
    cluster.dovecot(dead).start()
    case.settle()
    report = case.check(f"{victim} killed in the drain")
    assert (report.delivered, report.excused_duplicates) == (1, 0)
    assert not case.away()
