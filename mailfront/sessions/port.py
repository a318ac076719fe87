"""What sessions need from the rest: who it is, where the mailbox lives, whether that node is worth trying.

`app` implements `Nodes` by the map and the node table, the directory implements `Accounts`.
"""

from collections.abc import Callable
from typing import Any, Protocol

from mailfront.base.secret import Secret
from mailfront.cluster.node_states import Service
from mailfront.cluster.placement import Placement
from mailfront.directory.answers import DirectoryRecord
from mailfront.directory.logins import LoginAnswer
from mailfront.mail.names import NodeId
from mailfront.net.connections import Refusal as ConnectionRefusal


class Accounts(Protocol):
    """The directory, as logins ask it."""

    async def account(self, name: str) -> LoginAnswer:
        """Whose login name is this? Never raises for directory trouble."""
        ...

    async def authenticate(self, name: str, password: Secret, mechanism: str) -> LoginAnswer:
        """Is this the password of that name? Never raises for directory trouble."""
        ...


class Nodes(Protocol):
    """The storage nodes as this worker knows them now, and where what it finds out about them goes."""

    async def locate(self, record: DirectoryRecord) -> Placement:
        """The home. Raises Unavailable if it cannot be decided now."""
        ...

    def may_log_in(self, node: NodeId, service: Service) -> bool:
        """Whether a login at this node is worth trying now. May grant a trial: report how it went."""
        ...

    def connect_failed(self, node: NodeId, service: Service, text: str) -> None:
        """No connection, no TLS, no greeting: counts at once."""
        ...

    def client_failed(self, node: NodeId, service: Service, client_ip: str, text: str) -> None:
        """One client's login failed, by the node's fault, on a connection that stood. Several clients make it count."""
        ...

    def succeeded(self, node: NodeId, service: Service) -> None:
        """The node logged somebody in."""
        ...

    def alarm(self, name: str, text: str, *, node: str = "", mailbox: str = "") -> None:
        """Something that an administrator must see. Quick, never raises; repetitions are counted."""
        ...


class Admission(Protocol):
    """Counts connections over all workers."""

    def admit(self, ip: str) -> ConnectionRefusal | None:
        """Count a connection from `ip`, or say which limit it meets; then it is not counted."""
        ...

    def release(self, ip: str) -> None:
        """A connection that was admitted has ended."""
        ...


EmitEvent = Callable[..., Any]
"""`emit(event, **fields)` of the log."""
