"""What all sessions of one listener share: names, limits, who is trusted, where messages go. One object per listener.

The parts that change while sessions run are the certificates (new handshakes use the new ones), `is_draining`, and
the table of open sessions.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailfront.edge.port import Admission, EmitEvent, Intake
from mailfront.edge.settings import LimitsSettings
from mailfront.net.body import BodyBudget
from mailfront.net.settings import ListenSettings
from mailfront.net.tls import ServerTls
from mailfront.observe import metrics
from mailfront.observe.log import dropped_lines_count

if TYPE_CHECKING:
    from mailfront.edge.connection import EdgeConnection


OUR_LINES_BYTES = 64 * 1024
"""Room left below a node's limit for `Received`, `Mailfront-Id` and the block of a handed-off copy."""


@dataclass(slots=True, eq=False, kw_only=True)
class EdgeListener:
    """See the module. Owned by one `EdgeServer`."""

    settings: ListenSettings
    hostname: str
    limits: LimitsSettings
    intake: Intake
    admission: Admission
    budget: BodyBudget
    emit: EmitEvent
    loop: asyncio.AbstractEventLoop
    tls: ServerTls | None = None
    node_size_limit_bytes: Callable[[], int] = lambda: 0
    is_draining: bool = False
    accepted_count: int = 0
    body_bytes: int = 0
    sessions: set["EdgeConnection"] = field(default_factory=set)
    parting: list[tuple[float, asyncio.Transport]] = field(default_factory=list)
    """Connections that close once their last reply has gone, each with the time until which they may take for it."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    normalize_newlines: bool = field(init=False)
    _capabilities: dict[tuple[bool, bool, bool, int], bytes] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.normalize_newlines = self.settings.bare_newline == "normalize"

    @property
    def name(self) -> str:
        """How logs and metrics call this listener: its address as configured."""
        return self.settings.address

    def tick(self) -> None:
        """About once a second: end what takes too long, and add to the metrics what was counted since."""
        now_s = self.loop.time()
        for session in list(self.sessions):
            session.stream.check_time(now_s)
        parting, self.parting = self.parting, []
        for until_s, transport in parting:
            if transport.get_write_buffer_size() and now_s < until_s:
                self.parting.append((until_s, transport))
            else:
                transport.abort()
        metrics.EDGE_CONNECTIONS.inc(self.name, "accepted", amount=self.accepted_count)
        metrics.EDGE_CONNECTIONS_OPEN.set(len(self.sessions), self.name)
        metrics.EDGE_RECEIVED_BYTES.inc(amount=self.body_bytes)
        metrics.BODY_MEMORY_BYTES.set(self.budget.memory_used_bytes)
        metrics.BODY_DISK_BYTES.set(self.budget.disk_used_bytes)
        metrics.LINES_DROPPED.set(dropped_lines_count())
        self.accepted_count = self.body_bytes = 0

    @property
    def size_limit_bytes(self) -> int:
        """The largest message taken here: ours, or what the smallest storage node takes together with our own lines."""
        ours, nodes = self.limits.message_size, self.node_size_limit_bytes()
        return ours if nodes == 0 else min(ours, max(nodes - OUR_LINES_BYTES, 0))

    def capabilities(self, *, starttls: bool, trusted: bool, dsn: bool) -> bytes:
        """The reply to EHLO or LHLO, as it goes over the wire."""
        key = (starttls, trusted, dsn, self.size_limit_bytes)
        found = self._capabilities.get(key)
        if found is None:
            found = self._capabilities[key] = self._make_capabilities(starttls=starttls, trusted=trusted, dsn=dsn)
        return found

    def _make_capabilities(self, *, starttls: bool, trusted: bool, dsn: bool) -> bytes:
        lines = [
            self.hostname,
            "PIPELINING",
            f"SIZE {self.size_limit_bytes}",
            "8BITMIME",
            "SMTPUTF8",
            "CHUNKING",
            "ENHANCEDSTATUSCODES",
        ]
        if starttls:
            lines.append("STARTTLS")
        if dsn:
            lines.append("DSN")
        if trusted:
            lines += ["XCLIENT NAME ADDR PORT PROTO HELO", "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"]
        last = len(lines) - 1
        return "".join(f"250{' ' if at == last else '-'}{line}\r\n" for at, line in enumerate(lines)).encode()
