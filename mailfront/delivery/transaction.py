"""Delivery to the storage nodes over LMTP (RFC 2033): what other packages call.

    delivery = Delivery(nodes, client_name=..., settings=..., tls_context=..., evidence=...)
    attempt = delivery.start(node, LmtpTransaction(...), slot_wait_s=1.0)
    outcomes = await attempt.result()        one per recipient, in order; never raises for a node's trouble

One object per process. It keeps a pool of connections per node and nothing on disk. It decides neither which node, nor
what happens next: placement, handoff and queue are the caller's.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mailfront.base.errors import LocalProtocolError
from mailfront.delivery.attempt import LmtpAttempt
from mailfront.delivery.attempt_record import AttemptRecord
from mailfront.delivery.connection import LmtpConnection, PeerTrouble
from mailfront.delivery.dialing import Dialer
from mailfront.delivery.endpoint import NodeEndpoint
from mailfront.delivery.evidence import EvidenceSink
from mailfront.delivery.message import LmtpRecipient, LmtpTransaction, Phase
from mailfront.delivery.pool import LmtpPool
from mailfront.delivery.settings import DeliverySettings
from mailfront.delivery.trouble import Authority
from mailfront.mail.envelope import NO_OPTIONS
from mailfront.mail.names import NodeId
from mailfront.mail.reply import Reply
from mailfront.protocol.lmtp import NO_EXTENSIONS, Extensions, LmtpEnvelope

__all__ = ["Delivery", "LmtpAttempt", "LmtpRecipient", "LmtpTransaction", "Phase", "ProbeResult"]


FAREWELL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe saw. `lmtp_ok`: greeting, LHLO and MAIL work. `handoff_ok`: the handoff account is accepted; None:
    not asked. `text` says what went wrong, or ''. `refusal`: the server's answer, if it answered."""

    lmtp_ok: bool
    handoff_ok: bool | None
    text: str
    extensions: Extensions = NO_EXTENSIONS
    refusal: Reply | None = None


