"""The bytes of one IMAP connection: TCP or UNIX socket, TLS, reading with backpressure. Knows no IMAP.

At most `HIGH_WATER_BYTES` that nobody has read yet are kept; then the peer has to wait. What was received before
`start_tls` and is still unread is an error there: it was sent by somebody who is not protected by TLS.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Literal, cast

from mailfront.base.errors import RemoteProtocolError
from mailfront.cluster.settings import NodeSettings
from mailfront.protocol.proxy_header import local_header

HIGH_WATER_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImapEndpoint:
    """A node's IMAP service. `path` is a UNIX socket, or ''. `server_name` must be in the certificate; '': `host`.
    `proxy`: it wants a PROXY header first."""

    host: str = ""
    port: int = 143
    path: str = ""
    tls: Literal["off", "starttls", "implicit"] = "off"
    server_name: str = ""
    proxy: bool = False

    @classmethod
    def of(cls, node: NodeSettings) -> "ImapEndpoint":
        """The endpoint that a node's settings name."""
        return cls(
            host=node.host,
            port=node.imap.port or 0,
            path=node.imap.path or "",
            tls=node.imap.tls,
            server_name=node.server_name or "",
            proxy=node.imap.proxy,
        )


class ImapWire(asyncio.Protocol):
    """See the module. One reader at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._pieces: deque[bytes] = deque()
        self._unread_bytes = 0
        self._paused = False
        self._ended = False
        self._is_lost = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    async def dial(cls, endpoint: ImapEndpoint, context: ssl.SSLContext | None) -> "ImapWire":
        """Connect, with TLS at once where it is implicit. Raises OSError. The caller keeps the time."""
        loop = asyncio.get_running_loop()
        if endpoint.path:
            _, wire = await loop.create_unix_connection(cls, endpoint.path)
            return wire
        tls = context if endpoint.tls == "implicit" else None
        if endpoint.proxy:
            _, wire = await loop.create_connection(cls, endpoint.host, endpoint.port)
            wire.write(local_header())
            if tls is not None:
                await wire.start_tls(endpoint, tls)
            return wire
        name = (endpoint.server_name or endpoint.host) if tls is not None else None
        _, wire = await loop.create_connection(cls, endpoint.host, endpoint.port, ssl=tls, server_hostname=name)
        return wire

    async def start_tls(self, endpoint: ImapEndpoint, context: ssl.SSLContext) -> None:
        """Shake hands on the open connection. Raises OSError, RemoteProtocolError if bytes came before."""
        if self._pieces:
            raise RemoteProtocolError("the server sent data before TLS had started")
        transport = await asyncio.get_running_loop().start_tls(
            self._open(), self, context, server_hostname=endpoint.server_name or endpoint.host
        )
        if transport is None:  # the connection ended meanwhile; the type says that it can
            raise ConnectionResetError("the connection ended before TLS had started")
        self._transport = transport

    async def read(self) -> bytes:
        """The next bytes; b'' when the peer has closed. Raises OSError if the connection broke."""
        if not self._pieces and not self._ended:
            await self._wait()
        if self._pieces:
            piece = self._pieces.popleft()
            self._unread_bytes -= len(piece)
            if self._paused and self._unread_bytes < HIGH_WATER_BYTES and not self._ended:
                self._paused = False
                self._open().resume_reading()
            return piece
        if self._error is not None:
            raise self._error
        return b""

    def write(self, data: bytes) -> None:
        """Send. Commands are small; what the peer does not read is bounded by the time that it is given to answer."""
        self._open().write(data)

    def abort(self) -> None:
        """Close at once, without a TLS farewell. What is not sent yet is thrown away."""
        if self._transport is not None:
            self._transport.abort()

    async def lost(self) -> None:
        """Wait until the connection is closed. Call `abort` first."""
        while not self._is_lost:
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _open(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._pieces.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes >= HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._open().pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self._ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._ended = self._is_lost = True
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
