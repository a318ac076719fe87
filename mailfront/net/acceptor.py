"""Accepts connections that need something before the dialogue: a PROXY header, TLS from the first byte, a UNIX socket.

The PROXY header is read from the bare socket, not one byte more: what follows it, a TLS handshake perhaps, is left in
the socket for whoever comes next. A header is required from the listed networks and from nobody else. Each TLS
handshake uses the certificates of its moment, so a new certificate needs no new listener.

At most `MAX_WAITING` connections may be in this state, each as long as the `Reception` allows. At most `per_ip_limit`
of one address may be in a TLS handshake, so that one client cannot keep the others out.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.net.connections import counted_as
from mailfront.net.networks import Network, canonical_ip, is_listed
from mailfront.observe.log import get
from mailfront.protocol.proxy_header import NEED_MORE, Local, NeedMore, ProxiedAddress, ProxyHeaderParser

MAX_WAITING = 1024
PEEK_BYTES = 1024
RETRY_S = 0.1

Proxied = tuple[str, int, str]
"""Client ip, client port, ip of the load balancer."""
Dropped = Literal["refused_total", "refused_per_ip", "refused_proxy"]

log = get("net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """What an acceptor must know of its listener. `tls_context` is asked at each handshake; None: no TLS comes first.

    `dropped` and `shook_hands` count: a connection that was not let in, a handshake that went well or not.
    """

    name: str
    proxy_networks: tuple[Network, ...]
    proxy_timeout_s: float
    tls_context: Callable[[], ssl.SSLContext | None]
    tls_timeout_s: float
    per_ip_limit: int
    dropped: Callable[[Dropped], None]
    shook_hands: Callable[[bool], None]


class Acceptor:
    """Accepts on one listening socket, which it then owns."""

    def __init__(
        self,
        reception: Reception,
        listening: socket.socket,
        make_session: Callable[[Proxied | None], asyncio.Protocol],
    ) -> None:
        self._reception = reception
        self._loop = asyncio.get_running_loop()
        self._socket = listening
        self._make_session = make_session
        self._waiting: set[asyncio.Task[None]] = set()
        self._shaking_hands: Counter[bytes] = Counter()
        self._is_stopped = False

    def start(self) -> None:
        """Accept from now on. The socket must listen and not block."""
        if not self._is_stopped:
            self._loop.add_reader(self._socket, self._accept)

    def stop(self) -> None:
        """Accept no more, from this very moment, and close the socket: who waits in it is left to the other processes
        that have it. Who was accepted goes on. Twice does no harm."""
        if not self._is_stopped:
            self._is_stopped = True
            self._loop.remove_reader(self._socket)
            self._socket.close()

    async def until_idle(self) -> None:
        """Wait until every connection that was accepted has begun its dialogue, or is gone."""
        while self._waiting:
            await asyncio.wait(self._waiting)

    async def close(self, grace_s: float) -> None:
        """Stop, and drop the connections that do not begin their dialogue in `grace_s`."""
        self.stop()
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=grace_s)
        await cancel_and_wait(*self._waiting)

    # Not loop.sock_accept in a task: a connection that it has accepted in the moment of a cancellation would be lost.
    def _accept(self) -> None:
        try:
            connection, address = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was quicker, or the client has left
        except OSError as error:
            # We are out of descriptors or memory: that passes.
            log.warning("cannot accept a connection", listener=self._reception.name, reason=str(error))
            self._loop.remove_reader(self._socket)
            self._loop.call_later(RETRY_S, self.start)
            return
        if len(self._waiting) >= MAX_WAITING:
            self._drop(connection, "refused_total")
            return
        connection.setblocking(False)
        task = spawn(self._begin(connection, address), name=f"begin {self._reception.name}")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def _drop(self, connection: socket.socket, result: Dropped) -> None:
        self._reception.dropped(result)
        connection.close()

    async def _begin(self, connection: socket.socket, address: object) -> None:
        reception = self._reception
        try:
            proxied = await self._proxied(connection, address)
        except (OSError, TimeoutError, RemoteProtocolError) as error:
            log.info("no PROXY header", listener=reception.name, peer=str(address), reason=str(error))
            self._drop(connection, "refused_proxy")
            return
        except asyncio.CancelledError:
            connection.close()
            raise
        ip = proxied[0] if proxied is not None else address[0] if isinstance(address, tuple) else ""
        client = counted_as(ip) if ip else b""
        if ip and self._shaking_hands[client] >= reception.per_ip_limit:
            self._drop(connection, "refused_per_ip")
            return
        self._shaking_hands[client] += 1
        try:
            await self._connect(connection, address, proxied)
        finally:
            self._shaking_hands[client] -= 1
            if not self._shaking_hands[client]:
                del self._shaking_hands[client]

    async def _connect(self, connection: socket.socket, address: object, proxied: Proxied | None) -> None:
        """Make the session; over TLS once the handshake is done."""
        reception = self._reception
        context = reception.tls_context()
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make_session(proxied),
                connection,
                ssl=context,
                ssl_handshake_timeout=reception.tls_timeout_s if context is not None else None,
            )
        except (OSError, TimeoutError) as error:
            log.info("TLS handshake failed", listener=reception.name, peer=str(address), reason=str(error))
            reception.shook_hands(False)
            with contextlib.suppress(OSError):
                connection.close()
        else:
            if context is not None:
                reception.shook_hands(True)

    async def _proxied(self, connection: socket.socket, address: object) -> Proxied | None:
        """Read the PROXY header, if this peer must send one. Returns None if the peer speaks for itself."""
        networks = self._reception.proxy_networks
        if not networks or not isinstance(address, tuple):
            return None
        peer_ip = canonical_ip(address[0])
        if not is_listed(peer_ip, networks):
            return None
        parser = ProxyHeaderParser()
        # Most often the header is there already, and nothing has to be waited for.
        found = _read_on(connection, parser)
        if isinstance(found, NeedMore):
            async with asyncio.timeout(self._reception.proxy_timeout_s):
                while isinstance(found, NeedMore):
                    await self._readable(connection)
                    found = _read_on(connection, parser)
        return (found.ip, found.port, peer_ip) if isinstance(found, ProxiedAddress) else None

    async def _readable(self, connection: socket.socket) -> None:
        loop = self._loop
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(connection, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            loop.remove_reader(connection)


def _read_on(connection: socket.socket, parser: ProxyHeaderParser) -> ProxiedAddress | Local | NeedMore:
    """Take what has arrived of the header, and not one byte more."""
    try:
        data = connection.recv(PEEK_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return NEED_MORE
    if not data:
        raise ConnectionResetError("closed before its PROXY header")
    found = parser.receive(data)
    connection.recv(len(data) if isinstance(found, NeedMore) else len(data) - len(parser.trailing))
    return found
