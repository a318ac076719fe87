"""The open sessions of one worker: who is where, and how each ends.

One owner per worker. Sessions are added by the login, and leave by `ended`, which writes the session's line and gives
back its place. A node that ends many sessions at once is a node that dies: its clients are let go over seconds
(`pace.Partings`), so that they do not all come back in the same moment.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping

from mailfront.observe import metrics
from mailfront.sessions.pace import AT_ONCE_COUNT, Partings, spread_s
from mailfront.sessions.port import Admission, EmitEvent
from mailfront.sessions.relay import ClientEnd, Session

LINGER_S = 3.0


class SessionTable:
    """See the module."""

    def __init__(
        self, admission: Admission, emit: EmitEvent, *, farewells: dict[str, bytes], goodbyes: dict[str, bytes]
    ) -> None:
        """`farewells`: per role what is in a client's last words when it ends its session on purpose. `goodbyes`: per
        role what we say when we end one."""
        self._loop = asyncio.get_running_loop()
        self._admission = admission
        self._emit = emit
        self._farewells = farewells
        self._goodbyes = goodbyes
        self._sessions: set[Session] = set()
        self._at_node: Counter[str] = Counter()
        self._lingering: dict[Session, float] = {}
        self._partings: dict[str, Partings] = {}
        self.on_change: Callable[[Session, bool], None] | None = None
        """Called after a session was added (True) and after it ended (False); must not raise."""
        self.emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions))

    def goodbye(self, role: str) -> bytes:
        """What is said to a client whose session we end."""
        return self._goodbyes[role]

    def kick(self, ids: Collection[str], end: str) -> None:
        """End these sessions now. `end` goes into their lines."""
        for session in [session for session in self._sessions if session.id in ids]:
            session.close(end)

    def count_at(self, node: str) -> int:
        """How many sessions a node has from this worker."""
        return self._at_node[node]

    def add(self, session: Session) -> None:
        """A login went well."""
        session.started_s = self._loop.time()
        self._sessions.add(session)
        self._at_node[session.node] += 1
        if self.on_change is not None:
            self.on_change(session, True)

    def node_left(self, session: Session, error: Exception | None) -> None:
        """The node has closed its side. The client gets what is still to be sent, then goes: now, or in its turn."""
        client = session.client
        if session.end or (error is None and self._said_goodbye(session)):
            session.end = session.end or "logout"
            self._let_go(session)
            return
        session.end = "node" if error is None else "node lost"
        partings = self._partings.setdefault(session.node, Partings())
        delay_s = partings.delay_s(self._loop.time(), self._at_node[session.node])
        if delay_s <= 0:
            self._let_go(session)
        else:
            client.transport.pause_reading()
            self._loop.call_later(delay_s, self._let_go, session)

    def end_by_client(self, session: Session, error: Exception | None) -> str:
        """How a session ended whose client is gone."""
        if self._said_goodbye(session):
            return "logout"
        return "client" if error is None else "client lost"

    def _said_goodbye(self, session: Session) -> bool:
        assert isinstance(session.client, ClientEnd)
        return self._farewells[session.role] in session.client.tail.upper()

    def _let_go(self, session: Session) -> None:
        client = session.client
        transport = client.transport
        assert isinstance(client, ClientEnd)
        if client.is_lost or transport.is_closing():
            return
        if client.has_no_more or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        self.linger(session)

    def linger(self, session: Session) -> None:
        """The client has been told that it is over: it has a moment to take what is on its way, and to close."""
        self._lingering[session] = self._loop.time() + LINGER_S

    def is_lingering(self, session: Session) -> bool:
        """Whether the client has been told already."""
        return session in self._lingering

    def leave_node(self, node: str, end: str) -> None:
        """End all sessions at a node, spread over seconds. `end` goes into their lines."""
        there = [session for session in self._sessions if session.node == node]
        window_s = spread_s(len(there))
        for number, session in enumerate(there):
            self._loop.call_later(window_s * number / len(there), session.close, end)

    async def close_all(self, within_s: float) -> None:
        """End every session, spread over the time that a node's death would take, at most `within_s`."""
        everyone = tuple(self._sessions)
        window_s = min(within_s, spread_s(len(everyone))) if len(everyone) > AT_ONCE_COUNT else 0.0
        for number, session in enumerate(everyone):
            self._loop.call_later(window_s * number / len(everyone), session.close, "shutdown")
        await self.until_empty()

    async def until_empty(self) -> None:
        """Wait until every session has ended."""
        while self._sessions:
            self.emptied.clear()
            await self.emptied.wait()

    def tick(self, now_s: float) -> None:
        """About once a second: close the connections of clients that do not do it themselves."""
        for session, until_s in tuple(self._lingering.items()):
            if now_s >= until_s:
                session.client.transport.abort()

    def ended(self, session: Session) -> None:
        """Both connections are gone."""
        self._sessions.discard(session)
        self._lingering.pop(session, None)
        self._at_node[session.node] -= 1
        self._admission.release(session.client_ip)
        role, node = session.role, session.node
        metrics.SESSION_BYTES.inc(role, node, "from_client", amount=session.from_client_bytes)
        metrics.SESSION_BYTES.inc(role, node, "from_node", amount=session.from_node_bytes)
        self._emit(
            "session",
            session=session.id,
            listener=session.listener,
            protocol=session.role,
            client_ip=session.client_ip,
            client_port=session.client_port,
            proxy_ip=session.proxy_ip or None,
            tls=session.tls or None,
            login=session.login,
            mailbox=session.mailbox,
            node=session.node,
            mechanism=session.mechanism,
            position="relay",
            end=session.end,
            from_client_bytes=session.from_client_bytes,
            from_node_bytes=session.from_node_bytes,
            duration_s=round(self._loop.time() - session.started_s, 3),
        )
        if self.on_change is not None:
            self.on_change(session, False)
        if not self._sessions:
            self.emptied.set()

    def tell_metrics(self, nodes: Mapping[str, Collection[str]]) -> None:
        """Bring the gauges up to date: `nodes` per role."""
        counts = Counter((session.role, session.node) for session in self._sessions)
        for role, names in nodes.items():
            for node in names:
                metrics.SESSIONS_OPEN.set(counts[role, node], role, node)
