"""IMAP sessions against scripted servers on loopback: slow, lying, half-dead."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mailfront.base.secret import Secret
from mailfront.transfer.imap import ImapFailed, ImapRefused, ImapSession
from mailfront.transfer.imap_wire import HIGH_WATER_BYTES, ImapEndpoint
from tests.support.certificates import Authority

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SECRET = Secret(b"secret")
GREETING = b"* OK [CAPABILITY IMAP4rev1 UIDPLUS AUTH=PLAIN SASL-IR] ready\r\n"


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[ImapEndpoint]:
    """Run a script for each connection; the peer's disappearance ends it quietly."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield ImapEndpoint(host="127.0.0.1", port=server.sockets[0].getsockname()[1])


def answering(*answers: bytes, greeting: bytes = GREETING) -> Script:
    """Greet, then give one answer per line received, `#` standing for the tag; then wait for LOGOUT or the end."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        for answer in answers:
            tag = (await reader.readuntil(b"\r\n")).split()[0]
            writer.write(answer.replace(b"#", tag))
        tag, verb = (await reader.readuntil(b"\r\n")).split()[:2]
        if verb == b"LOGOUT":
            writer.write(b"* BYE\r\n" + tag + b" OK\r\n")
        await reader.read()

    return script


@asynccontextmanager
async def session_with(script: Script, timeout_s: float = 5.0) -> AsyncIterator[ImapSession]:
    async with serving(script) as endpoint:
        session = await ImapSession.connect(endpoint, timeout_s=timeout_s)
        try:
            yield session
        finally:
            await session.close()


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""

    async def __call__(self, piece: bytes) -> None:
        self.data += piece


async def test_whole_dialogue() -> None:
    """Log in, search, fetch, delete: each answer comes back as a value."""
    script = answering(
        b"# OK [CAPABILITY IMAP4rev1 UIDPLUS] in\r\n",
        b"* 2 EXISTS\r\n# OK [READ-ONLY] selected\r\n",
        b"* SEARCH 9 4\r\n# OK\r\n",
        b"* 1 FETCH (UID 4 BODY[] {4}\r\nmail)\r\n# OK\r\n",
        b"# OK [READ-WRITE] selected\r\n",
        b"# OK\r\n",
        b"* 1 EXPUNGE\r\n# OK\r\n",
    )
    async with session_with(script) as session:
        await session.login("handoff", SECRET)
        assert await session.search_header("INBOX", "Mailfront-Handoff", "x") == [4, 9]
        kept = Kept()
        assert await session.fetch("INBOX", 4, kept, limit_bytes=100) == 4
        assert kept.data == b"mail"
        await session.delete("INBOX", [4])


async def test_missing_message() -> None:
    """A UID that is gone is None, not an error."""
    async with session_with(answering(b"# OK\r\n", b"# OK nothing\r\n")) as session:
        assert await session.fetch("INBOX", 4, Kept(), limit_bytes=100) is None


async def test_wrong_password_is_told_apart() -> None:
    """NO is ImapRefused with its code, and the session can still log out."""
    async with session_with(answering(b"# NO [AUTHENTICATIONFAILED] no\r\n")) as session:
        with pytest.raises(ImapRefused, match=r"LOGIN: NO \[AUTHENTICATIONFAILED\] no") as caught:
            await session.login("handoff", SECRET)
        assert caught.value.code == "AUTHENTICATIONFAILED"


async def test_password_is_not_sent_where_it_is_not_wanted() -> None:
    """LOGINDISABLED, or no AUTH=PLAIN: nothing is sent."""
    seen = b""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        writer.write(b"* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] ready\r\n")
        seen += await reader.read()

    async with session_with(script) as session:
        with pytest.raises(ImapFailed, match="LOGINDISABLED"):
            await session.login("handoff", SECRET)
    async with session_with(script) as session:
        with pytest.raises(ImapFailed, match="AUTH=PLAIN"):
            await session.login_as("master", SECRET, "ana")
    assert seen == b""


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"* PREAUTH hello\r\n", "greeting: .*PREAUTH"),
        (b"* BYE full\r\n", "greeting: the node ends the session: full"),
        (b"220 smtp\r\n", "greeting: not an IMAP greeting"),
        (b"x" * 9000, "greeting: a line is longer"),
        (b"", "greeting: no answer within 0.3 s"),
    ],
)
async def test_bad_greetings(greeting: bytes, words: str) -> None:
    """Each ends in ImapFailed that says where and why, in time."""
    async with serving(answering(greeting=greeting)) as endpoint:
        with pytest.raises(ImapFailed, match=words):
            await ImapSession.connect(endpoint, timeout_s=0.3)


async def test_nobody_there() -> None:
    """A refused connection is ImapFailed."""
    async with serving(answering()) as endpoint:
        pass
    with pytest.raises(ImapFailed, match="connect: "):
        await ImapSession.connect(endpoint, timeout_s=5)


async def test_closed_in_the_middle() -> None:
    """A connection that ends inside a message is ImapFailed, and what the sink got does not count."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        tag = (await reader.readuntil(b"\r\n")).split()[0]
        writer.write(tag + b" OK\r\n")
        await reader.readuntil(b"\r\n")
        writer.write(b"* 1 FETCH (UID 4 BODY[] {100}\r\nonly this")

    async with session_with(script) as session:
        with pytest.raises(ImapFailed, match="FETCH: the node closed the connection"):
            await session.fetch("INBOX", 4, Kept(), limit_bytes=1000)
        with pytest.raises(ImapFailed, match="the session has ended"):
            await session.fetch("INBOX", 4, Kept(), limit_bytes=1000)


