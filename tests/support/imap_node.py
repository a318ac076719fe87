"""An IMAP server that does what a test tells it, in the test's own loop, and records what it got.

    node = await ScriptedImapNode.start(script={"login": b"%t NO [UNAVAILABLE] busy\r\n"})

Steps of a script: `greeting`, `starttls`, `capability`, `id`, `login`, `logout`, and the name of any other command in
lower case. `%t` in an answer is the command's tag. Without a script it is a good server that logs everybody in. An
answer of None keeps silent. `hold` an event to have it wait before it answers a login.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from types import TracebackType

CAPABILITIES = b"IMAP4rev1 SASL-IR ID ENABLE IDLE LITERAL+ AUTH=PLAIN"
GREETING = b"* OK [CAPABILITY " + CAPABILITIES + b"] node ready\r\n"


class ScriptedImapNode:
    """See the module."""

    def __init__(self, script: Mapping[str, bytes | None], tls: ssl.SSLContext | None) -> None:
        self.script = dict(script)
        self.tls = tls
        self.received: list[bytes] = []
        self.connections_count = 0
        self.open: set[asyncio.StreamWriter] = set()
        self.hold: asyncio.Event | None = None
        self.port = 0
        self._server: asyncio.Server

    @classmethod
    async def start(
        cls, script: Mapping[str, bytes | None] | None = None, *, port: int = 0, tls: ssl.SSLContext | None = None
    ) -> "ScriptedImapNode":
        """Listen on loopback. `tls`: what STARTTLS uses."""
        node = cls(script or {}, tls)
        node._server = await asyncio.start_server(node._serve, "127.0.0.1", port)
        node.port = node._server.sockets[0].getsockname()[1]
        return node

    async def __aenter__(self) -> "ScriptedImapNode":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close everything."""
        self._server.close()
        for writer in tuple(self.open):
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def lines(self) -> list[bytes]:
        """All lines received, over all connections."""
        return b"".join(self.received).splitlines()

    def _answer(self, step: str, good: bytes) -> bytes | None:
        return self.script.get(step, good)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_count += 1
        self.open.add(writer)
        try:
            self._say(writer, self._answer("greeting", GREETING), b"")
            while line := await self._read(reader):
                await self._obey(line, reader, writer)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        line = await reader.readline()
        self.received.append(line)
        return line

    def _say(self, writer: asyncio.StreamWriter, answer: bytes | None, tag: bytes) -> None:
        if answer is not None:
            writer.write(answer.replace(b"%t", tag))

    async def _obey(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tag, _, rest = line.rstrip(b"\r\n").partition(b" ")
        name = rest.partition(b" ")[0].lower().decode("ascii", "replace")
        match name:
            case "capability":
                self._say(writer, self._answer(name, b"* CAPABILITY " + CAPABILITIES + b"\r\n%t OK\r\n"), tag)
            case "id":
                self._say(writer, self._answer(name, b"* ID NIL\r\n%t OK\r\n"), tag)
            case "login" | "authenticate":
                if self.hold is not None:
                    await self.hold.wait()
                good = b"%t OK [CAPABILITY IMAP4rev1 IDLE MOVE] logged in\r\n"
                self._say(writer, self._answer("login", good), tag)
            case "starttls":
                self._say(writer, self._answer(name, b"%t OK go\r\n"), tag)
                if self.tls is not None:
                    await writer.start_tls(self.tls)
            case "logout":
                self._say(writer, self._answer(name, b"* BYE\r\n%t OK bye\r\n"), tag)
                raise EOFError
            case _:
                self._say(writer, self._answer(name, b"%t OK " + name.encode() + b"\r\n"), tag)
