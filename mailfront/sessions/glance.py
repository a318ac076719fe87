"""A look at a node's session port: connect, TLS, greeting, capabilities, and away before any login.

It shows that the port serves, and what the node can do. Nobody is logged in, so no mailbox is opened or locked.
"""

import ssl

from mailfront.base.secret import Secret
from mailfront.net.host_addresses import HostAddresses
from mailfront.protocol.login_dialogue import (
    ClientIdentity,
    NodeCredentials,
    NodeEvent,
    NodeLogin,
    ToNode,
    TryLater,
)
from mailfront.sessions.dialects import Dialect
from mailfront.sessions.node import NodeEndpoint, NodeTrouble, log_in_at

_NOBODY = NodeCredentials(user="", secret=Secret(b""))
_NOT_A_CLIENT = ClientIdentity(ip="", port=0, local_ip="", local_port=0, session="", encrypted=False)
_SEEN = TryLater("", "")


async def glance_at(
    dialect: Dialect, endpoint: NodeEndpoint, context: ssl.SSLContext, *, timeout_s: float
) -> frozenset[str]:
    """What the node can do. Raises NodeTrouble if it does not serve. Cancellation closes the connection."""
    core = _LeavesBeforeLogin(dialect.node(_NOBODY, _NOT_A_CLIENT, endpoint.tls == "starttls"))
    wire, answer = await log_in_at(endpoint, core, HostAddresses(), context, client=_NOT_A_CLIENT, timeout_s=timeout_s)
    assert wire.transport is not None
    wire.transport.close()
    if answer is not _SEEN:
        text = f"{answer.code} {answer.text}" if isinstance(answer, TryLater) else "not what was expected"
        raise NodeTrouble(core.position, text.strip())
    return core.capabilities


class _LeavesBeforeLogin:
    """A node core that ends where the real one would go on from the capabilities."""

    def __init__(self, core: NodeLogin) -> None:
        self._core = core

    @property
    def capabilities(self) -> frozenset[str]:
        return self._core.capabilities

    @property
    def position(self) -> str:
        return self._core.position

    def receive(self, data: bytes) -> None:
        self._core.receive(data)

    def next_event(self) -> NodeEvent | None:
        event = self._core.next_event()
        return _SEEN if isinstance(event, ToNode) and self._core.capabilities else event

    def tls_started(self) -> None:
        self._core.tls_started()