async def test_endless_talk_is_ended() -> None:
    """A server that sends news for ever and never finishes a command is left after the time-out."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.readuntil(b"\r\n")
        while not writer.is_closing():
            writer.write(b"* OK still working\r\n" * 10)
            await writer.drain()
            await asyncio.sleep(0.005)

    async with session_with(script, timeout_s=0.3) as session:
        with pytest.raises(ImapFailed, match=r"LOGIN: no answer within 0\.3 s"):
            await session.login("handoff", SECRET)


async def test_other_message_is_refused() -> None:
    """A body under another UID never counts as the message."""
    answers = (b"# OK\r\n", b"* 1 FETCH (UID 5 BODY[] {4}\r\nmail)\r\n# OK\r\n")
    async with session_with(answering(*answers)) as session:
        with pytest.raises(ImapFailed, match="asked for message 4, and the server sent 5"):
            await session.fetch("INBOX", 4, Kept(), limit_bytes=100)


async def test_sink_error_reaches_the_caller() -> None:
    """What the sink raises comes out unchanged, and the session is over."""

    async def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    answers = (b"# OK\r\n", b"* 1 FETCH (UID 4 BODY[] {4}\r\nmail)\r\n# OK\r\n")
    async with session_with(answering(*answers)) as session:
        with pytest.raises(OSError, match="No space left"):
            await session.fetch("INBOX", 4, full, limit_bytes=100)
        with pytest.raises(ImapFailed, match="has ended"):
            await session.search_all("INBOX")


async def test_slow_sink_slows_the_server() -> None:
    """While the sink is busy the server is not read from: memory stays bounded, and the message arrives whole."""
    size = 64 * HIGH_WATER_BYTES
    sent = 0
    gate = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(GREETING)
        tag = (await reader.readuntil(b"\r\n")).split()[0]
        writer.write(tag + b" OK\r\n")
        tag = (await reader.readuntil(b"\r\n")).split()[0]
        writer.write(b"* 1 FETCH (UID 4 BODY[] {%d}\r\n" % size)
        for _ in range(size // 65536):
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()
        writer.write(b")\r\n" + tag + b" OK\r\n")
        await reader.readuntil(b"\r\n")

    got = 0

    async def sink(piece: bytes) -> None:
        nonlocal got
        await gate.wait()
        got += len(piece)

    async def open_when_stuck() -> None:
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)
        assert 0 < sent < size
        gate.set()

    async with session_with(script, timeout_s=20) as session:
        _, result = await asyncio.gather(open_when_stuck(), session.fetch("INBOX", 4, sink, limit_bytes=size))
    assert result == got == size


async def test_cancelled_session_is_over() -> None:
    """Cancelling a call closes the connection: nobody reads an answer that belongs to an older question."""
    async with session_with(answering(b"")) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await session.login("handoff", SECRET)
        with pytest.raises(ImapFailed, match="has ended"):
            await session.search_all("INBOX")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


async def test_starttls_injection(authority: Authority) -> None:
    """Plain text behind the server's OK to STARTTLS ends the connection before any handshake."""
    script = answering(b"# OK go\r\n* OK [CAPABILITY EVIL] injected\r\n")
    async with serving(script) as plain:
        endpoint = ImapEndpoint(host=plain.host, port=plain.port, tls="starttls")
        with pytest.raises(ImapFailed, match="STARTTLS: the server sent data after"):
            await ImapSession.connect(endpoint, authority.client_context(), timeout_s=5)


async def test_starttls_refused(authority: Authority) -> None:
    """A node that does not start TLS gets no password in the clear."""
    async with serving(answering(b"# NO not today\r\n")) as plain:
        endpoint = ImapEndpoint(host=plain.host, port=plain.port, tls="starttls")
        with pytest.raises(ImapRefused, match="STARTTLS: NO not today"):
            await ImapSession.connect(endpoint, authority.client_context(), timeout_s=5)


async def test_unknown_certificate(authority: Authority, tmp_path: Path) -> None:
    """A certificate of another authority is refused, with the reason."""
    files = Authority(tmp_path, "other").issue("localhost", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        endpoint = ImapEndpoint(host="127.0.0.1", port=port, tls="implicit")
        with pytest.raises(ImapFailed, match="certificate is not accepted"):
            await ImapSession.connect(endpoint, authority.client_context(), timeout_s=5)


async def test_tls_needs_a_context() -> None:
    """TLS without a context is our mistake, seen before anything is sent."""
    with pytest.raises(ValueError, match="TLS context"):
        await ImapSession.connect(ImapEndpoint(host="127.0.0.1", tls="implicit"))
