"""One session listener at work: accepts clients, lets them log in, drains.

Order of calls: `start`, then `drain` once; `retire` before it where nobody is to be sent away. The sockets are bound by
somebody else; they are closed here when accepting ends. Plain TCP listeners are accepted by the event loop's own
server; where a PROXY header or TLS comes first, or the socket is a UNIX socket, by `net.acceptor`. Sessions that are
logged in belong to the `SessionTable`.
"""

import asyncio
import contextlib
import socket
from collections.abc import Sequence

from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.net.acceptor import Acceptor, Dropped, Reception
from mailfront.observe import metrics
from mailfront.sessions.client import ClientConnection
from mailfront.sessions.listener import SessionListener
from mailfront.sessions.node import keep_alive

BACKLOG = 1024
TICK_S = 1.0
PROXY_TIMEOUT_S = 5.0


class SessionServer:
    """See the module. One object per listener and worker."""

    def __init__(self, listener: SessionListener, sockets: Sequence[socket.socket], *, per_ip_limit: int) -> None:
        """Call it inside the running loop."""
        if listener.settings.tls != "off" and listener.tls is None:
            raise ValueError(f"listener {listener.name}: tls is {listener.settings.tls!r} and there is no certificate")
        self._listener = listener
        self._sockets = list(sockets)
        self._per_ip_limit = per_ip_limit
        self._servers: list[asyncio.Server] = []
        self._timekeeper: asyncio.Task[None] | None = None
        self._acceptors: list[Acceptor] = []

    async def start(self) -> None:
        """Begin to accept. Raises OSError."""
        listener, settings = self._listener, self._listener.settings
        self._timekeeper = spawn(self._keep_time(), name=f"time {listener.name}")
        for listening in self._sockets:
            listening.setblocking(False)
            if listening.family == socket.AF_UNIX or settings.tls == "implicit" or settings.proxy_protocol:
                listening.listen(BACKLOG)
                acceptor = Acceptor(self._reception(), listening, self._make_connection)
                self._acceptors.append(acceptor)
                acceptor.start()
            else:
                server = await listener.loop.create_server(self._make_connection, sock=listening, backlog=BACKLOG)
                self._servers.append(server)
            if listening.family != socket.AF_UNIX:
                keep_alive(listening)

    def _reception(self) -> Reception:
        listener = self._listener
        tls = listener.tls if listener.settings.tls == "implicit" else None
        return Reception(
            name=listener.name,
            proxy_networks=listener.settings.proxy_protocol,
            proxy_timeout_s=PROXY_TIMEOUT_S,
            tls_context=lambda: tls.context if tls is not None else None,
            tls_timeout_s=listener.tls_timeout_s,
            per_ip_limit=self._per_ip_limit,
            dropped=self._dropped,
            shook_hands=lambda well: metrics.SESSION_TLS_HANDSHAKES.inc("ok" if well else "failed"),
        )

    def _dropped(self, result: Dropped) -> None:
        metrics.SESSION_CONNECTIONS.inc(self._listener.name, result)

    def _make_connection(self, proxied: tuple[str, int, str] | None = None) -> ClientConnection:
        return ClientConnection(self._listener, proxied)

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._listener.tick()

    async def retire(self, patience_s: float) -> None:
        """Stop accepting, and give those who were accepted `patience_s` to log in or leave. Returns when none is left,
        or the time is over. `drain` follows."""
        self._stop_accepting()
        await asyncio.sleep(0)  # what was accepted in this very moment becomes a connection
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                for acceptor in self._acceptors:
                    await acceptor.until_idle()
                await self._until_empty()

    def _stop_accepting(self) -> None:
        for server in self._servers:
            server.close()
        for acceptor in self._acceptors:
            acceptor.stop()

    async def drain(self, grace_s: float) -> None:
        """Stop accepting; end connections that are not logged in, those with a login under way after `grace_s`. Calling
        it again does no harm."""
        listener = self._listener
        listener.is_draining = True
        self._stop_accepting()
        await asyncio.sleep(0)  # what was accepted in this very moment becomes a connection
        for acceptor in self._acceptors:
            await acceptor.close(0.0)
        try:
            async with asyncio.timeout(grace_s):
                await self._until_empty()
        except TimeoutError:
            for connection in tuple(listener.waiting):
                connection.drop()
            await self._until_empty()
        finally:
            if self._timekeeper is not None:
                await cancel_and_wait(self._timekeeper)

    async def _until_empty(self) -> None:
        listener = self._listener
        while listener.waiting:
            listener.tick()
            listener.emptied.clear()
            await listener.emptied.wait()
