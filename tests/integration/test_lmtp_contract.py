"""What mailfront relies on when it delivers over LMTP, asked of real servers in every way they can be reached."""

import ssl
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
import uvloop

from mailfront.delivery.endpoint import NodeEndpoint
from mailfront.delivery.transaction import Delivery, LmtpTransaction
from mailfront.mail.envelope import BodyType, RecipientOptions
from mailfront.mail.outcome import Blame, Deferred, Delivered, Outcome
from tests.support.certificates import Authority, CertificateFiles
from tests.support.cyrus import CyrusNode
from tests.support.delivery import NODE, RecordingSink, delivery_to, endpoint_of, message, quick
from tests.support.demo_node import DemoNode
from tests.support.dovecot import HANDOFF_PASSWORD, HANDOFF_USER, DovecotNode

Nodes = tuple[DovecotNode, DovecotNode, DovecotNode]
NAMES = [f"u{uuid.uuid4().hex[:20]}" for _ in range(2_000)]
"""Mailboxes for all tests of this file: the demo node must know them beforehand."""
_unused_names = iter(NAMES)
PATIENT = quick(connect_timeout="5s", reply_timeout="10s", body_timeout="10s", final_timeout="30s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One way to one server. `messages` gives a mailbox as it is on the disk."""

    endpoint: NodeEndpoint
    messages: Callable[[str], Sequence[bytes]]
    tls_context: ssl.SSLContext | None = None

    def stored(self, user: str) -> list[bytes]:
        """The user's messages with CRLF line ends."""
        return [data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for data in self.messages(user)]


@pytest.fixture(scope="module")
def six() -> Iterator[DovecotNode]:
    """A Dovecot on ::1 that knows two users."""
    node = DovecotNode("contract6", host="::1", users=["anna", "bob"])
    node.start()
    yield node
    node.kill9()


@pytest.fixture(scope="module")
def demo_node(server_certificate: CertificateFiles) -> Iterator[DemoNode]:
    """A storage node of `mailfront demo`."""
    users = dict.fromkeys(NAMES, "secret")
    node = DemoNode("contract-demo", {**users, HANDOFF_USER: HANDOFF_PASSWORD}, tls=server_certificate)
    node.start()
    yield node
    node.stop()


WAYS = [
    "dovecot tcp",
    "dovecot starttls",
    "dovecot tls",
    "dovecot unix",
    "cyrus tcp",
    "cyrus unix",
    "demo tcp",
    "demo starttls",
    "demo unix",
]


@pytest.fixture(params=WAYS)
def peer(request: pytest.FixtureRequest, authority: Authority) -> Peer:
    """A server and a way to it."""
    server, way = request.param.split()
    if server == "cyrus":
        cyrus: CyrusNode = request.getfixturevalue("cyrus_node")
        where = cyrus.lmtp_unix if way == "unix" else (cyrus.host, cyrus.lmtp)
        return Peer(endpoint=endpoint_of(where), messages=cyrus.messages)
    if server == "demo":
        demo: DemoNode = request.getfixturevalue("demo_node")
        endpoint = {
            "tcp": endpoint_of((demo.host, demo.lmtp)),
            "starttls": endpoint_of((demo.host, demo.lmtp), tls="starttls"),
            "unix": endpoint_of(demo.lmtp_unix),
        }[way]
        return Peer(endpoint=endpoint, messages=demo.messages, tls_context=authority.client_context())
    nodes: Nodes = request.getfixturevalue("three_nodes")
    node = nodes[0]
    endpoint = {
        "tcp": endpoint_of((node.host, node.lmtp)),
        "starttls": endpoint_of((node.host, node.lmtp), tls="starttls"),
        "tls": endpoint_of((node.host, node.lmtp_tls), tls="implicit"),
        "unix": endpoint_of(node.lmtp_unix),
    }[way]
    return Peer(endpoint=endpoint, messages=node.messages, tls_context=authority.client_context())


def a_user() -> str:
    """A mailbox that no other test uses."""
    return next(_unused_names)


def a_body(text: bytes = b"Hello\r\n") -> bytes:
    """A message. It has a Date: Cyrus adds one that is missing, among the message's own lines."""
    head = b"Date: Mon, 2 Nov 2026 10:00:00 +0100\r\nFrom: a@example.org\r\nMessage-ID: <%s@example.org>\r\n\r\n"
    return head % uuid.uuid4().hex.encode() + text


def deliver(
    peer: Peer, *transactions: LmtpTransaction, sink: RecordingSink | None = None, at_once: bool = False
) -> list[tuple[Outcome, ...]]:
    """Deliver messages one after the other, or all at once, with one Delivery."""

    async def run() -> list[tuple[Outcome, ...]]:
        delivery = delivery_to(peer.endpoint, sink, settings=PATIENT, tls_context=peer.tls_context)
        try:
            if at_once:
                attempts = [delivery.start(NODE, transaction, slot_wait_s=30.0) for transaction in transactions]
                return [await attempt.result() for attempt in attempts]
            return [await delivery.start(NODE, each, slot_wait_s=1.0).result() for each in transactions]
        finally:
            await delivery.close()

    return uvloop.run(run())


def all_delivered(results: Sequence[tuple[Outcome, ...]]) -> bool:
    """Whether every mailbox of every message has it."""
    return all(isinstance(outcome, Delivered) for outcomes in results for outcome in outcomes)


def test_the_exact_message_is_stored(peer: Peer) -> None:
    """The node adds header lines of its own on top and keeps every byte below them: dots, 8-bit, long lines."""
    user = a_user()
    body = a_body(b".\r\n..\r\n.x\r\n\xc3\xa4\r\n" + b"y" * 3000 + b"\r\n.\r\n")
    results = deliver(peer, message(user, body=body, body_type=BodyType.EIGHTBITMIME))
    assert all_delivered(results)
    (stored,) = peer.stored(user)
    assert stored.endswith(body)


def test_a_large_message(peer: Peer) -> None:
    """Several megabytes with dots at line starts arrive unchanged."""
    user = a_user()
    body = a_body((b"." + b"z" * 74 + b"\r\n") * 40_000)
    assert all_delivered(deliver(peer, message(user, body=body)))
    (stored,) = peer.stored(user)
    assert stored.endswith(body)


def test_each_recipient_gets_one_copy_and_one_reply(peer: Peer) -> None:
    """Several mailboxes in one transaction: as many outcomes, in order, and one copy each."""
    users = [a_user() for _ in range(5)]
    results = deliver(peer, message(*users, body=a_body()))
    assert all_delivered(results)
    assert [len(peer.stored(user)) for user in users] == [1] * 5


def test_messages_follow_each_other_on_one_connection(peer: Peer) -> None:
    """Twenty messages without RSET between them, each found once."""
    user = a_user()
    bodies = [a_body() for _ in range(20)]
    assert all_delivered(deliver(peer, *(message(user, body=body) for body in bodies)))
    stored = peer.stored(user)
    assert len(stored) == 20
    assert all(sum(one.endswith(body) for one in stored) == 1 for body in bodies)


def test_many_at_once(peer: Peer) -> None:
    """Sixty messages over at most four connections, each found once."""
    users = [a_user() for _ in range(60)]
    assert all_delivered(deliver(peer, *(message(user, body=a_body()) for user in users), at_once=True))
    assert [len(peer.stored(user)) for user in users] == [1] * 60


def test_the_null_sender(peer: Peer) -> None:
    """A bounce is delivered with the null reverse-path."""
    user = a_user()
    assert all_delivered(deliver(peer, message(user, body=a_body(), reverse_path=None)))
    assert b"Return-Path: <>" in peer.stored(user)[0].replace(b"Return-path", b"Return-Path")


def test_nothing_is_said_that_the_node_does_not_offer(peer: Peer) -> None:
    """A message with every parameter is taken: what this node does not offer is left out."""
    user = a_user()
    options = RecipientOptions(notify="SUCCESS,DELAY", orcpt="rfc822;someone@example.edu")
    transaction = message(
        user, body=a_body(), body_type=BodyType.EIGHTBITMIME, smtputf8=True, options=options, dsn=("HDRS", "id+2B1")
    )
    assert all_delivered(deliver(peer, transaction))


def test_a_probe(peer: Peer) -> None:
    """A probe finds LMTP and the handoff account well, and leaves no message."""

    async def run() -> None:
        delivery = delivery_to(peer.endpoint, settings=PATIENT, tls_context=peer.tls_context)
        before = len(peer.stored(HANDOFF_USER))
        result = await delivery.probe(NODE, HANDOFF_USER)
        assert (result.lmtp_ok, result.handoff_ok, result.text) == (True, True, "")
        assert result.extensions.pipelining
        await delivery.close()
        assert len(peer.stored(HANDOFF_USER)) == before

    uvloop.run(run())


def test_detail_goes_to_the_same_mailbox(three_nodes: Nodes) -> None:
    """user+detail is user's mailbox."""
    node, user = three_nodes[0], a_user()
    peer = Peer(endpoint=endpoint_of((node.host, node.lmtp)), messages=node.messages)
    assert all_delivered(deliver(peer, message(f"{user}+list", body=a_body())))
    assert len(peer.stored(user)) == 1


def test_over_quota_is_the_mailboxes_trouble(three_nodes: Nodes) -> None:
    """A full mailbox is deferred by the mailbox, in the node's words, and the others get their copy."""
    node, user = three_nodes[1], a_user()
    peer = Peer(endpoint=endpoint_of((node.host, node.lmtp)), messages=node.messages)
    fill = [message("tiny38", body=a_body(b"x" * 5_000 + b"\r\n")) for _ in range(3)]
    full = deliver(peer, *fill, message("tiny38", user, body=a_body()))[-1]
    assert isinstance(full[0], Deferred)
    assert full[0].blame is Blame.MAILBOX
    assert str(full[0].reply).startswith("452 4.2.2")
    assert isinstance(full[1], Delivered)


def test_over_ipv6_and_an_unknown_user(six: DovecotNode) -> None:
    """On ::1: known users get their copy, the unknown one is deferred with an alarm and told to the judge of nodes."""
    sink = RecordingSink()
    peer = Peer(endpoint=endpoint_of((six.host, six.lmtp)), messages=six.messages)
    (outcomes,) = deliver(peer, message("anna", "nobody-here", "bob", body=a_body()), sink=sink)
    assert isinstance(outcomes[0], Delivered)
    assert isinstance(outcomes[2], Delivered)
    assert isinstance(outcomes[1], Deferred)
    assert "disagree" in outcomes[1].alarm
    assert ("unknown_user", "nobody-here") in sink.seen


def _delivery(node: DovecotNode, sink: RecordingSink) -> Delivery:
    return delivery_to(endpoint_of((node.host, node.lmtp)), sink, settings=quick(reply_timeout="500ms"))


def test_a_node_that_hangs_and_comes_back(three_nodes: Nodes) -> None:
    """A frozen node is the node's trouble, and its mail goes on when it thaws."""
    node, sink = three_nodes[2], RecordingSink()

    async def run() -> None:
        delivery = _delivery(node, sink)
        await delivery.start(NODE, message(a_user(), body=a_body()), slot_wait_s=1.0).result()
        node.hang()
        (outcome,) = await delivery.start(NODE, message(a_user(), body=a_body()), slot_wait_s=1.0).result()
        assert isinstance(outcome, Deferred)
        assert outcome.blame is Blame.NODE
        node.resume()
        (outcome,) = await delivery.start(NODE, message(a_user(), body=a_body()), slot_wait_s=1.0).result()
        assert isinstance(outcome, Delivered)
        await delivery.close()

    uvloop.run(run())
    assert sink.kinds == ["succeeded", "message_failed", "succeeded"]


def test_a_node_that_is_killed_and_started_again(three_nodes: Nodes) -> None:
    """After a kill the pooled connection gets one fresh try, which is refused; after the start mail goes on."""
    node, sink = three_nodes[2], RecordingSink()

    async def run() -> None:
        delivery = _delivery(node, sink)
        await delivery.start(NODE, message(a_user(), body=a_body()), slot_wait_s=1.0).result()
        node.kill9()
        (outcome,) = await delivery.start(NODE, message(a_user(), body=a_body()), slot_wait_s=1.0).result()
        assert isinstance(outcome, Deferred)
        assert outcome.blame is Blame.NODE
        node.start()
        (outcome,) = await delivery.start(NODE, message(a_user(), body=a_body()), slot_wait_s=1.0).result()
        assert isinstance(outcome, Delivered)
        await delivery.close()

    uvloop.run(run())
    assert sink.kinds == ["succeeded", "connect_failed", "succeeded"]
