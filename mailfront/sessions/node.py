"""One connection to a storage node, from connect to the answer to a login. The dialogue is the dialect's `NodeLogin`.

`log_in_at` opens it and returns the transport together with what the node said. Whatever else happens is `NodeTrouble`,
which says where it ended; then nothing stays open. Cancellation closes the connection.

With TLS nothing but a PROXY header is sent before the node's certificate was checked; a byte that comes between the
answer to STARTTLS and the handshake ends it. A node that dies without a word is noticed by TCP keep-alive in about a
minute.
"""

import asyncio
import errno
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Literal, cast

from mailfront.base.errors import RemoteProtocolError, Unavailable
from mailfront.base.printable import printable
from mailfront.cluster.settings import NodePort, NodeSettings
from mailfront.net.host_addresses import HostAddresses
from mailfront.protocol.login_dialogue import (
    ClientIdentity,
    LoggedIn,
    NodeLogin,
    Rejected,
    StartTls,
    ToNode,
    TryLater,
)
from mailfront.protocol.proxy_header import client_header, local_header

CONNECT_WITHIN_S = 5.0
KEEPALIVE_IDLE_S = 60
UNACKNOWLEDGED_MS = 90_000

_OUR_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

Answer = LoggedIn | Rejected | TryLater


class NodeTrouble(Unavailable):
    """The node could not be used. `position`: connect, tls, greeting, capability, login. `is_ours`: this machine had no
    descriptor, port or memory left for a connection, which says nothing about the node."""

    def __init__(self, position: str, text: str, *, is_ours: bool = False) -> None:
        super().__init__(f"{position}: {text}")
        self.position = position
        self.is_ours = is_ours


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEndpoint:
    """Where a node speaks one protocol. `path` is a UNIX socket, or ''. `server_name` must be in its certificate.
    `proxy`: it wants a PROXY header first."""

    host: str
    port: int
    path: str
    tls: Literal["off", "starttls", "implicit"]
    server_name: str
    proxy: bool = False

    @classmethod
    def of(cls, node: NodeSettings, way: NodePort) -> "NodeEndpoint":
        """The endpoint that the settings name."""
        return cls(
            host=node.host,
            port=way.port or 0,
            path=way.path or "",
            tls=way.tls,
            server_name=node.server_name or node.host,
            proxy=way.proxy,
        )


