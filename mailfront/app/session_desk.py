"""The keeper's part in sessions: the register that workers tell, who is to be ended, and looks at the nodes' ports."""

import ssl
from collections.abc import Iterable
from functools import partial
from typing import Any

from mailfront.cluster.node_states import Service
from mailfront.config.model import Configuration
from mailfront.mail.names import NodeId
from mailfront.net.channel import ChannelServer, Peer, Refused, Request
from mailfront.observe import metrics
from mailfront.sessions.dialects import DIALECTS, Dialect
from mailfront.sessions.glance import glance_at
from mailfront.sessions.node import NodeEndpoint
from mailfront.sessions.register import SessionRegister, SessionRow
from mailfront.transfer.prober import Look

IDS_PER_PUSH = 1000
LOOK_WITHIN_S = 10.0


class SessionDesk:
    """See the module. One per keeper."""

    def __init__(self, channel: ChannelServer) -> None:
        self._channel = channel
        self.register = SessionRegister()

    def serve(self) -> None:
        """Register the verb, before the channel starts."""
        self._channel.handle("sessions", self._told)

    def peer_gone(self, peer: Peer) -> None:
        """A worker's connection ended: what it told is not known any more. It tells anew if it lives."""
        self.register.gone(peer)
        metrics.SESSIONS_LISTED.set(len(self.register))

    def kick(self, rows: Iterable[tuple[Any, SessionRow]], reason: str) -> None:
        """Have the workers end these sessions. Returns at once; they leave the register when they have ended."""
        by_peer: dict[Peer, list[str]] = {}
        for peer, row in rows:
            by_peer.setdefault(peer, []).append(row.id)
        for peer, ids in by_peer.items():
            for begin in range(0, len(ids), IDS_PER_PUSH):
                payload = {"ids": ids[begin : begin + IDS_PER_PUSH], "reason": reason}
                self._channel.push("kick", payload, peer)

    async def _told(self, request: Request) -> dict[str, Any]:
        payload, peer = request.payload, request.peer
        if peer not in self._channel.peers:
            return {}  # Its connection ended meanwhile, and so did what it tells.
        try:
            rows = [SessionRow.from_wire(fields) for fields in payload["opened"]]
        except (TypeError, ValueError) as error:
            raise Refused(f"sessions: {error}; are worker and keeper of one version?") from error
        if payload["all"]:
            self.register.begin(peer)
        for row in rows:
            if not self.register.opened(peer, row):
                metrics.SESSIONS_UNLISTED.inc()
        for id in payload["closed"]:
            self.register.closed(peer, id)
        metrics.SESSIONS_LISTED.set(len(self.register))
        return {}


def session_endpoints(config: Configuration) -> dict[tuple[str, NodeId], NodeEndpoint]:
    """Where each node is logged in at, by role and node."""
    return {
        (dialect.role, NodeId(node.id)): NodeEndpoint.of(node, dialect.port(node))
        for dialect in DIALECTS.values()
        for node in config.node
    }


def session_looks(config: Configuration, context: ssl.SSLContext) -> dict[Service, Look]:
    """How the prober sees whether a node serves what listeners need. Where there is a handoff account it logs in to
    IMAP by itself, which shows more."""
    roles = {listener.role for listener in config.listen} & DIALECTS.keys()
    if config.storage.handoff_mailbox is not None:
        roles.discard("imap")
    endpoints = session_endpoints(config)
    return {DIALECTS[role].service: partial(_look, DIALECTS[role], endpoints, context) for role in sorted(roles)}


async def _look(
    dialect: Dialect, endpoints: dict[tuple[str, NodeId], NodeEndpoint], context: ssl.SSLContext, node: NodeId
) -> None:
    await glance_at(dialect, endpoints[dialect.role, node], context, timeout_s=LOOK_WITHIN_S)
