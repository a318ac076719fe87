"""POP3 and ManageSieve through the proxy, with nodes that do what they should and nodes that do what they must not."""

import asyncio
import contextlib
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailfront.base.secret import Secret
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.sessions import client as client_module
from mailfront.sessions.dialects import DIALECTS
from mailfront.sessions.flow import Master
from mailfront.sessions.glance import glance_at
from mailfront.sessions.node import NodeEndpoint, NodeTrouble
from tests.support.session_front import login_settings, session_front

PLAIN = b64encode(b"\0ana\0secret").decode()
LOGIN = {"pop3": f"AUTH PLAIN {PLAIN}", "sieve": f'AUTHENTICATE "PLAIN" "{PLAIN}"'}
GOOD: dict[str, dict[bytes, bytes]] = {
    "pop3": {
        b"": b"+OK [XCLIENT] ready\r\n",
        b"CAPA": b"+OK\r\nSASL PLAIN\r\nAUTH-RESP-CODE\r\nUTF8\r\n.\r\n",
        b"XCLIENT": b"+OK\r\n",
        b"UTF8": b"+OK\r\n",
        b"AUTH": b"+OK in\r\n",
        b"STAT": b"+OK 2 320\r\n",
    },
    "sieve": {
        b"": b'"SIEVE" "fileinto vacation"\r\n"XCLIENT" "ADDR"\r\nOK "ready"\r\n',
        b"XCLIENT": b"OK\r\n",
        b"AUTHENTICATE": b'OK "in"\r\n',
        b"LISTSCRIPTS": b'"a"\r\nOK\r\n',
    },
}
LATER = {"pop3": "-ERR [SYS/TEMP]", "sieve": "NO (TRYLATER)"}


@dataclass
class Node:
    """A server that answers each command by its first word, and keeps what it got."""

    answers: dict[bytes, bytes]
    port: int = 0
    lines: list[bytes] = field(default_factory=list)
    hold: asyncio.Event | None = None
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = spawn(self.serve(reader, writer), name="node")
        self.serving.add(task)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.answers[b""])
        try:
            while line := (await reader.readline()).rstrip(b"\r\n"):
                self.lines.append(line)
                word = line.split(b" ")[0]
                if word in (b"AUTH", b"AUTHENTICATE") and self.hold is not None:
                    await self.hold.wait()
                writer.write(self.answers.get(word, b"-ERR\r\n"))
        except OSError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def node_with(role: str, changes: Mapping[bytes, bytes] | None = None) -> AsyncIterator[Node]:
    """A node that is good but for what is changed."""
    node = Node({**GOOD[role], **(changes or {})})
    server = await asyncio.start_server(node.accept, "127.0.0.1", 0)
    node.port = server.sockets[0].getsockname()[1]
    yield node
    server.close()
    await cancel_and_wait(*node.serving)


def greeting_lines(role: str) -> int:
    """How many lines our greeting has."""
    return {"pop3": 1, "sieve": 5}[role]


@pytest.mark.parametrize(
    ("role", "ahead", "answer"), [("pop3", b"STAT\r\n", "+OK 2 320"), ("sieve", b"LISTSCRIPTS\r\n", '"a"')]
)
async def test_what_follows_a_login_reaches_the_node_after_its_ok_and_not_before(
    tmp_path: Path, role: str, ahead: bytes, answer: str
) -> None:
    """Pipelined commands wait; the node gets our own login and hears who the client is, never the client's bytes."""
    async with node_with(role) as node, session_front(tmp_path, {"store1": node.port}, role=role) as front:
        node.hold = asyncio.Event()
        client = await front.connect()
        for _ in range(greeting_lines(role)):
            await client.line()
        client.send(LOGIN[role].encode() + b"\r\n" + ahead)
        await front.until(lambda: node.lines and node.lines[-1].startswith(b"AUTH"), "the login at the node")
        assert any(line.startswith(b"XCLIENT ADDR=127.0.0.1 PORT=") for line in node.lines)
        assert ahead.rstrip() not in node.lines
        node.hold.set()
        assert "in" in await client.line()
        assert await client.line() == answer
        await client.close()
        await front.until(lambda: front.lines("session"), "its line")
        assert front.lines("session")[0]["position"] == "relay"


