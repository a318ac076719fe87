"""The demo's storage node: as an LMTP server for our delivery and for a foreign client, as an IMAP server for our
sessions, and alone against clients that misbehave."""

import imaplib
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from mailfront.base.secret import Secret
from mailfront.delivery.endpoint import NodeEndpoint
from mailfront.mail.envelope import BodyType
from mailfront.mail.outcome import Deferred, Delivered, Outcome
from mailfront.transfer.imap import ImapRefused, ImapSession
from mailfront.transfer.imap_wire import ImapEndpoint
from tests.support.certificates import Authority, CertificateFiles
from tests.support.delivery import NODE, delivery_to, message
from tests.support.demo_node import DemoNode
from tests.support.lmtp_client import LmtpClient
from tests.support.processes import wait_until

HANDOFF = "handoff@example.edu"
USERS = {name: f"{name}-secret" for name in ("ana", "ben", "carla", "dots", "large", "strict", "utf8", "zoe", HANDOFF)}
RETURN_PATH = b"Return-Path: <sender@example.org>\r\n"


@pytest.fixture(scope="module")
def node(server_certificate: CertificateFiles) -> Iterator[DemoNode]:
    server = DemoNode("demo1", USERS, tls=server_certificate)
    server.start()
    yield server
    assert server.stop() == 0
    assert server.log_text() == ""


def endpoint_of(node: DemoNode) -> NodeEndpoint:
    return NodeEndpoint(host=node.host, port=node.lmtp, lmtp_connections=4)


def imap_of(node: DemoNode) -> ImapEndpoint:
    return ImapEndpoint(host=node.host, port=node.imap)


async def deliver(node: DemoNode, *users: str, **more: object) -> tuple[Outcome, ...]:
    delivery = delivery_to(endpoint_of(node))
    try:
        return await delivery.start(NODE, message(*users, **more), slot_wait_s=1.0).result()  # type: ignore[arg-type]
    finally:
        await delivery.close()


# LMTP, as mailfront uses it


async def test_our_delivery_gets_one_answer_per_recipient(node: DemoNode) -> None:
    """Known users are Delivered, detail or not; a name that only the directory knows is deferred with an alarm."""
    outcomes = await deliver(node, "ana", "nobody", "ben+lists", body=b"Subject: x\r\n\r\nhello\r\n")
    assert isinstance(outcomes[0], Delivered)
    assert isinstance(outcomes[1], Deferred)
    assert "550 5.1.1" in outcomes[1].alarm
    assert isinstance(outcomes[2], Delivered)
    for user in ("ana", "ben"):
        assert RETURN_PATH + b"Subject: x\r\n\r\nhello\r\n" in node.messages(user)


