"""The keeper's desk for the session register: takes what workers tell, passes on who is to be ended."""

from collections.abc import Iterable
from typing import Any

from mailfront.net.channel import ChannelServer, Peer, Refused, Request
from mailfront.observe import metrics
from mailfront.sessions.register import SessionRegister, SessionRow

IDS_PER_PUSH = 1000


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
            self.register.opened(peer, row)
        for id in payload["closed"]:
            self.register.closed(peer, id)
        metrics.SESSIONS_LISTED.set(len(self.register))
        return {}
