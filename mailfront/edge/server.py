"""One listener at work: accepts clients, runs their sessions, drains.

Order of calls: `start`, then `drain` once. Plain TCP listeners are accepted by the event loop's own server. Where a
PROXY header must be read first, or TLS comes before the greeting, or the socket is a UNIX socket, the connection is
accepted by `mailfront.net.acceptor`.

The sockets are bound by somebody else; they are closed here when accepting ends. Nothing here survives a crash: a
client whose session is cut off was not told 250.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence

from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.edge.connection import NEWCOMER_S, EdgeConnection
from mailfront.edge.listener import EdgeListener
from mailfront.edge.port import Admission, EmitEvent, Intake
from mailfront.edge.session import EdgeSession, LmtpSession
from mailfront.edge.settings import LimitsSettings
from mailfront.net.acceptor import Acceptor, Dropped, Reception
from mailfront.net.body import BodyBudget
from mailfront.net.settings import ListenSettings
from mailfront.net.tls import ServerTls
from mailfront.observe import log as observe_log
from mailfront.observe import metrics

BACKLOG = 1024
TICK_S = 1.0


class EdgeServer:
    """See the module. One object per listener and worker."""

    def __init__(
        self,
        settings: ListenSettings,
        sockets: Sequence[socket.socket],
        *,
        hostname: str,
        intake: Intake,
        admission: Admission,
        budget: BodyBudget,
        limits: LimitsSettings | None = None,
        tls: ServerTls | None = None,
        node_size_limit_bytes: Callable[[], int] = lambda: 0,
        emit: EmitEvent = observe_log.emit,
    ) -> None:
        """Call it inside the running loop. `node_size_limit_bytes`: the smallest SIZE of the storage nodes, 0: none."""
        if settings.tls != "off" and tls is None:
            raise ValueError(f"listener {settings.address}: tls is {settings.tls!r} and there is no certificate")
        self._sockets = list(sockets)
        self._session_class = LmtpSession if settings.role == "lmtp" else EdgeSession
        self._servers: list[asyncio.Server] = []
        self._timekeeper: asyncio.Task[None] | None = None
        self._acceptors: list[Acceptor] = []
        self._listener = EdgeListener(
            settings=settings,
            hostname=hostname,
            limits=limits or LimitsSettings(),
            intake=intake,
            admission=admission,
            budget=budget,
            emit=emit,
            loop=asyncio.get_running_loop(),
            tls=tls,
            node_size_limit_bytes=node_size_limit_bytes,
        )

    @property
    def sessions_count(self) -> int:
        """Open sessions."""
        return len(self._listener.sessions)

    @property
    def addresses(self) -> tuple[object, ...]:
        """Where it listens, as the sockets say."""
        return tuple(listening.getsockname() for listening in self._sockets)

    async def start(self) -> None:
        """Begin to accept. Raises OSError."""
        self._timekeeper = spawn(self._keep_time(), name=f"time {self._listener.name}")
        settings = self._listener.settings
        for listening in self._sockets:
            listening.setblocking(False)
            if listening.family == socket.AF_UNIX or settings.tls == "implicit" or settings.proxy_protocol:
                listening.listen(BACKLOG)
                acceptor = Acceptor(self._reception(), listening, self._make_session)
                self._acceptors.append(acceptor)
                acceptor.start()
            else:
                server = await self._listener.loop.create_server(self._make_session, sock=listening, backlog=BACKLOG)
                self._servers.append(server)

    def _reception(self) -> Reception:
        listener = self._listener
        tls = listener.tls if listener.settings.tls == "implicit" else None
        return Reception(
            name=listener.name,
            proxy_networks=listener.settings.proxy_protocol,
            proxy_timeout_s=listener.limits.proxy_timeout,
            tls_context=lambda: tls.context if tls is not None else None,
            tls_timeout_s=listener.limits.tls_timeout,
            per_ip_limit=listener.limits.connections_per_ip,
            dropped=self._dropped,
            shook_hands=lambda well: metrics.EDGE_TLS_HANDSHAKES.inc("ok" if well else "failed"),
        )

    def _dropped(self, result: Dropped) -> None:
        metrics.EDGE_CONNECTIONS.inc(self._listener.name, result)
        if result == "refused_proxy":
            metrics.EDGE_REJECTIONS.inc("proxy_header")

    async def _keep_time(self) -> None:
        limits = self._listener.limits
        # A tenth of the shortest time, so that a limit is never missed by much, but never a busy loop.
        tick_s = min(TICK_S, max(0.01, min(limits.command_timeout, limits.data_timeout) / 10))
        loop = self._listener.loop
        while True:
            due_s = loop.time() + tick_s
            await asyncio.sleep(tick_s)
            metrics.LOOP_LAG_SECONDS.observe(max(0.0, loop.time() - due_s))
            self._listener.tick()

    def _make_session(self, proxied: tuple[str, int, str] | None = None) -> EdgeConnection:
        return self._session_class(self._listener, proxied)

    async def drain(self, grace_s: float) -> None:
        """Stop accepting and end all sessions with 421.

        An idle session ends at once (one that has just come may begin a message first), one with a message under way
        when that is answered or after `grace_s`. Commits are awaited however long they take. Cancellation leaves the
        sessions as they are.
        """
        listener = self._listener
        listener.is_draining = True
        for server in self._servers:
            server.close()
        for acceptor in self._acceptors:
            acceptor.stop()
        await asyncio.sleep(0)  # what was accepted in this very moment becomes a session
        for acceptor in self._acceptors:
            await acceptor.close(NEWCOMER_S)
        for session in list(listener.sessions):
            session.ask_to_leave(now=False)
        try:
            async with asyncio.timeout(grace_s):
                await self._until_empty()
        except TimeoutError:
            for session in list(listener.sessions):
                session.ask_to_leave(now=True)
            await self._until_empty()
        finally:
            if self._timekeeper is not None:
                await cancel_and_wait(self._timekeeper)
            listener.tick()

    async def _until_empty(self) -> None:
        listener = self._listener
        while listener.sessions:
            listener.changed.clear()
            await listener.changed.wait()
