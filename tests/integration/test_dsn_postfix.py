"""Notices for mail that a real Postfix sent: they come back to it, and others' parsers read them.

Postfix sends to mailfront and is its smarthost; Dovecot keeps the mailboxes. `ghost` and the like are people whom the
directory knows and Dovecot does not, with `unknown_at_node = "refuse"`: what is for them fails after the message was
accepted for somebody else.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.outside import Outside
from tests.support.ports import free_port
from tests.support.processes import wait_until

ANA, GHOST, GHOSTS = "ana@example.edu", "ghost@example.edu", ("spook@example.edu", "shade@example.edu")
JOSE = "josé@example.edu"
NAMES = ("ana", "tiny", "postmaster", "bounces")
USERS: list[dict[str, object]] = [{"address": f"{name}@example.edu", "mailbox": name} for name in NAMES]
USERS += [{"address": address, "mailbox": address.partition("@")[0]} for address in (GHOST, *GHOSTS)]
USERS += [{"address": JOSE, "mailbox": "josé"}]
USERS += [{"address": "moved@example.edu", "mailbox": "moved", "forward": "moved@far.example"}]
USERS += [{"address": "both@example.edu", "mailbox": "both", "forward": ["one@far.example", "two@far.example"]}]


@dataclass(frozen=True)
class World:
    """All servers."""

    front: MailfrontServer
    node: DovecotNode
    outside: Outside

    def send(
        self,
        *recipients: str,
        sender: str,
        body: bytes = b"Subject: hello\r\n\r\nhello there\r\n",
        options: tuple[str, ...] = (),
        wishes: tuple[str, ...] = (),
    ) -> None:
        """Have Postfix send a message."""
        self.outside.postfix.inject(body, sender=sender, recipients=recipients, options=options, wishes=wishes)

    def empty(self) -> None:
        """Wait until nothing is left in the queue."""
        wait_until(lambda: self.front.cli_json("queue", "stats")["total"] == 0, 40.0, "an empty queue")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """All servers, started."""
    port = free_port()
    node = DovecotNode("store1", users=[*NAMES, "handoff"], quotas={"tiny": "*:storage=10K"})
    with Outside(front_port=port, domain="example.edu") as outside:
        node.launch()
        front = MailfrontServer(
            [node],
            USERS,
            listen=[{"role": "smtp", "address": f"127.0.0.1:{port}", "tls": "off", "dsn": True}],
            settings={
                "storage": {"secondaries": 0, "unknown_at_node": "refuse"},
                "outbound": {"smarthost": outside.smarthost, "tls": "off"},
                "queue": {"retry": ["1s"], "double_bounce": "bounces@example.edu"},
            },
        )
        node.wait_ready()
        front.start()
        yield World(front, node, outside)
        front.stop()
        node.kill9()


def test_a_failure_comes_back_to_postfix_and_a_foreign_parser_reads_it(world: World) -> None:
    """One of two recipients fails after the message was accepted: the sender hears of that one, with the node's word,
    his own ENVID and ORCPT, and his whole message; the notice has the null sender."""
    world.send(
        ANA, GHOST, sender="her@out.example", options=("RET=FULL", "ENVID=order+2B12"), wishes=("NOTIFY=FAILURE",)
    )
    notice = world.outside.arrived("Action: failed", "her@out.example")
    assert notice.failures == {GHOST.encode()}
    assert notice.transaction.mail.startswith("MAIL FROM:<>")
    assert b"Original-Envelope-Id: order+12" in notice.body
    assert f"Original-Recipient: rfc822; {GHOST}".encode() in notice.body
    assert b"Diagnostic-Code: smtp; 550 5.1.1" in notice.body
    assert "There is no such mailbox" in notice.text
    assert notice.kinds == ["text/plain", "message/delivery-status", "message/rfc822"]
    assert b"hello there" in notice.body
    assert any(b"hello there" in each for each in world.node.messages("ana"))
    alarms = world.front.cli_json("health")["alarms"]
    assert "storage.unknown_at_node" in {alarm["name"] for alarm in alarms}


def test_several_failures_are_one_notice_in_the_language_of_the_message(world: World) -> None:
    """Two of three fail: one notice names both; Spanish is answered in Spanish; RET=HDRS keeps the text."""
    body = b"Subject: hola\r\nContent-Language: es\r\n\r\ntexto privado\r\n"
    world.send(ANA, *GHOSTS, sender="el@out.example", body=body, options=("RET=HDRS",), wishes=("NOTIFY=FAILURE",))
    notice = world.outside.arrived("Action: failed", "el@out.example")
    assert notice.failures == {address.encode() for address in GHOSTS}
    assert "no se pudo entregar" in notice.text
    assert notice.kinds[2] == "text/rfc822-headers"
    assert b"texto privado" not in notice.body


def test_a_large_message_is_returned_as_its_header(world: World) -> None:
    """More than 50 KiB: the header only, though the sender asked for all."""
    body = b"Subject: large\r\n\r\n" + b"0123456789 the quick brown fox\r\n" * 2000
    world.send(ANA, GHOST, sender="big@out.example", body=body, options=("RET=FULL",))
    notice = world.outside.arrived("Action: failed", "big@out.example")
    assert notice.kinds[2] == "text/rfc822-headers"
    assert len(notice.body) < 10_000


def test_never_is_never(world: World) -> None:
    """NOTIFY=NEVER: the failure is an event, and no notice."""
    world.send(ANA, GHOST, sender="quiet@out.example", wishes=("NOTIFY=NEVER",))
    (event,) = wait_until(
        lambda: [each for each in world.front.events("notice") if each["recipient"] == "quiet@out.example"],
        60.0,
        "the event",
    )
    assert (event["notice"], event["reason"]) == ("", "not asked for")
    assert world.outside.found("", "quiet@out.example") == []


def test_success_of_mail_that_waited(world: World) -> None:
    """The node was away, the mail waited and arrived: who asked for it hears `delivered`, once."""
    world.node.kill9()
    world.send(ANA, sender="ask@out.example", options=("ENVID=q7",), wishes=("NOTIFY=SUCCESS,FAILURE",))
    wait_until(lambda: world.front.cli_json("queue", "stats")["total"] == 1, 60.0, "the mail in the queue")
    world.node.start()
    notice = world.outside.arrived("Action: delivered", "ask@out.example")
    assert b"Status: 2." in notice.body
    assert b"Original-Envelope-Id: q7" in notice.body
    assert notice.failures == set()
    world.empty()


def test_an_international_address(world: World) -> None:
    """Dovecot's LMTP has no SMTPUTF8: 5.6.7 for the one who needs it, in a notice of RFC 6533."""
    body = "Subject: señal\r\n\r\n¡hola!\r\n".encode()
    world.send("ana@example.edu", JOSE, sender="nino@out.example", body=body, options=("SMTPUTF8", "BODY=8BITMIME"))
    notice = world.outside.arrived("Action: failed", "nino@out.example")
    assert f"Final-Recipient: utf-8; {JOSE}".encode() in notice.body
    assert b"report-type=global-delivery-status" in notice.body
    assert "message/global-delivery-status" in notice.kinds