class NodeWire(asyncio.Protocol):
    """Carries one login dialogue. After `LoggedIn` it only keeps what comes, until the relay takes over."""

    __slots__ = ("_core", "_early", "_ended", "_text", "_waiter", "answer", "leftover", "transport", "wants_tls")

    def __init__(self, core: NodeLogin) -> None:
        self._core = core
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._text = ""
        self._early: list[bytes] | None = None
        self.transport: asyncio.Transport | None = None
        self.answer: Answer | None = None
        self.wants_tls = False
        self.leftover = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.answer is not None:
            self.leftover += data
            return
        if self._early is not None:
            self._early.append(data)
            return
        self._core.receive(data)
        self.serve()

    def serve(self) -> None:
        """Act on what the node has said so far."""
        try:
            while self.answer is None and (event := self._core.next_event()) is not None:
                if isinstance(event, ToNode):
                    if self.transport is not None:
                        self.transport.write(event.data)
                elif isinstance(event, StartTls):
                    self.wants_tls = True
                    self._wake()
                else:
                    self.answer = event
                    self.leftover = event.leftover if isinstance(event, LoggedIn) else b""
                    self._wake()
        except RemoteProtocolError as error:
            self._fail(str(error))

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self._fail("the node closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._fail(_reason(error) if error is not None else "the node closed the connection")

    @property
    def has_ended(self) -> bool:
        """Whether the node has closed, or spoke nonsense."""
        return self._ended

    def _fail(self, text: str) -> None:
        if not self._ended:
            self._ended, self._text = True, text
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def until_answered(self) -> None:
        """Wait for the answer, or for the wish to start TLS. Raises NodeTrouble."""
        if self.answer is None and not self.wants_tls and not self._ended:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.answer is None and not self.wants_tls:
            raise NodeTrouble(self._core.position, self._text)

    async def start_tls(self, context: ssl.SSLContext, server_name: str, timeout_s: float) -> None:
        """Shake hands, then go on with the dialogue. Raises NodeTrouble."""
        try:
            early = await self._shake_hands(context, server_name, timeout_s)
            self.wants_tls = False
            self._core.tls_started()
        except (OSError, TimeoutError, RemoteProtocolError) as error:
            raise NodeTrouble("tls", _reason(error)) from error
        self._core.receive(early)
        self.serve()

    async def begin(self, header: bytes, context: ssl.SSLContext | None, server_name: str, timeout_s: float) -> None:
        """Send a PROXY header on the fresh connection; then shake hands, if there is a context. Raises OSError."""
        assert self.transport is not None
        self.transport.write(header)
        if context is not None:
            self._core.receive(await self._shake_hands(context, server_name, timeout_s))
            self.serve()

    async def _shake_hands(self, context: ssl.SSLContext, server_name: str, timeout_s: float) -> bytes:
        """Returns what the node has said inside TLS before we had seen the end of the handshake."""
        assert self.transport is not None
        early: list[bytes] = []
        self._early = early
        transport = await asyncio.get_running_loop().start_tls(
            self.transport, self, context, server_hostname=server_name, ssl_handshake_timeout=timeout_s
        )
        if transport is None:  # the connection ended meanwhile; the type says that it can
            raise ConnectionResetError("the connection ended before TLS had started")
        self.transport = transport
        self._early = None
        return b"".join(early)


async def log_in_at(
    endpoint: NodeEndpoint,
    core: NodeLogin,
    hosts: HostAddresses,
    context: ssl.SSLContext,
    *,
    client: ClientIdentity,
    timeout_s: float,
) -> tuple[NodeWire, Answer]:
    """Connect and log in, for `client`. Raises NodeTrouble."""
    wire = NodeWire(core)
    begun_s, is_connected = asyncio.get_running_loop().time(), False
    limit = asyncio.timeout(min(CONNECT_WITHIN_S, timeout_s))
    try:
        async with limit:
            await _connect(wire, endpoint, hosts, context, client)
            is_connected = True
            limit.reschedule(begun_s + timeout_s)
            await wire.until_answered()
            if wire.wants_tls:
                await wire.start_tls(context, endpoint.server_name, timeout_s)
                await wire.until_answered()
        if wire.answer is None:
            raise NodeTrouble(core.position, "the node asks for TLS again")
        return wire, wire.answer
    except BaseException as error:
        if wire.transport is not None:
            wire.transport.abort()
        if isinstance(error, TimeoutError) and limit.expired():
            if not is_connected:
                raise NodeTrouble("connect", f"no connection within {min(CONNECT_WITHIN_S, timeout_s):g} s") from error
            raise NodeTrouble(core.position, f"no answer within {timeout_s:g} s") from error
        raise


async def _connect(
    wire: NodeWire, endpoint: NodeEndpoint, hosts: HostAddresses, context: ssl.SSLContext, client: ClientIdentity
) -> None:
    loop = asyncio.get_running_loop()
    try:
        if endpoint.path:
            await loop.create_unix_connection(lambda: wire, endpoint.path)
            return
        tls: dict[str, Any] = {}
        if endpoint.tls == "implicit" and not endpoint.proxy:
            tls = {"ssl": context, "server_hostname": endpoint.server_name}
        addresses = await hosts.of(endpoint.host)
        for number, address in enumerate(addresses, 1):
            try:
                await loop.create_connection(lambda: wire, address, endpoint.port, **tls)
                break
            except ssl.SSLError:
                raise
            except OSError:
                if number == len(addresses):
                    raise
        if endpoint.proxy:
            implicit = context if endpoint.tls == "implicit" else None
            await wire.begin(_header(client), implicit, endpoint.server_name, CONNECT_WITHIN_S)
    except ssl.SSLError as error:
        raise NodeTrouble("tls", _reason(error)) from error
    except OSError as error:
        raise NodeTrouble("connect", _reason(error), is_ours=error.errno in _OUR_SHORTAGES) from error
    assert wire.transport is not None
    watch_for_silence(wire.transport)


def _header(client: ClientIdentity) -> bytes:
    """The PROXY header; ours where the client has no address, as on a UNIX socket."""
    if not (client.ip and client.local_ip):
        return local_header()
    return client_header(client.ip, client.port, client.local_ip, client.local_port)


def watch_for_silence(transport: asyncio.Transport) -> None:
    """Have the kernel notice a peer that is gone without a word: an idle session sends nothing for hours."""
    given = transport.get_extra_info("socket")
    if given is None or given.family == socket.AF_UNIX:
        return
    # uvloop's own object would open and close the descriptor for each option.
    connected = socket.socket(given.family, socket.SOCK_STREAM, 0, fileno=given.fileno())
    try:
        keep_alive(connected)
    finally:
        connected.detach()


def keep_alive(connected: socket.socket) -> None:
    """Set the options; connections that a listening socket accepts inherit them."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the node's certificate is not accepted: {printable(error.verify_message)}"
    return printable(str(getattr(error, "strerror", None) or error or type(error).__name__))
