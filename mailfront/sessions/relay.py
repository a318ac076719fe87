"""A session after its login: two connections that pass bytes to each other. The part of which thousands are idle.

Nothing is buffered here and no task runs: what arrives on one transport is written to the other at once. A peer that
does not read stops the other one from being read (backpressure), so that a session holds at most what a transport
buffers above its high-water mark.

How it ends. A client that has no more to say (half-close) is passed on; the node answers what it was asked and closes.
A node that closes has said all: it is flushed to the client, who may still be sending, so its connection is closed a
little later (`SessionTable.linger`); closing at once could reset it before the client has read the last lines.

`RelayEnd.connection_lost` of both ends, in whatever order, ends the session exactly once.
"""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailfront.sessions.table import SessionTable

TAIL_BYTES = 24
"""How much of what the client said last is kept, to know whether it took its leave."""


class Session:
    """One logged-in session. What it is does not change; `end` says who ended it."""

    __slots__ = (
        "account", "client", "client_ip", "client_port", "duration_s", "end", "id", "listener", "login", "mailbox",
        "mechanism", "node", "node_side", "proxy_ip", "role", "started_s", "table", "tls",
    )  # fmt: skip

    def __init__(self, *, table: "SessionTable", id: str, role: str, login: str, mailbox: str, node: str) -> None:
        self.table = table
        self.id = id
        self.role = role
        self.login = login
        self.mailbox = mailbox
        self.node = node
        self.listener = self.client_ip = self.proxy_ip = self.tls = self.mechanism = self.end = ""
        self.client_port = 0
        self.started_s = 0.0
        self.client: RelayEnd
        self.node_side: RelayEnd

    @property
    def from_client_bytes(self) -> int:
        """Bytes that the client has sent since its login."""
        return self.client.received_bytes

    @property
    def from_node_bytes(self) -> int:
        """Bytes that the node has sent since the login."""
        return self.node_side.received_bytes

    def close(self, end: str) -> None:
        """End the session now, for a reason of ours: kicked, shutdown, maintenance. The client is told, if its node has
        said a whole line: elsewhere our words would be read as a part of a message."""
        self.end = self.end or end
        node_side, client = self.node_side, self.client.transport
        assert isinstance(node_side, NodeEnd)
        if self.table.is_lingering(self):
            client.abort()
        elif node_side.has_ended_line and not self.client.is_lost and not client.is_closing():
            client.write(self.table.goodbye(self.role))
        node_side.transport.abort()
        client.close()
        self.table.linger(self)


class RelayEnd(asyncio.Protocol):
    """One of the two connections; `peer` is the other one's transport."""

    __slots__ = ("is_lost", "peer", "received_bytes", "session", "transport")

    def __init__(self, session: Session, transport: asyncio.Transport, peer: asyncio.Transport) -> None:
        self.session = session
        self.transport = transport
        self.peer = peer
        self.received_bytes = 0
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.received_bytes += len(data)
        self.peer.write(data)

    def pause_writing(self) -> None:
        """This peer does not take what it gets: read no more from the other one."""
        if not self.peer.is_closing():
            self.peer.pause_reading()

    def resume_writing(self) -> None:
        """It takes again."""
        if not self.peer.is_closing():
            self.peer.resume_reading()


class ClientEnd(RelayEnd):
    """The client's side. `has_no_more`: it has closed its direction."""

    __slots__ = ("has_no_more", "tail")

    def __init__(self, session: Session, transport: asyncio.Transport, peer: asyncio.Transport) -> None:
        super().__init__(session, transport, peer)
        self.tail = b""
        self.has_no_more = False

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.received_bytes += len(data)
        self.tail = data[-TAIL_BYTES:]
        if not self.session.node_side.is_lost:
            self.peer.write(data)

    def eof_received(self) -> bool:
        """The client has no more to say. The node hears so, and what it still answers is delivered."""
        session = self.session
        self.has_no_more = True
        session.end = session.end or session.table.end_by_client(session, None)
        if session.node_side.is_lost or not self.peer.can_write_eof() or not self.transport.can_write_eof():
            return False
        self.peer.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        self.is_lost = True
        session = self.session
        session.end = session.end or session.table.end_by_client(session, error)
        if session.node_side.is_lost:
            session.table.ended(session)
        else:
            self.peer.close()


class NodeEnd(RelayEnd):
    """The node's side. `has_ended_line`: what it has said so far ends in a line end."""

    __slots__ = ("has_ended_line",)

    def __init__(self, session: Session, transport: asyncio.Transport, peer: asyncio.Transport) -> None:
        super().__init__(session, transport, peer)
        self.has_ended_line = True

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.received_bytes += len(data)
        self.has_ended_line = data.endswith(b"\n")
        self.peer.write(data)

    def eof_received(self) -> None:
        """The node has said all; the transport closes, and `connection_lost` follows."""

    def connection_lost(self, error: Exception | None) -> None:
        """The node is gone, or has ended the session."""
        self.is_lost = True
        session = self.session
        if session.client.is_lost:
            session.table.ended(session)
        else:
            session.table.node_left(session, error)