def test_what_has_no_sender_goes_to_double_bounce(world: World) -> None:
    """A bounce that Postfix sent on fails here: nobody outside hears of it, the administrator's mailbox does."""
    before = len(world.outside.behind.received())
    world.send(ANA, GHOST, sender="", body=b"Subject: a bounce of others\r\n\r\nx\r\n")
    (found,) = wait_until(lambda: world.node.messages("bounces"), 40.0, "the double bounce")
    assert b"Action: failed" in found
    assert GHOST.encode() in found
    world.empty()
    assert len(world.outside.behind.received()) == before


def test_a_redirection_to_a_forward_leaves_by_postfix_once_for_each_place(world: World) -> None:
    """What waits for a node that is away goes where an administrator sends it: two places outside, one copy each, the
    sender kept; the mailbox that it was for gets nothing when its node returns."""
    world.node.kill9()
    try:
        body = b"Subject: redirected\r\n\r\nplease redirect\r\n"
        world.send(ANA, sender="pilot@out.example", body=body)
        wait_until(lambda: world.front.cli_json("queue", "stats")["total"] == 1, 60.0, "the mail in the queue")
        done = world.front.cli_json("queue", "redirect", "--recipient", ANA, "--to", "both@example.edu")
        assert (done["matched"], done["changed"]) == (1, 1)
        for place in ("one@far.example", "two@far.example"):
            found = world.outside.arrived("please redirect", place)
            assert found.transaction.mail.startswith("MAIL FROM:<pilot@out.example>")
            assert b"Delivered-To: both@example.edu\r\n" in found.body
        world.empty()
    finally:
        world.node.start()
    assert [each for each in world.node.messages("ana") if b"please redirect" in each] == []


def test_late_mail_is_warned_about_once_and_then_given_up(world: World) -> None:
    """A full mailbox with short times, end to end: `delayed` comes back to Postfix, then `failed`, and the end."""
    world.front.change({"queue": {"lifetime": "12s", "warn_after": "3s", "warn_networks": ["127.0.0.0/8"]}})
    assert world.front.reload()
    filling = b"Subject: fill\r\n\r\n" + b"0123456789 the quick brown fox\r\n" * 250
    world.send("tiny@example.edu", sender="fill@out.example", body=filling)
    wait_until(lambda: world.node.messages("tiny"), 60.0, "the first message")
    world.send(ANA, "tiny@example.edu", sender="late@out.example", body=filling)
    warning = world.outside.arrived("Action: delayed", "late@out.example")
    assert warning.failures == set()
    assert "You need not send it again" in warning.text
    failure = world.outside.arrived("Action: failed", "late@out.example")
    assert failure.failures == {b"tiny@example.edu"}
    assert "The mailbox is full" in failure.text
    world.empty()
    assert len(world.outside.found("Action:", "late@out.example")) == 2


def test_a_relay_without_dsn_is_answered_for(world: World) -> None:
    """The next server offers no DSN: who asked for success hears `relayed` from us, once, and nothing is said twice."""
    behind = world.outside.behind
    world.front.change({"outbound": {"smarthost": f"{behind.host}:{behind.port}"}})
    assert world.front.reload()
    world.send("moved@example.edu", sender="keen@out.example", options=("ENVID=k1",), wishes=("NOTIFY=SUCCESS",))
    notice = world.outside.arrived("Action: relayed", "keen@out.example")
    assert notice.transaction.mail.startswith("MAIL FROM:<>")
    assert f"Reporting-MTA: dns; {world.front.document['server']['hostname']}".encode() in notice.body
    assert b"Final-Recipient: rfc822; moved@far.example" in notice.body
    assert b"Original-Envelope-Id: k1" in notice.body
    assert notice.failures == set()
    assert len(world.outside.found("hello there", "moved@far.example")) == 1
    world.empty()
    assert len(world.outside.found("Action:", "keen@out.example")) == 1
