"""SIGTERM while clients send: what was begun is answered, what was answered is somewhere, and the next start goes on.

Real Dovecot nodes behind relays. The clients send again until they have a 250.
"""

import signal
import smtplib
from collections.abc import Iterator

import pytest

from tests.support.fault_cluster import Case, FaultCluster
from tests.support.open_message import OpenMessage
from tests.support.processes import wait_until
from tests.support.senders import Letter, Stream

HOMES = ("store1", "store2", "store3")


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Three Dovecots behind relays."""
    with FaultCluster.of_dovecots(3) as running:
        yield running


def load(case: Case) -> Stream:
    """Clients that send to one, two or three homes, by turns, with a large message now and then."""

    def next_letter() -> Letter:
        number = len(case.letters)
        return case.letter(*HOMES[number % 3 :], size_bytes=300_000 if number % 10 == 0 else 0)

    return Stream(case.cluster.server.smtp, next_letter)


def test_a_stop_under_load_loses_nothing(cluster: FaultCluster) -> None:
    """Every final dot that was sent before the end has its reply; so nothing is there twice, and nothing is missing."""
    case = cluster.case()
    with load(case) as stream:
        wait_until(lambda: stream.answered_count >= 40, 60.0, "the load")
        assert cluster.server.stop() == 0
        before = stream.answered_count
        cluster.server.start()
        wait_until(lambda: stream.answered_count >= before + 20, 60.0, "the load after the start")
    assert all(letter.acknowledged for letter in case.letters)
    assert not [attempt for letter in case.letters for attempt in letter.tries if attempt.unanswered]
    case.settle()
    report = case.check("stop under load")
    assert (report.delivered, report.excused_duplicates) == (report.sent, 0)


def test_a_stop_waits_for_an_answer_that_is_due(cluster: FaultCluster) -> None:
    """A node takes longer than the client's deadline to answer: the client is told `queued`, the server ends when the
    node has answered, and there is nothing left to do."""
    case = cluster.case()
    letter = case.letter("store1")
    hold = cluster.hold("store1", "answer", letter.mailboxes[0])
    posting = case.post(letter)
    hold.wait()
    cluster.server.process.send_signal(signal.SIGTERM)
    assert posting.wait().text.endswith("queued")
    assert [(row.state, row.node) for row in case.rows()] == [("active", "store1")]
    assert cluster.server.process.running
    hold.go()
    assert cluster.server.stop() == 0
    assert not case.rows()
    cluster.server.start()
    report = case.check("stop with an answer outstanding")
    assert (report.delivered, report.excused_duplicates) == (1, 0)


def test_a_client_in_the_middle_of_a_message_may_finish_it(cluster: FaultCluster) -> None:
    """An idle client is told 421 at once; one whose message is under way gets its 250 first."""
    case = cluster.case()
    letter = case.letter("store2")
    with smtplib.SMTP(*cluster.server.smtp, timeout=20) as idle, OpenMessage(cluster.server.smtp, letter) as message:
        idle.ehlo("client.example.org")
        cluster.server.process.send_signal(signal.SIGTERM)
        assert idle.getreply()[0] == 421
        idle.close()
        assert message.finish().code == 250
        assert message.next_reply()[0] == 421
    assert cluster.server.stop() == 0
    cluster.server.start()
    assert case.check("a message under way").delivered == 1
