"""Accepts connections that need something before the dialogue: a PROXY header, TLS from the first byte, a UNIX socket.

The PROXY header is read from the bare socket, not one byte more: what follows it, a TLS handshake perhaps, is left in
the socket for whoever comes next. A header is required from the listed networks and from nobody else. Each TLS
handshake uses the certificates of its moment, so a new certificate needs no new listener.

At most `MAX_WAITING` connections may be in this state, each as long as `proxy_timeout` and `tls_timeout` allow. At most
`connections_per_ip` of one address may be in a TLS handshake, so that one client cannot keep the others out.
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.edge.connection import NEWCOMER_S, EdgeConnection, log
from mailfront.edge.listener import EdgeListener
from mailfront.net.connections import counted_as
from mailfront.net.networks import canonical_ip, is_listed
from mailfront.observe import metrics
from mailfront.protocol.proxy_header import NeedMore, ProxiedAddress, ProxyHeaderParser

MAX_WAITING = 1024
PEEK_BYTES = 1024
RETRY_S = 0.1

Proxied = tuple[str, int, str]
"""Client ip, client port, ip of the load balancer."""


class Acceptor:
    """Accepts on one listening socket, which it then owns."""

    def __init__(
        self,
        listener: EdgeListener,
        listening: socket.socket,
        make_session: Callable[[Proxied | None], EdgeConnection],
    ) -> None:
        self._listener = listener
        self._socket = listening
        self._make_session = make_session
        self._waiting: set[asyncio.Task[None]] = set()
        self._shaking_hands: Counter[bytes] = Counter()

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = self._listener.loop
        while True:
            try:
                connection, address = await loop.sock_accept(self._socket)
            except OSError as error:
                # The client was quicker to leave, or we are out of descriptors: that passes.
                log.warning("cannot accept a connection", listener=self._listener.name, reason=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if len(self._waiting) >= MAX_WAITING:
                self._drop(connection, "refused_total")
                continue
            connection.setblocking(False)
            task = spawn(self._begin(connection, address), name=f"begin {self._listener.name}")
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def close(self) -> None:
        """Stop: close the listening socket and drop the connections that do not begin their dialogue soon."""
        self._socket.close()
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=NEWCOMER_S)
        await cancel_and_wait(*self._waiting)

    def _drop(self, connection: socket.socket, result: str) -> None:
        metrics.EDGE_CONNECTIONS.inc(self._listener.name, result)
        connection.close()

    async def _begin(self, connection: socket.socket, address: object) -> None:
        listener = self._listener
        try:
            proxied = await self._proxied(connection, address)
        except (OSError, TimeoutError, RemoteProtocolError) as error:
            log.info("no PROXY header", listener=listener.name, peer=str(address), reason=str(error))
            metrics.EDGE_REJECTIONS.inc("proxy_header")
            self._drop(connection, "refused_proxy")
            return
        except asyncio.CancelledError:
            connection.close()
            raise
        ip = proxied[0] if proxied is not None else address[0] if isinstance(address, tuple) else ""
        client = counted_as(ip) if ip else b""
        if ip and self._shaking_hands[client] >= listener.limits.connections_per_ip:
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
        listener = self._listener
        tls = listener.tls if listener.settings.tls == "implicit" else None
        try:
            await listener.loop.connect_accepted_socket(
                lambda: self._make_session(proxied),
                connection,
                ssl=tls.context if tls is not None else None,
                ssl_handshake_timeout=listener.limits.tls_timeout if tls is not None else None,
            )
        except (OSError, TimeoutError) as error:
            log.info("TLS handshake failed", listener=listener.name, peer=str(address), reason=str(error))
            metrics.EDGE_TLS_HANDSHAKES.inc("failed")
            with contextlib.suppress(OSError):
                connection.close()
        else:
            if tls is not None:
                metrics.EDGE_TLS_HANDSHAKES.inc("ok")

    async def _proxied(self, connection: socket.socket, address: object) -> Proxied | None:
        """Read the PROXY header, if this peer must send one. Returns None if the peer speaks for itself."""
        networks = self._listener.settings.proxy_protocol
        if not networks or not isinstance(address, tuple):
            return None
        peer_ip = canonical_ip(address[0])
        if not is_listed(peer_ip, networks):
            return None
        parser = ProxyHeaderParser()
        async with asyncio.timeout(self._listener.limits.proxy_timeout):
            while True:
                await self._readable(connection)
                data = connection.recv(PEEK_BYTES, socket.MSG_PEEK)
                if not data:
                    raise ConnectionResetError("closed before its PROXY header")
                found = parser.receive(data)
                if isinstance(found, NeedMore):
                    connection.recv(len(data))
                    continue
                connection.recv(len(data) - len(parser.trailing))
                return (found.ip, found.port, peer_ip) if isinstance(found, ProxiedAddress) else None

    async def _readable(self, connection: socket.socket) -> None:
        loop = self._listener.loop
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(connection, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            loop.remove_reader(connection)
