"""kill -9 of the supervisor, and of every process at once, with messages at every step; then a start.

Real Dovecot nodes behind relays that stop a message at its step.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.fault_cluster import FaultCluster
from tests.support.holding_proxy import Hold, Step
from tests.support.processes import wait_until
from tests.support.senders import Letter, Posting

STEPS: tuple[Step, ...] = ("RCPT", "body", "dot", "answer")


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Three Dovecots behind relays; a reply is due after two seconds."""
    with FaultCluster.of_dovecots(3, settings={"intake": {"deadline": "2s"}}) as running:
        yield running


def test_without_its_supervisor_the_others_finish_and_end(cluster: FaultCluster) -> None:
    """Messages that were under way are answered, then all processes end by themselves, and a start goes on."""
    case = cluster.case()
    held: list[tuple[Letter, Posting, Hold]] = []
    for step in STEPS:
        letter = case.letter("store1")
        hold = cluster.hold("store1", step, letter.mailboxes[0])
        held.append((letter, case.post(letter, retries=False), hold))
        hold.wait()
    cluster.server.kill9_supervisor()
    for _, posting, hold in held:
        hold.go()
        assert posting.wait().ok
    wait_until(lambda: not cluster.server.process.members(), 10.0, "the end of keeper and workers")
    cluster.server.start()
    case.settle()
    report = case.check("supervisor killed")
    assert (report.delivered, report.excused_duplicates) == (4, 0)


def test_everything_dies_at_once(cluster: FaultCluster) -> None:
    """What had a 250 is at home once: queued, active, and handed off. What had none is sent again."""
    case = cluster.case()
    # In the queue, and its next attempt under way.
    queued = case.letter("store2")
    first = cluster.hold("store2", "dot", queued.mailboxes[0])
    posting = case.post(queued)
    first.wait()
    again = cluster.hold("store2", "dot", queued.mailboxes[0])
    first.cut()
    assert posting.wait().text.endswith("queued")
    # Past its dot when the reply was due.
    late = case.letter("store3")
    answer = cluster.hold("store3", "answer", late.mailboxes[0])
    assert case.send(late).endswith("queued")
    # In the handoff mailbox of a secondary.
    away = case.letter("store1")
    on_the_way: list[tuple[Letter, Posting, Hold]] = []
    with ExitStack() as broken:
        broken.enter_context(cluster.proxies["store1"].breaks_at_rcpt(away.mailboxes[0]))
        assert case.send(away).endswith("queued")
        assert len(case.hints()) == 1
        for step in STEPS:
            letter = case.letter("store1")
            hold = cluster.hold("store1", step, letter.mailboxes[0])
            on_the_way.append((letter, case.post(letter), hold))
            hold.wait()
        again.wait()
        assert sorted(row.state for row in case.rows()) == ["active", "active"]
        cluster.server.kill9_all()
    for hold in (again, answer, *(hold for _, _, hold in on_the_way)):
        hold.cut()
    cluster.server.start()
    for _, posting, _ in on_the_way:
        assert posting.wait().ok
    case.settle()
    report = case.check("power cut")
    assert report.delivered == len(case.letters)
    assert report.excused_duplicates == 1  # the client at the step "answer" got no reply and sent again
    assert sum(case.copies(on_the_way[-1][0]).values()) == 2
    assert (case.resolved(queued)[-1], case.resolved(late)[-1]) == ("not found", "found")
