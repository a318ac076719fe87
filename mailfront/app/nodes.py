"""The storage nodes as one process uses them: where they are, how many connections it may have, what it learns of them.

`lmtp_connections` of a node is for the whole front end: a quarter is the keeper's (queue and drain), the workers share
the rest evenly. Every process has at least one.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from mailfront.base.clock import Clock
from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.cluster.node_states import Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.settings import NodeSettings
from mailfront.config.model import Configuration
from mailfront.delivery.endpoint import NodeEndpoint
from mailfront.delivery.evidence import NoEvidence
from mailfront.delivery.trouble import Authority
from mailfront.mail.names import MailboxKey, NodeId


def keeper_connections(node: NodeSettings) -> int:
    """How many LMTP connections the keeper may have to a node."""
    return max(1, node.lmtp_connections // 4)


def worker_connections(node: NodeSettings, workers: int) -> int:
    """How many LMTP connections each worker may have to a node."""
    return max(1, (node.lmtp_connections - keeper_connections(node)) // workers)


def endpoints(config: Configuration, connections: Callable[[NodeSettings], int]) -> Mapping[NodeId, NodeEndpoint]:
    """Where each node takes LMTP."""
    authority = Authority.NODE if config.storage.unknown_at_node == "refuse" else Authority.DIRECTORY
    return {
        NodeId(node.id): NodeEndpoint(
            host=node.host,
            port=node.lmtp.port or 0,
            path=node.lmtp.path or "",
            tls=node.lmtp.tls,
            server_name=node.server_name or "",
            lmtp_connections=connections(node),
            authority=authority,
        )
        for node in config.node
    }


def route_endpoints(config: Configuration) -> Mapping[NodeId, NodeEndpoint]:
    """Where the servers of the routes take LMTP, by their next hop."""
    return {route.hop: route.endpoint for route in config.route}


class Alarms(Protocol):
    """Where alarms go."""

    def raise_alarm(self, name: str, text: str, *, node: str = "", id: str = "", mailbox: str = "") -> None:
        """Raise one, or count it once more."""
        ...


class NodeEvidence:
    """Turns what deliveries tell about nodes into node states, and alarms into events.

    Alarms go to the keeper's health table.
    """

    def __init__(self, states: NodeStateTable, clock: Clock, alarms: Alarms) -> None:
        self._states = states
        self._clock = clock
        self._alarms = alarms

    def connect_failed(self, node: NodeId, text: str) -> None:
        """No connection: counts at once."""
        self._states.connect_failed(node, Service.LMTP, self._clock.monotonic_s(), text)

    def message_failed(self, node: NodeId, message: MessageId, text: str) -> None:
        """One message failed on a connection that stood."""
        self._states.message_failed(node, message, self._clock.monotonic_s(), text)

    def unknown_user(self, node: NodeId, node_user: str) -> None:
        """The node does not know a mailbox that the directory knows."""
        self._states.unknown_at_node(node, MailboxKey(node_user), self._clock.monotonic_s())
        text = f"{node} does not know {printable(node_user)}, whom the directory knows; make the account, or mend one"
        self._alarms.raise_alarm("storage.unknown_at_node", text, node=node, mailbox=printable(node_user))

    def succeeded(self, node: NodeId) -> None:
        """The node took a message."""
        self._states.succeeded(node, Service.LMTP, self._clock.monotonic_s())

    def alarm(self, node: NodeId, message: MessageId, text: str) -> None:
        """Something that an administrator must see."""
        self._alarms.raise_alarm(f"storage.refused_by.{node}", text, node=node, id=message)


class RouteEvidence(NoEvidence):
    """Servers of routes have no state, the queue pauses a hop that fails; only what people must see goes on."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms

    def alarm(self, node: NodeId, message: MessageId, text: str) -> None:
        """Something that an administrator must see."""
        self._alarms.raise_alarm(f"route.refused_by.{node}", text, node=node, id=message)