@pytest.mark.parametrize(
    ("role", "changes", "position"),
    [
        ("pop3", {b"": b"-ERR [SYS/TEMP] full\r\n"}, "node greeting"),
        ("pop3", {b"": b"* PREAUTH root\r\n"}, "node greeting"),
        ("pop3", {b"": b"x" * 5000}, "node greeting"),
        ("pop3", {b"CAPA": b"+OK\r\n" + b"X\r\n" * 200}, "node capability"),
        ("pop3", {b"AUTH": b"-ERR [AUTH] no\r\n"}, "node login"),
        ("pop3", {b"AUTH": b"-ERR something\r\n"}, "node login"),
        ("pop3", {b"AUTH": b"a OK logged in\r\n"}, "node login"),
        ("pop3", {b"AUTH": b"+ more\r\n"}, "node login"),
        ("sieve", {b"": b'BYE "full"\r\n'}, "node greeting"),
        ("sieve", {b"": b"* PREAUTH root\r\n"}, "node greeting"),
        ("sieve", {b"": b'"A" {99999999}\r\n'}, "node greeting"),
        ("sieve", {b"AUTHENTICATE": b'NO "no"\r\n'}, "node login"),
        ("sieve", {b"AUTHENTICATE": b'NO (TRYLATER) "busy"\r\n'}, "node login"),
        ("sieve", {b"AUTHENTICATE": b'NO (REFERRAL "sieve://evil.example/") "there"\r\n'}, "node login"),
        ("sieve", {b"AUTHENTICATE": b'BYE (REFERRAL "sieve://evil.example/") "there"\r\n'}, "node login"),
        ("sieve", {b"AUTHENTICATE": b"a OK logged in\r\n"}, "node login"),
    ],
)
async def test_a_nodes_trouble_is_temporary_and_says_where_it_was(
    tmp_path: Path, role: str, changes: dict[bytes, bytes], position: str
) -> None:
    """Whatever a node says to somebody whom the directory let in is never "wrong password", and never reaches them."""
    async with node_with(role, changes) as node, session_front(tmp_path, {"store1": node.port}, role=role) as front:
        client = await front.connect()
        for _ in range(greeting_lines(role)):
            await client.line()
        assert (await client.ask(LOGIN[role])).startswith(LATER[role])
        assert front.lines("login_failed")[0]["position"] == position
        await client.close()


@pytest.mark.parametrize(
    ("role", "answer", "said"),
    [
        ("pop3", b"-ERR [AUTH] no\r\n", "-ERR [AUTH] "),
        ("pop3", b"-ERR [IN-USE] locked\r\n", "-ERR [IN-USE] "),
        ("pop3", b"-ERR [SYS/PERM] closed\r\n", "-ERR [SYS/PERM] "),
        ("pop3", b"-ERR [SYS/TEMP] later\r\n", "-ERR [SYS/TEMP] "),
        ("sieve", b'NO "no"\r\n', 'NO "Wrong user name or password."'),
        ("sieve", b'NO (TRYLATER) "later"\r\n', "NO (TRYLATER) "),
    ],
)
async def test_where_the_node_judges_its_reasons_are_kept_apart(
    tmp_path: Path, role: str, answer: bytes, said: str
) -> None:
    """With `auth = "node"` a no of the node is the user's; busy, closed and in use stay what they are."""
    changes = {b"AUTH": answer, b"AUTHENTICATE": answer}
    settings = login_settings(auth="node")
    async with (
        node_with(role, changes) as node,
        session_front(tmp_path, {"store1": node.port}, role=role, login=settings) as front,
    ):
        client = await front.connect()
        for _ in range(greeting_lines(role)):
            await client.line()
        assert (await client.ask(LOGIN[role])).startswith(said)
        await client.close()


@pytest.mark.parametrize("role", ["pop3", "sieve"])
async def test_the_master_user_logs_in_for_the_user(tmp_path: Path, role: str) -> None:
    """By authorization identity, with the master's password; the user's own stays here."""
    master = Master("mailfront", Secret(b"master-password"))
    settings = login_settings(send="master")
    async with (
        node_with(role) as node,
        session_front(tmp_path, {"store1": node.port}, role=role, login=settings, master=master) as front,
    ):
        client = await front.connect()
        for _ in range(greeting_lines(role)):
            await client.line()
        await client.ask(LOGIN[role])
        await front.until(lambda: node.lines and node.lines[-1].startswith(b"AUTH"), "the login at the node")
        response = node.lines[-1].split(b" ")[-1].strip(b'"')
        assert b64decode(response).split(b"\0") == [b"ana", b"mailfront", b"master-password"]
        await client.close()


async def test_utf8_is_offered_once_the_node_was_seen_to_have_it(tmp_path: Path) -> None:
    """And then a client's UTF8 goes to the node before its login."""
    async with node_with("pop3") as node, session_front(tmp_path, {"store1": node.port}, role="pop3") as front:
        first = await front.connect()
        await first.line()
        assert (await first.ask("UTF8")).startswith("-ERR")
        assert (await first.ask(LOGIN["pop3"])).startswith("+OK")
        await first.close()
        second = await front.connect()
        await second.line()
        assert (await second.ask("UTF8")).startswith("+OK")
        assert (await second.ask(LOGIN["pop3"])).startswith("+OK")
        assert node.lines[-2:] == [b"UTF8", LOGIN["pop3"].encode()]
        await second.close()