async def test_the_probe_finds_what_delivery_needs(node: DemoNode) -> None:
    """A probe sees pipelining, 8BITMIME, SMTPUTF8, and a handoff account that takes mail."""
    delivery = delivery_to(endpoint_of(node))
    seen = await delivery.probe(NODE, HANDOFF)
    await delivery.close()
    assert seen.lmtp_ok
    assert seen.handoff_ok
    assert {"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "STARTTLS"} <= seen.extensions.names


async def test_dots_arrive_as_they_were_sent(node: DemoNode) -> None:
    """Lines of dots, a first line that is a dot, and text that looks like an end of data come back unchanged."""
    body = b".\r\n..\r\n.a\r\n\r\n...\r\n x\r\n.\r\n"
    assert isinstance((await deliver(node, "dots", body=body))[0], Delivered)
    assert node.messages("dots") == [RETURN_PATH + body]


async def test_a_large_message_is_streamed(node: DemoNode) -> None:
    """20 MB with a stuffed dot in each hundred lines are stored byte for byte, for each recipient."""
    body = b"Subject: large\r\n\r\n" + ((b"x" * 76 + b"\r\n") * 99 + b".dot\r\n") * 2_600
    delivery = delivery_to(endpoint_of(node))
    outcomes = await delivery.start(NODE, message("large", "zoe", body=body), slot_wait_s=1.0).result()
    await delivery.close()
    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    assert node.messages("large") == [RETURN_PATH + body]
    assert node.messages("zoe") == [RETURN_PATH + body]


async def test_messages_one_after_another_on_one_connection(node: DemoNode) -> None:
    """A warm connection takes one message after another; a null sender is written as one."""
    delivery = delivery_to(endpoint_of(node))
    for number in range(20):
        body = b"Subject: %d\r\n\r\n" % number
        outcomes = await delivery.start(NODE, message("carla", body=body, reverse_path=None), slot_wait_s=1.0).result()
        assert isinstance(outcomes[0], Delivered)
    await delivery.close()
    expected = [b"Return-Path: <>\r\nSubject: %d\r\n\r\n" % number for number in range(20)]
    assert sorted(node.messages("carla")) == sorted(expected)


async def test_utf8_envelope_and_8bit_body(node: DemoNode) -> None:
    """8-bit bytes of any charset are kept."""
    body = "Subject: Grüße\r\n\r\n".encode() + bytes(range(128, 256)) + b"\r\n"
    outcomes = await deliver(node, "utf8", body=body, body_type=BodyType.EIGHTBITMIME, smtputf8=True)
    assert isinstance(outcomes[0], Delivered)
    assert node.messages("utf8") == [RETURN_PATH + body]


@pytest.mark.parametrize("way", ["starttls", "unix"])
def test_other_ways_in(node: DemoNode, authority: Authority, way: str) -> None:
    """It listens with STARTTLS and on a UNIX socket too, for a client that shares no code with us."""
    endpoint = node.lmtp_unix if way == "unix" else (node.host, node.lmtp)
    before = Counter(node.messages("zoe"))
    with LmtpClient(endpoint, starttls=authority.client_context() if way == "starttls" else None) as client:
        replies = client.deliver("a@example.org", ["zoe", "nobody"], b"Subject: x\r\n\r\n.\r\n")
    assert replies["zoe"].startswith("250 2.0.0")
    assert replies["nobody"].startswith("550 5.1.1")
    new = Counter(node.messages("zoe")) - before
    assert new == Counter([b"Return-Path: <a@example.org>\r\nSubject: x\r\n\r\n.\r\n"])


def test_ipv6() -> None:
    """It listens on ::1."""
    node = DemoNode("demo6", {"ana": "x"}, host="::1")
    node.start()
    try:
        with LmtpClient((node.host, node.lmtp)) as client:
            assert client.deliver("", ["ana"], b"\r\n")["ana"].startswith("250")
        imaplib.IMAP4(node.host, node.imap, timeout=5).logout()
    finally:
        node.stop()


# LMTP, clients that misbehave


def test_commands_behind_the_final_dot(node: DemoNode) -> None:
    """A client that sends the next message in the same packet as the final dot gets every answer, in order."""
    first = b"MAIL FROM:<>\r\nRCPT TO:<ana>\r\nDATA\r\n"
    with LmtpClient((node.host, node.lmtp)) as client:
        client._socket.sendall(first + b"one\r\n.\r\n" + first + b"two\r\n.\r\nQUIT\r\n")
        codes = [client.reply()[:3] for _ in range(9)]
    assert codes == ["250", "250", "354", "250", "250", "250", "354", "250", "221"]
    stored = node.messages("ana")
    assert [stored.count(b"Return-Path: <>\r\n" + body) for body in (b"one\r\n", b"two\r\n")] == [1, 1]


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_the_end_of_data_in_pieces(node: DemoNode, cut: int) -> None:
    """The end of data is found wherever the packets are cut."""
    with LmtpClient((node.host, node.lmtp)) as client:
        for command in ("MAIL FROM:<>", "RCPT TO:<ben>", "DATA"):
            client.command(command)
        data = b"cut %d\r\n.\r\n" % cut
        client._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (data[:-cut], data[-cut:]):
            client._socket.sendall(piece)
        assert client.reply().startswith("250")
    # Which file of a second is the newer one, a Maildir does not say.
    assert node.messages("ben").count(b"Return-Path: <>\r\ncut %d\r\n" % cut) == 1


@pytest.mark.parametrize("body", [b"a\nb\r\n", b"a\rb\r\n", b"a\n.\r\nb\r\n"])
def test_a_bare_newline_is_refused(node: DemoNode, body: bytes) -> None:
    """A bare CR or LF is answered 550 for each recipient, nothing is stored, and the dialogue goes on."""
    with LmtpClient((node.host, node.lmtp)) as client:
        for command in ("MAIL FROM:<>", "RCPT TO:<strict>", "RCPT TO:<strict+x>", "DATA"):
            client.command(command)
        client._socket.sendall(body + b".\r\n")
        assert [client.reply()[:9] for _ in range(2)] == ["550 5.6.0"] * 2
        assert client.command("NOOP").startswith("250")
    assert node.messages("strict") == []


def test_commands_out_of_order_and_nonsense(node: DemoNode) -> None:
    """Wrong orders and hostile arguments get a negative answer, and the connection still takes a message."""
    with LmtpClient((node.host, node.lmtp)) as client:
        assert client.command("DATA").startswith("503")
        assert client.command("RCPT TO:<ana>").startswith("503")
        assert client.command("EHLO x").startswith("500")
        client.command("MAIL FROM:<>")
        assert client.command("DATA").startswith("503")
        for path in ("../../etc/passwd", "ana/../ben", "%s", "ana\\0", "@", "+", "ana@elsewhere.example", "a" * 1500):
            assert client.command(f"RCPT TO:<{path}>")[0] in "45", path
        assert client.command("RCPT TO:<ana> NOTIFY=NEVER").startswith("555")
        assert client.command("RCPT TO:<ANA+x>").startswith("250")
        assert client.command("RSET").startswith("250")
        assert client.deliver("", ["ana"], b"after all\r\n")["ana"].startswith("250")


def test_a_client_that_leaves_in_the_body(node: DemoNode) -> None:
    """Half a message is thrown away, from the mailbox and from the disk."""
    before = node.messages("ana")
    client = LmtpClient((node.host, node.lmtp))
    for command in ("MAIL FROM:<>", "RCPT TO:<ana>", "DATA"):
        client.command(command)
    client._socket.sendall(b"half\r\n.")
    tmp = node.directory / "node" / "tmp"
    wait_until(lambda: any(tmp.iterdir()), 5.0, "the file of the message")
    client.close()
    wait_until(lambda: not any(tmp.iterdir()), 5.0, "the file to be removed")
    assert node.messages("ana") == before


def test_nothing_acknowledged_is_lost_by_a_kill() -> None:
    """After SIGKILL and a start, every message with a 250 is there, IMAP serves it, and half a message is gone."""
    node = DemoNode("mortal", {"ana": "ana-secret"})
    node.start()
    try:
        with LmtpClient((node.host, node.lmtp)) as client:
            client.deliver("", ["ana"], b"Subject: kept\r\n\r\n")
            session = imaplib.IMAP4(node.host, node.imap, timeout=5)
            session.login("ana", "ana-secret")
            session.select()
            for command in ("MAIL FROM:<>", "RCPT TO:<ana>", "DATA"):
                client.command(command)
            client._socket.sendall(b"half\r\n")
            (node.directory / "node" / "mail" / "ana" / "dovecot-uidlist.lock").touch()
            node.kill9()
            session.shutdown()
        node.start()
        assert node.messages("ana") == [b"Return-Path: <>\r\nSubject: kept\r\n\r\n"]
        assert not any((node.directory / "node" / "tmp").iterdir())
        with imaplib.IMAP4(node.host, node.imap, timeout=5) as session:
            session.login("ana", "ana-secret")
            assert session.select()[1] == [b"1"]
    finally:
        node.stop()


def test_a_full_disk_is_said_for_each_recipient(node: DemoNode) -> None:
    """A mailbox that cannot be written is 452; the other recipient has the message."""
    new = node.directory / "node" / "mail" / "carla" / "new"
    moved = new.with_name("aside")
    new.rename(moved)
    try:
        with LmtpClient((node.host, node.lmtp)) as client:
            replies = client.deliver("", ["carla", "ben"], b"Subject: half\r\n\r\n")
    finally:
        moved.rename(new)
    assert replies["carla"].startswith("452 4.3.1")
    assert replies["ben"].startswith("250")
    assert sum(message.endswith(b"Subject: half\r\n\r\n") for message in node.messages("ben")) == 1


# IMAP


class Kept:
    """Gathers the bytes of a fetched message."""

    def __init__(self) -> None:
        self.data = b""

    async def __call__(self, piece: bytes) -> None:
        self.data += piece


async def test_the_drain_finds_fetches_and_expunges(node: DemoNode) -> None:
    """Copies in the handoff mailbox are found by their header, fetched byte for byte, and removed without touching
    others. One that comes while the session is open is seen after the next command, as IMAP has it."""
    bodies = [b"Mailfront-Id: copy%012d\r\n\r\n\xff\xfe 8 bit %d\r\n" % (number, number) for number in range(3)]
    await deliver(node, HANDOFF, body=bodies[0])
    session = await ImapSession.connect(imap_of(node), timeout_s=10)
    await session.login(HANDOFF, Secret(USERS[HANDOFF].encode()))
    assert len(await session.search_all("INBOX")) == 1
    for body in bodies[1:]:
        await deliver(node, HANDOFF, body=body)
    await session.search_all("INBOX")
    (uid,) = await session.search_header("INBOX", "Mailfront-Id", f"copy{1:012d}")
    kept = Kept()
    assert await session.fetch("INBOX", uid, kept, limit_bytes=10_000) == len(kept.data)
    assert kept.data == RETURN_PATH + bodies[1]
    await session.delete("INBOX", [uid])
    await session.delete("INBOX", [uid])
    assert await session.fetch("INBOX", uid, Kept(), limit_bytes=10_000) is None
    assert await session.search_header("INBOX", "Mailfront-Id", f"copy{1:012d}") == []
    rest = await session.search_all("INBOX")
    assert len(rest) == 2
    await session.delete("INBOX", rest)
    await session.close()
    assert node.messages(HANDOFF) == []


async def test_a_large_message_over_imap(node: DemoNode) -> None:
    """A message of 3 MB with lines of every kind is fetched byte for byte."""
    body = b"Subject: every-kind\r\n\r\n" + bytes(range(14, 256)) * 12_000 + b"\r\n" + b"y" * 5_000 + b"\r\n\r\n"
    await deliver(node, "large", body=body)
    session = await ImapSession.connect(imap_of(node), timeout_s=20)
    await session.login("large", Secret(b"large-secret"))
    (uid,) = await session.search_header("INBOX", "Subject", "every-kind")
    kept = Kept()
    await session.fetch("INBOX", uid, kept, limit_bytes=10_000_000)
    await session.close()
    assert kept.data == RETURN_PATH + body


@pytest.mark.parametrize(
    ("user", "password"), [("ana", "ben-secret"), ("ana", "x"), ("nobody", "ana-secret"), ("", "")]
)
async def test_only_the_own_password_logs_in(node: DemoNode, user: str, password: str) -> None:
    """Another user's password, a wrong one, an unknown name: refused, and the node stays well."""
    session = await ImapSession.connect(imap_of(node), timeout_s=10)
    with pytest.raises(ImapRefused):
        await session.login(user, Secret(password.encode()))
    await session.close()


def test_a_client_that_drops_in_idle(node: DemoNode) -> None:
    """A mail client that vanishes while it waits for news leaves nothing in the log, and others are served."""
    with socket.create_connection((node.host, node.imap), timeout=5) as raw:
        raw.sendall(b"1 LOGIN ana ana-secret\r\n2 SELECT INBOX\r\n3 IDLE\r\n")
        seen = b""
        while b"\n+ " not in seen:
            seen += raw.recv(4096)
    with imaplib.IMAP4(node.host, node.imap, timeout=5) as session:
        session.login("ana", "ana-secret")
        assert session.select()[0] == "OK"
