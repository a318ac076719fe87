"""A worker or the keeper dies, once or again and again: it is started again with back-off, and meanwhile mail goes on.

Real Dovecot nodes behind relays.
"""

import os
import signal
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.support.fault_cluster import FaultCluster
from tests.support.processes import wait_until
from tests.support.senders import Letter, Stream

CRASHES_COUNT = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Two Dovecots behind relays."""
    with FaultCluster.of_dovecots(2) as running:
        yield running


def kill(cluster: FaultCluster, pid: int) -> None:
    """kill -9, and wait until everything is there again."""
    os.kill(pid, signal.SIGKILL)
    cluster.server.wait_for_parts(other_than=[pid])


def test_a_keeper_that_crashes_again_and_again(cluster: FaultCluster) -> None:
    """Mail for one node that is up needs no keeper: each letter is acknowledged at its first try. The waits before the
    restarts grow, and each death is one event."""
    case = cluster.case()
    mailboxes = [cluster.fresh_mailbox(f"store{1 + number % 2}") for number in range(40)]

    def next_letter() -> Letter:
        return case.letter_to(mailboxes[len(case.letters) % len(mailboxes)])

    workers = cluster.server.workers()
    with Stream(cluster.server.smtp, next_letter, clients=2) as stream:
        for _ in range(CRASHES_COUNT):
            count = stream.answered_count
            kill(cluster, cluster.server.keeper_pid())
            wait_until(lambda count=count: stream.answered_count > count + 10, 60.0, "the load")  # type: ignore[misc]
    assert cluster.server.workers() == workers
    assert all(len(letter.tries) == 1 for letter in case.letters)
    assert case.check("keeper crashes").delivered == len(case.letters)
    deaths = case.events("process_died")
    assert [death["name"] for death in deaths] == ["keeper"] * CRASHES_COUNT
    assert {death["signal"] for death in deaths} == {signal.SIGKILL}
    assert [death["restarts_count"] for death in deaths] == [1, 2, 3]
    # 0.2 s, 0.4 s, 0.8 s, each moved by up to a fifth.
    assert all(late["restart_in_s"] >= early["restart_in_s"] for early, late in pairwise(deaths))


def test_the_restarted_keeper_is_the_whole_keeper(cluster: FaultCluster) -> None:
    """It takes what the workers must keep, answers the administrator, and brings home what was handed off."""
    kill(cluster, cluster.server.keeper_pid())
    cluster.wait_until_well()
    case = cluster.case()
    letter = case.letter("store1", "store2")
    with cluster.proxies["store1"].breaks_at_rcpt(letter.mailboxes[0]):
        assert case.post(letter).wait().text.endswith("queued")
        assert cluster.server.cli_json("queue", "stats")["total"] == 1
    case.settle()
    assert case.check("kept by the new keeper").delivered == 2


def test_a_worker_that_dies(cluster: FaultCluster) -> None:
    """The other one serves on; who was cut off sends again; the new one gets its share of the connections."""
    case = cluster.case()
    mailboxes = [cluster.fresh_mailbox(f"store{1 + number % 2}") for number in range(40)]
    victim, other = cluster.server.workers()

    def next_letter() -> Letter:
        return case.letter_to(mailboxes[len(case.letters) % len(mailboxes)])

    with Stream(cluster.server.smtp, next_letter, clients=4) as stream:
        wait_until(lambda: stream.answered_count > 20, 60.0, "the load")
        kill(cluster, victim)
        names = [event["name"] for event in case.events("process_died")]
        assert len(names) == 1
        count = len(case.events("connection"))
        wait_until(
            lambda: any(event["process"] == names[0] for event in case.events("connection")[count:]),
            60.0,
            "connections to the new worker",
        )
    assert other in cluster.server.workers()
    case.settle()
    report = case.check("worker crash")
    assert report.acknowledged == report.sent
