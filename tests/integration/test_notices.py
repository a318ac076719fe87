"""Senders hear what became of their mail: by a real Postfix outside, and in a mailbox at home."""

import email
import smtplib
from collections.abc import Iterator

import pytest
from flufl.bounce import all_failures

from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.postfix import PostfixSender, SmtpSink
from tests.support.processes import wait_until

OUTSIDE, INSIDE = "friend@out.example", "ben@example.edu"
# Mailboxes of their own: other tests deliver to the same nodes.
USERS = [{"address": f"{name}@example.edu", "mailbox": f"notices-{name}"} for name in ("ana", "ben", "postmaster")]


@pytest.fixture
def sink() -> Iterator[SmtpSink]:
    with SmtpSink(dump=True) as running:
        yield running


@pytest.fixture
def front(three_nodes: tuple[DovecotNode, ...], sink: SmtpSink) -> Iterator[MailfrontServer]:
    with PostfixSender(sink.host, sink.port) as smarthost:
        server = MailfrontServer(
            three_nodes[:1],
            USERS,
            settings={
                "storage": {"secondaries": 0},
                "outbound": {"smarthost": f"{smarthost.host}:{smarthost.port}", "tls": "off"},
            },
        )
        server.start()
        yield server
        server.stop()


def _send(front: MailfrontServer, sender: str) -> None:
    with smtplib.SMTP(*front.smtp, timeout=30) as client:
        client.sendmail(sender, ["ana@example.edu"], b"Subject: to ana\r\nMessage-ID: <m1@x>\r\n\r\nhello\r\n")


def test_a_bounced_message_is_told_outside_and_at_home(
    front: MailfrontServer, three_nodes: tuple[DovecotNode, ...], sink: SmtpSink
) -> None:
    """Given up while the node is down: one notice leaves through the smarthost, the other waits for the sender's own
    home and arrives there; each names the address for a parser that others wrote; nothing is left in the queue."""
    node = three_nodes[0]
    node.kill9()
    _send(front, OUTSIDE)
    _send(front, INSIDE)
    assert front.cli_json("queue", "stats")["total"] == 2
    bounced = front.cli_json("queue", "bounce", "--recipient", "ana@example.edu", "--reason", "left the university")
    assert (bounced["changed"], bounced["verb"]) == (2, "bounce")
    (outside,) = wait_until(sink.messages, 60.0, "the notice outside")
    assert b"MAIL FROM:<>" in outside or b"X-Mail-Args: <>" in outside
    assert all_failures(email.message_from_bytes(outside))[1] == {b"ana@example.edu"}
    node.start()
    (inside,) = wait_until(lambda: node.messages("notices-ben"), 60.0, "the notice at home")
    assert all_failures(email.message_from_bytes(inside))[1] == {b"ana@example.edu"}
    assert b"the administrator of this mail system has given up the delivery" in inside
    assert b"left the university" not in inside
    wait_until(lambda: front.cli_json("queue", "stats")["total"] == 0, 60.0, "an empty queue")
    assert node.messages("notices-ana") == []
    told = front.events("notice")
    assert {(event["recipient"], event["kind"]) for event in told} == {(OUTSIDE, "failed"), (INSIDE, "failed")}


def test_a_smarthost_that_is_away_keeps_the_notice_waiting(
    three_nodes: tuple[DovecotNode, ...],
) -> None:
    """Nobody listens there: the notice stays in the queue, and `queue list` says why."""
    server = MailfrontServer(
        three_nodes[:1],
        USERS,
        settings={"storage": {"secondaries": 0}, "outbound": {"smarthost": "127.0.0.1:1", "tls": "off"}},
    )
    server.start()
    try:
        three_nodes[0].kill9()
        _send(server, OUTSIDE)
        server.cli_json("queue", "bounce", "--everything")

        def deferred() -> list[dict[str, object]]:
            rows = server.cli_json("queue", "list")
            return [row for row in rows if row["home"] == "@relay" and "127.0.0.1:1" in row["last_reply"]]

        (row,) = wait_until(deferred, 60.0, "the failed attempt")
        assert (row["recipient"], row["state"]) == (OUTSIDE, "deferred")
    finally:
        server.stop()