class Delivery:
    """All LMTP traffic of this process. One owner; not for several threads."""

    def __init__(
        self,
        nodes: Mapping[NodeId, NodeEndpoint],
        *,
        client_name: str,
        settings: DeliverySettings,
        tls_context: ssl.SSLContext | None,
        evidence: EvidenceSink,
    ) -> None:
        """`client_name` is said in LHLO. `tls_context` verifies nodes that are reached over TLS."""
        self._client_name = client_name
        self._settings = settings
        self._tls_context = tls_context
        self._evidence = evidence
        self._endpoints: dict[NodeId, NodeEndpoint] = {}
        self._dialers: dict[NodeId, Dialer] = {}
        self._pools: dict[NodeId, LmtpPool] = {}
        self._attempts: set[LmtpAttempt] = set()
        self._connections: set[LmtpConnection] = set()
        self.set_nodes(nodes)

    def set_nodes(self, nodes: Mapping[NodeId, NodeEndpoint], *, tls_context: ssl.SSLContext | None = None) -> None:
        """Follow a reload. What did not change keeps its connections; running attempts end as they began. With a new
        `tls_context` every connection is made anew."""
        if tls_context is not None:
            self._tls_context = tls_context
        for node in list(self._pools):
            if tls_context is not None or nodes.get(node) != self._endpoints[node]:
                self._pools.pop(node).retire()
        self._endpoints = dict(nodes)
        self._dialers = {node: self._dialer(endpoint) for node, endpoint in nodes.items()}
        for node, endpoint in nodes.items():
            if node not in self._pools:
                self._pools[node] = LmtpPool(
                    node, self._dialers[node], self._settings, slots_count=endpoint.lmtp_connections
                )

    def start(
        self,
        node: NodeId,
        transaction: LmtpTransaction,
        *,
        slot_wait_s: float,
        before_dot: Callable[[], Awaitable[None]] | None = None,
        source: str = "cut-through",
        home: NodeId | None = None,
        attempt: int = 1,
    ) -> LmtpAttempt:
        """Start an attempt at once.

        `slot_wait_s`: how long it may wait for one of the node's connections. `before_dot`: awaited once, when only
        the final dot is missing; if it raises or takes longer than `delivery.body_timeout`, nothing is delivered.
        `source`, `home` and `attempt` are for the `delivery` event.
        """
        begun = LmtpAttempt(
            node,
            transaction,
            self._pools.get(node),
            settings=self._settings,
            authority=self._endpoints[node].authority if node in self._endpoints else Authority.DIRECTORY,
            evidence=self._evidence,
            record=AttemptRecord(source=source, home=home, attempt=attempt),
            slot_wait_s=slot_wait_s,
            before_dot=before_dot,
        )
        self._attempts.add(begun)
        begun.when_done(self._attempts.discard)
        return begun

    async def probe(self, node: NodeId, handoff_mailbox: str | None = None) -> ProbeResult:
        """Ask a node over a connection of its own: greeting, LHLO, MAIL FROM:<>, RCPT for the handoff mailbox, QUIT.

        Takes no slot. Ends within the time-outs of `[delivery]`; never raises for the node's trouble.
        """
        dialer = self._dialers.get(node)
        if dialer is None:
            return ProbeResult(lmtp_ok=False, handoff_ok=None, text=f"{node} is not in the configuration")
        recipients = [] if handoff_mailbox is None else [(handoff_mailbox, NO_OPTIONS)]
        try:
            connection = await dialer.dial()
            try:
                envelope = LmtpEnvelope(reverse_path="", recipients=recipients, data=False)
                answered = await connection.envelope(envelope, self._settings.reply_timeout)
            finally:
                connection.quit()
        except PeerTrouble as error:
            return ProbeResult(lmtp_ok=False, handoff_ok=None, text=str(error.trouble))
        except LocalProtocolError as error:
            return ProbeResult(lmtp_ok=True, handoff_ok=False, text=str(error), extensions=connection.extensions)
        refusals = [answer for answer in (answered.mail, *answered.recipients) if not answer.is_positive]
        return ProbeResult(
            lmtp_ok=answered.mail.is_positive,
            handoff_ok=None if handoff_mailbox is None or not answered.mail.is_positive else not refusals,
            text=str(refusals[0]) if refusals else "",
            extensions=connection.extensions,
            refusal=refusals[0] if refusals else None,
        )

    def busy_count(self, node: NodeId) -> int:
        """How many of a node's connection slots are in use."""
        return self._pools[node].busy_count if node in self._pools else 0

    def idle_count(self, node: NodeId) -> int:
        """How many connections to a node wait for work."""
        return self._pools[node].idle_count if node in self._pools else 0

    @property
    def size_limit_bytes(self) -> int:
        """The smallest SIZE that a node offered when it was last connected to; 0: none named a limit."""
        return min((dialer.size_limit_bytes for dialer in self._dialers.values() if dialer.size_limit_bytes), default=0)

    @property
    def open_count(self) -> int:
        """Attempts that have not ended."""
        return len(self._attempts)

    async def close(self, grace_s: float = 10.0) -> None:
        """Stop all attempts that are before their final dot, wait up to `grace_s` for the others, then drop them (their
        outcome is then unknown) and close every connection."""
        running = list(self._attempts)
        for attempt in running:
            attempt.abort("mailfront stops")
        waiting = [attempt.task for attempt in running]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=grace_s)
            for attempt in running:
                if attempt.task in late:
                    attempt.drop("mailfront stops")
            if late:
                await asyncio.wait(late)
        for pool in self._pools.values():
            pool.retire()
        await self._wait_for_connections()

    async def _wait_for_connections(self) -> None:
        """Let QUIT and the end of TLS go out, as long as the nodes are quick about it."""
        if self._connections:
            await asyncio.wait([connection.closed for connection in self._connections], timeout=FAREWELL_S)
        if self._connections:
            for connection in self._connections:
                connection.transport.abort()
            await asyncio.wait([connection.closed for connection in self._connections], timeout=FAREWELL_S)

    def _dialer(self, endpoint: NodeEndpoint) -> Dialer:
        return Dialer(
            endpoint,
            client_name=self._client_name,
            settings=self._settings,
            tls_context=self._tls_context,
            open_connections=self._connections,
        )
