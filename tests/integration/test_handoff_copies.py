"""A copy in a handoff mailbox comes back byte for byte, whatever kind of server held it."""

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mailfront.base.ids import MessageId, new_message_id
from mailfront.base.secret import Secret
from mailfront.delivery.handoff_block import HandoffEnvelope, HandoffRecipient, write_block
from mailfront.delivery.transaction import Delivery, LmtpRecipient, LmtpTransaction
from mailfront.mail.body import MemoryBody, PrefixedBody
from mailfront.mail.envelope import NO_OPTIONS, BodyType
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.outcome import Delivered
from mailfront.net.body import BodyBudget
from mailfront.net.settings import NodeTlsSettings
from mailfront.net.tls import node_context
from mailfront.transfer.copies import INBOX, HandoffCopies, NoCopy
from mailfront.transfer.imap_wire import ImapEndpoint
from mailfront.transfer.node_imap import Login, NodeImap
from tests.support.cyrus import USER_PASSWORD as CYRUS_PASSWORD
from tests.support.cyrus import CyrusNode
from tests.support.delivery import NODE, RecordingSink, endpoint_of, quick
from tests.support.demo_node import DemoNode
from tests.support.dovecot import HANDOFF_PASSWORD, HANDOFF_USER, DovecotNode

SECRET = Secret(b"s" * 32)
KINDS = ("dovecot", "cyrus", "demo")

MESSAGES = {
    "ordinary": b"From: a@example.org\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\nMessage-ID: <x@y>\r\n\r\nhello\r\n",
    "without Date and Message-ID": b"Subject: bare\r\n\r\nhello\r\n",
    "without a last line end": b"Subject: x\r\n\r\nno end",
    "dots": b"Subject: x\r\n\r\n.\r\n..\r\n...x\r\n",
    "eight bit and long lines": b"Subject: x\r\n\r\n" + b"\xc3\xa4" * 3000 + b"\r\n",
    "no header": b"\r\njust text\r\n",
    "large": b"Subject: x\r\n\r\n" + b"0123456789abcdef" * 4 * 20_000 + b"\r\n",
}


@dataclass(frozen=True, slots=True)
class Holder:
    """A server with an account that keeps copies."""

    node: DovecotNode | CyrusNode | DemoNode
    login: Login


@pytest.fixture(scope="module")
def demo_node() -> Iterator[DemoNode]:
    """A storage node of `mailfront demo`."""
    node = DemoNode("copies-demo", {HANDOFF_USER: HANDOFF_PASSWORD})
    node.start()
    yield node
    node.stop()


@pytest.fixture
def holder(request: pytest.FixtureRequest) -> Holder:
    """The kind of server that the test asks for."""
    if request.param == "dovecot":
        return Holder(request.getfixturevalue("three_nodes")[0], Login(HANDOFF_USER, Secret(HANDOFF_PASSWORD.encode())))
    if request.param == "cyrus":
        return Holder(request.getfixturevalue("cyrus_node"), Login("anna", Secret(CYRUS_PASSWORD.encode())))
    return Holder(request.getfixturevalue("demo_node"), Login(HANDOFF_USER, Secret(HANDOFF_PASSWORD.encode())))


def envelope_of(message_id: MessageId, home: str) -> HandoffEnvelope:
    recipient = HandoffRecipient(
        number=0,
        address="ana@example.edu",
        mailbox_key=MailboxKey("ana@example.edu"),
        node_user=NodeUser("ana"),
        options=NO_OPTIONS,
    )
    return HandoffEnvelope(
        id=message_id,
        home=NodeId(home),
        reverse_path="a@example.org",
        body_type=BodyType.EIGHTBITMIME.value,
        smtputf8=False,
        ret=None,
        envid=None,
        arrived_s=1_700_000_000.0,
        recipients=(recipient,),
    )