@pytest.mark.parametrize("role", ["pop3", "sieve"])
async def test_tokens_are_offered_where_the_node_judges_and_can(tmp_path: Path, role: str) -> None:
    """XOAUTH2 is offered with `auth = "node"` once the node was seen to have it, and goes there as it came."""
    changes = {
        "pop3": {b"CAPA": b"+OK\r\nSASL PLAIN XOAUTH2\r\n.\r\n"},
        "sieve": {b"": b'"SIEVE" "fileinto"\r\n"SASL" "PLAIN XOAUTH2"\r\nOK\r\n'},
    }[role]
    token = b64encode(b"user=ana\x01auth=Bearer abc\x01\x01").decode()
    command = {"pop3": f"AUTH XOAUTH2 {token}", "sieve": f'AUTHENTICATE "XOAUTH2" "{token}"'}[role]
    settings = login_settings(auth="node")
    async with (
        node_with(role, changes) as node,
        session_front(tmp_path, {"store1": node.port}, role=role, login=settings) as front,
    ):
        answers = []
        for line in (command, LOGIN[role], command):
            client = await front.connect()
            for _ in range(greeting_lines(role)):
                await client.line()
            answers.append(await client.ask(line))
            await client.close()
        assert "not offered" in answers[0]
        assert "in" in answers[2]
        assert token.encode() in node.lines[-1]


@pytest.mark.parametrize(("role", "can"), [("pop3", "UTF8"), ("sieve", "vacation")])
async def test_a_look_at_a_node_learns_what_it_can_and_logs_nobody_in(role: str, can: str) -> None:
    """Greeting and capabilities, and no further word."""
    async with node_with(role) as node:
        seen = await glance_at(DIALECTS[role], endpoint(node), ssl.create_default_context(), timeout_s=20.0)
        assert can in seen
        assert not any(line.startswith((b"AUTH", b"USER", b"XCLIENT")) for line in node.lines)


@pytest.mark.parametrize(
    ("role", "changes"),
    [
        ("pop3", {b"": b"-ERR [SYS/TEMP] full\r\n"}),
        ("sieve", {b"": b'BYE "full"\r\n'}),
        ("pop3", {b"CAPA": b"what?\r\n"}),
    ],
)
async def test_a_node_that_does_not_serve_is_seen(role: str, changes: dict[bytes, bytes]) -> None:
    """A port that accepts is not a server that serves."""
    async with node_with(role, changes) as node:
        with pytest.raises(NodeTrouble):
            await glance_at(DIALECTS[role], endpoint(node), ssl.create_default_context(), timeout_s=20.0)


def endpoint(node: Node) -> NodeEndpoint:
    """Where it listens."""
    return NodeEndpoint(host="127.0.0.1", port=node.port, path="", tls="off", server_name="localhost")


@pytest.mark.parametrize("role", ["pop3", "sieve"])
@pytest.mark.parametrize(("plaintext", "is_taken"), [("never", False), ("loopback", True), ("always", True)])
async def test_a_password_in_clear_is_taken_where_the_settings_say(
    tmp_path: Path, role: str, plaintext: str, is_taken: bool
) -> None:
    """`never` means never, also from this machine; the client hears so before a node is asked."""
    settings = login_settings(plaintext=plaintext)
    async with (
        node_with(role) as node,
        session_front(tmp_path, {"store1": node.port}, role=role, login=settings) as front,
    ):
        client = await front.connect()
        for _ in range(greeting_lines(role)):
            await client.line()
        answer = await client.ask(LOGIN[role])
        assert ("in" in answer and bool(node.lines)) is is_taken, answer
        assert answer.startswith(("+OK", "OK") if is_taken else ("-ERR a password", "NO (ENCRYPT-NEEDED)"))
        await client.close()


@pytest.mark.parametrize("name", ["ana", "nobody", "nobody@elsewhere.example", "sue"])
async def test_every_wrong_login_is_answered_after_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Known, unknown, foreign and suspended names alike: what is left of `failure_delay` is waited for."""
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    async with node_with("pop3") as node:
        settings = login_settings(failure_delay=1000.0)
        async with session_front(tmp_path, {"store1": node.port}, role="pop3", login=settings) as front:
            client = await front.connect()
            await client.line()
            monkeypatch.setattr(client_module, "asyncio", SimpleNamespace(sleep=wait))
            assert (await client.ask(f"USER {name}")).startswith("+OK")
            assert (await client.ask("PASS wrong")).startswith("-ERR [AUTH] ")
            monkeypatch.undo()
            assert len(waits) == 1
            assert 0.0 < waits[0] <= 1000.0
            await client.close()
