"""SIGHUP while clients send, again and again: no connection is refused, no client has to send twice, no mail is lost.

Real Dovecot nodes.
"""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.fault_cluster import FaultCluster
from tests.support.open_message import OpenMessage
from tests.support.processes import wait_until
from tests.support.senders import Letter, Stream

RELOADS_COUNT = 2
HOMES = ("store1", "store2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Two Dovecots."""
    with FaultCluster.of_dovecots(2, with_proxies=False) as running:
        yield running


def test_reloads_under_load(cluster: FaultCluster) -> None:
    """No connection is refused or ended before its letter is answered, and a letter for one home is acknowledged at its
    first try. One for two homes may hear 451 while the keeper changes: the queue could not keep what a home refuses."""
    case = cluster.case()
    mailboxes = [cluster.fresh_mailbox(home) for _ in range(50) for home in HOMES]

    def next_letter() -> Letter:
        number = len(case.letters)
        chosen = [mailboxes[(number + step) % len(mailboxes)] for step in range(1 + number % 2)]
        return case.letter_to(*chosen, size_bytes=300_000 if number % 10 == 0 else 0)

    with Stream(cluster.server.smtp, next_letter, clients=2) as stream:
        for number in range(RELOADS_COUNT):
            count = stream.answered_count
            wait_until(lambda count=count: stream.answered_count >= count + 20, 60.0, "the load")  # type: ignore[misc]
            workers = cluster.server.workers()
            cluster.server.change({"intake": {"deadline": f"{5 + number}s"}})
            assert cluster.server.reload()
            assert not set(cluster.server.workers()) & set(workers)
    for letter in case.letters:
        assert letter.acknowledged
        assert len(letter.tries) == 1 or len(letter.mailboxes) > 1, letter
        assert {attempt.code for attempt in letter.tries} <= {250, 451}, letter
        assert {code for attempt in letter.tries for code, _ in attempt.refused.values()} <= {451}, letter
    report = case.check("reloads under load")
    assert (report.delivered, report.excused_duplicates) == (report.sent, 0)


@pytest.mark.parametrize("workers", [1, 3])
def test_another_number_of_workers(cluster: FaultCluster, workers: int) -> None:
    """Every connection finds a worker, however many sockets there were before."""
    cluster.server.change({"server": {"workers": workers}})
    assert cluster.server.reload()
    assert len(cluster.server.workers()) == workers
    case = cluster.case()
    for _ in range(20):
        assert case.send(case.letter("store1")).startswith("250")
    assert case.check(f"{workers} workers").delivered == 20


def test_a_message_under_way_stays_with_its_worker(cluster: FaultCluster) -> None:
    """A client that was in the middle of its message when the reload came finishes it, then it is told 421."""
    case = cluster.case()
    letter = case.letter("store1", "store2")
    with OpenMessage(cluster.server.smtp, letter) as message:
        assert cluster.server.reload()
        assert message.finish().code == 250
        assert message.next_reply()[0] == 421
    assert case.check("a message under way").delivered == 2


def test_a_reload_while_a_crashed_worker_is_being_restarted(cluster: FaultCluster) -> None:
    """Nothing of the old configuration is left over: the processes are those in force and no others."""
    server = cluster.server

    def starts(name: str) -> int:
        return sum(event["name"].startswith(name) for event in server.events("process_started"))

    victim, keepers, reloads = server.workers()[0], starts("keeper"), len(server.events("config_reloaded"))
    os.kill(server.process.pid, signal.SIGHUP)
    wait_until(lambda: starts("keeper") > keepers, 60.0, "the next keeper")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(server.events("config_reloaded")) > reloads, 60.0, "the end of the reload")
    parts = {server.process.pid, server.keeper_pid(), *server.workers()}
    try:
        wait_until(lambda: set(server.process.members()) == parts, 10.0, "the old workers' end")
    except TimeoutError as error:
        raise AssertionError(f"{error}; {parts} should be all of {server.process.members()}") from None
