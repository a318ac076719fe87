"""What delivery tells about the nodes. `cluster` draws the conclusions; `app` joins the two."""

from typing import Protocol

from mailfront.base.ids import MessageId
from mailfront.mail.names import NodeId


class EvidenceSink(Protocol):
    """Takes evidence. Called on the event loop, at most a few times per attempt; must be quick and must not raise.

    `text` is printable and names the place in the dialogue.
    """

    def connect_failed(self, node: NodeId, text: str) -> None:
        """No connection, no TLS, or no greeting. Counts at once."""

    def message_failed(self, node: NodeId, message: MessageId, text: str) -> None:
        """The node was reached, and this message failed by its fault."""

    def unknown_user(self, node: NodeId, node_user: str) -> None:
        """The node does not know a mailbox that the directory knows. Also an alarm: `alarm` is not called."""

    def succeeded(self, node: NodeId) -> None:
        """The node took a message."""

    def alarm(self, node: NodeId, message: MessageId, text: str) -> None:
        """Something that an administrator must see: ours and the node's configuration do not fit."""


class NoEvidence:
    """Keeps nothing: for tries that are to change nothing, and for servers that are no storage nodes."""

    def connect_failed(self, node: NodeId, text: str) -> None:
        """Not kept."""

    def message_failed(self, node: NodeId, message: MessageId, text: str) -> None:
        """Not kept."""

    def unknown_user(self, node: NodeId, node_user: str) -> None:
        """Not kept."""

    def succeeded(self, node: NodeId) -> None:
        """Not kept."""

    def alarm(self, node: NodeId, message: MessageId, text: str) -> None:
        """Not kept."""
