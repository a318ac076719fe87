"""Clients that go away, or half away, after the final dot: what they sent is committed all the same."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.fault_cluster import Case, FaultCluster
from tests.support.senders import DOMAIN, Letter, Try


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Two Dovecots behind relays; a reply is due after two seconds."""
    with FaultCluster.of_dovecots(2, settings={"intake": {"deadline": "2s"}}) as running:
        yield running


@contextmanager
def sent_to_the_dot(cluster: FaultCluster, letter: Letter) -> Iterator[socket.socket]:
    """A client in the moment after its final dot."""
    with socket.create_connection(cluster.server.smtp, timeout=20.0) as client, client.makefile("rb") as replies:
        assert replies.readline().startswith(b"220")
        envelope = ["HELO client.example.org", "MAIL FROM:<sender@example.org>"]
        envelope += [f"RCPT TO:<{mailbox}@{DOMAIN}>" for mailbox in letter.mailboxes]
        for line in (*envelope, "DATA"):
            client.sendall(f"{line}\r\n".encode())
            assert replies.readline()[:1] in (b"2", b"3")
        client.sendall(letter.message() + b".\r\n")
        yield client


def left_alone(letter: Letter) -> None:
    """Write down that the client sent the final dot and got no reply."""
    letter.tries.append(Try(0, "", "answer"))


def test_a_client_that_half_closes_gets_its_reply(cluster: FaultCluster) -> None:
    """The sending side is closed with the final dot; the 250 still arrives, and means what it says."""
    case = cluster.case()
    letter = case.letter("store1", "store2")
    hold = cluster.hold("store1", "answer", letter.mailboxes[0])
    with sent_to_the_dot(cluster, letter) as client:
        client.shutdown(socket.SHUT_WR)
        hold.wait()
        hold.go()
        answer = client.recv(1000).decode()
    assert answer.startswith("250 ")
    letter.tries.append(Try(250, answer, "answer"))
    case.settle()
    assert case.check("half-closed").delivered == 2


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_stops_nothing(cluster: FaultCluster, how: str) -> None:
    """One mailbox is delivered, one is past its dot at the deadline and one is handed off: nobody hears of it, and
    each has one copy in the end."""
    case = cluster.case()
    letter = case.letter("store1", "store1", "store2")
    late = cluster.hold("store1", "answer", letter.mailboxes[0])
    with cluster.proxies["store2"].breaks_at_rcpt(letter.mailboxes[2]):
        with sent_to_the_dot(cluster, letter) as client:
            late.wait()
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        left_alone(letter)
        wait_until_answered(case)
        assert {(row.mailbox, row.state) for row in case.rows()} == {(name, "active") for name in letter.mailboxes[:2]}
        assert [hint.mailbox for hint in case.hints()] == [letter.mailboxes[2]]
    late.go()
    case.settle()
    report = case.check(f"client left by {how}")
    assert (report.delivered, report.delivered_unacknowledged, report.excused_duplicates) == (3, 3, 0)


def wait_until_answered(case: Case) -> None:
    """Wait until the front end has made up its mind about the case's only message."""
    answers = case.wait_until(case.answers, "the message event")
    assert [event["result"] for event in answers] == ["queued"]
