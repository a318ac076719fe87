"""The storage of the session rows: an IMAP server that lets everybody in and has one message of 1 MiB.

    python -m tests.perf.imap_sink PORT HTTP_PORT

On HTTP_PORT it answers what nginx asks (`auth_http`): yes, at PORT. Both on 127.0.0.1 only. Its CPU is nobody's. Ends
when it is told to (SIGTERM).
"""

import asyncio
import contextlib
import resource
import sys

import uvloop

MESSAGE_BYTES = 1024 * 1024
_CAPABILITIES = b"IMAP4rev1 ID LITERAL+ SASL-IR AUTH=PLAIN"
_MESSAGE = (b"x" * 78 + b"\r\n") * (MESSAGE_BYTES // 80 + 1)


class ImapSink(asyncio.Protocol):
    """One session: line by line, literals of LOGIN read over."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._tag = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        self._say(b"* OK [CAPABILITY %s] ready\r\n" % _CAPABILITIES)

    def data_received(self, data: bytes) -> None:
        """Answer every whole line."""
        self._buffer += data
        while b"\r\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            if self._tag and line.endswith(b"}"):
                self._say(b"+ \r\n" if not line.endswith(b"+}") else b"")
            elif self._tag:
                self._say(b"%s OK [CAPABILITY %s] in\r\n" % (self._tag, _CAPABILITIES))
                self._tag = b""
            else:
                self._command(line)

    def _command(self, line: bytes) -> None:
        tag, _, rest = line.partition(b" ")
        name, _, argument = rest.partition(b" ")
        match name.upper():
            case b"LOGIN" if not line.endswith(b"}"):
                self._say(b"%s OK [CAPABILITY %s] in\r\n" % (tag, _CAPABILITIES))
            case b"AUTHENTICATE" if b" " in argument:
                self._say(b"%s OK [CAPABILITY %s] in\r\n" % (tag, _CAPABILITIES))
            case b"LOGIN" | b"AUTHENTICATE":
                # The rest comes as further lines, one for each literal.
                self._tag = tag
                if not line.endswith(b"+}"):
                    self._say(b"+ \r\n")
            case b"CAPABILITY":
                self._say(b"* CAPABILITY %s\r\n%s OK done\r\n" % (_CAPABILITIES, tag))
            case b"FETCH":
                body = _MESSAGE[:MESSAGE_BYTES]
                self._say(b"* 1 FETCH (BODY[] {%d}\r\n%s)\r\n%s OK done\r\n" % (len(body), body, tag))
            case b"LOGOUT":
                self._say(b"* BYE\r\n%s OK done\r\n" % tag)
                assert self._transport is not None
                self._transport.close()
            case b"ID":
                self._say(b"* ID NIL\r\n%s OK done\r\n" % tag)
            case _:
                self._say(b"%s OK done\r\n" % tag)

    def _say(self, data: bytes) -> None:
        assert self._transport is not None
        if data:
            self._transport.write(data)


class AuthHttp(asyncio.Protocol):
    """What nginx asks before it lets somebody through."""

    def __init__(self, port: int) -> None:
        self._answer = (
            f"HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {port}\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """The request comes in one piece: nginx writes it so."""
        assert self._transport is not None
        self._transport.write(self._answer)
        self._transport.close()


async def serve(port: int, http_port: int) -> None:
    """Serve both ports until cancelled."""
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: AuthHttp(port), "127.0.0.1", http_port, backlog=4096)
    server = await loop.create_server(ImapSink, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