async def hand_off(holder: Holder, envelope: HandoffEnvelope, message: bytes) -> bytes:
    """Deliver a copy to the holder. Returns the message as it must come back."""
    traced = b"Mailfront-Id: %s\r\nReceived: by us\r\n" % envelope.id.encode() + message
    body = MemoryBody(traced)
    delivery = Delivery(
        {NODE: endpoint_of((holder.node.host, holder.node.lmtp))},
        client_name="mx1.example.edu",
        settings=quick(reply_timeout="10s", body_timeout="10s", final_timeout="30s", connect_timeout="5s"),
        tls_context=None,
        evidence=RecordingSink(),
    )
    transaction = LmtpTransaction(
        id=envelope.id,
        reverse_path=None,
        body_type=BodyType.EIGHTBITMIME,
        smtputf8=False,
        ret=None,
        envid=None,
        recipients=(LmtpRecipient(holder.login.user, NO_OPTIONS),),
        body=PrefixedBody(write_block(envelope, body, SECRET), body),
    )
    (outcome,) = await delivery.start(NODE, transaction, slot_wait_s=5.0).result()
    await delivery.close()
    assert isinstance(outcome, Delivered), outcome
    return traced if traced.endswith(b"\r\n") else traced + b"\r\n"


def imap_of(holder: Holder) -> NodeImap:
    endpoint = ImapEndpoint(host=holder.node.host, port=holder.node.imap)
    return NodeImap({NODE: endpoint}, node_context(NodeTlsSettings()), handoff=holder.login, master=None)


@pytest.fixture
def copies(tmp_path_factory: pytest.TempPathFactory) -> HandoffCopies:
    """What the drain reads copies with."""
    budget = BodyBudget(memory_bytes=10**8, disk_bytes=10**9, spool_dir=tmp_path_factory.mktemp("spool"))
    return HandoffCopies(SECRET, budget)


@pytest.mark.parametrize("holder", KINDS, indirect=True)
@pytest.mark.parametrize("name", MESSAGES)
async def test_a_copy_comes_back_as_it_was(holder: Holder, copies: HandoffCopies, name: str) -> None:
    """HMAC and hash fit, the envelope is the same, every byte is there, and afterwards the mailbox is empty of it."""
    envelope = envelope_of(new_message_id(uuid.uuid4().int % 10**9), "store2")
    expected = await hand_off(holder, envelope, MESSAGES[name])
    async with asyncio.timeout(30), imap_of(holder).as_handoff(NODE) as session:
        copy = await copies.find(session, envelope.id, envelope.home)
        assert copy.envelope == envelope
        assert b"".join(copy.body.pieces()) == expected
        await session.delete(INBOX, copy.uids)
        with pytest.raises(NoCopy):
            await copies.find(session, envelope.id, envelope.home)


@pytest.mark.parametrize("holder", KINDS, indirect=True)
async def test_copies_of_one_message_for_two_homes_are_two(holder: Holder, copies: HandoffCopies) -> None:
    """A server that drops what it takes for a duplicate must not drop the copy for the other home."""
    message_id = new_message_id(uuid.uuid4().int % 10**9)
    for home in ("store2", "store3"):
        await hand_off(holder, envelope_of(message_id, home), MESSAGES["ordinary"])
    async with asyncio.timeout(30), imap_of(holder).as_handoff(NODE) as session:
        for home in ("store2", "store3"):
            copy = await copies.find(session, message_id, NodeId(home))
            assert copy.envelope.home == home
            await session.delete(INBOX, copy.uids)


@pytest.mark.parametrize("holder", KINDS, indirect=True)
async def test_a_copy_that_comes_while_the_mailbox_is_open_is_found(holder: Holder, copies: HandoffCopies) -> None:
    """A server may tell of new mail only at the end of a command; the first search must find it all the same."""
    first, second = (envelope_of(new_message_id(uuid.uuid4().int % 10**9), "store2") for _ in range(2))
    await hand_off(holder, first, MESSAGES["ordinary"])
    async with asyncio.timeout(30), imap_of(holder).as_handoff(NODE) as session:
        copy = await copies.find(session, first.id, first.home)
        await hand_off(holder, second, MESSAGES["ordinary"])
        late = await copies.find(session, second.id, second.home)
        assert len({*copy.uids, *late.uids}) == 2
        await session.delete(INBOX, [*copy.uids, *late.uids])
