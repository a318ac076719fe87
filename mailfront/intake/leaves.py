"""What one RCPT comes to: leaves. A leaf is a mailbox, or an address that a next hop takes (outside, or a route).

A plain address is one `Target`, and most are. A forward or a group is `Expanded`: its leaves, each with who brought it
(`via`) and who takes the sender's place for it (`list_owner`).
"""

from dataclasses import dataclass
from typing import Final

from mailfront.cluster.placement import Placement
from mailfront.mail.address import Address
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, next_hop_key
from mailfront.mail.outcome import Blame, Deferred
from mailfront.mail.reply import reply
from mailfront.queue.dsn import NoticeKind

CUT_THROUGH_MOST: Final = 100
"""A group of more mailboxes is not delivered while the client waits: all of it goes through the queue."""

WAITS: Final = Deferred(Blame.NODE, reply(451, "4.0.0", "waits in the queue"), None)
"""The outcome of a leaf that nobody has tried."""


@dataclass(frozen=True, slots=True)
class Target:
    """A mailbox: the address that led to it, what it is called, its home, and the object classes of its entry.

    `via` is the address of ours whose forward or list brought it, '' if the client named it. `list_owner` is the
    reverse-path of this copy; None: the sender. `through_queue`: no delivery is tried while the client waits.
    """

    address: Address
    options: RecipientOptions
    mailbox_key: MailboxKey
    node_user: NodeUser
    placement: Placement
    classes: tuple[str, ...] = ()
    via: str = ""
    list_owner: str | None = None
    through_queue: bool = False

    @property
    def bucket(self) -> int:
        """Where its queue row waits."""
        return self.placement.bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class HopLeaf:
    """An address that is no mailbox here: the smarthost (`next_hop.RELAY`) or a route (`next_hop.route_hop`) takes it,
    always through the queue. See `Target` for `via` and `list_owner`."""

    address: Address
    options: RecipientOptions
    hop: NodeId
    via: str = ""
    list_owner: str | None = None

    @property
    def mailbox_key(self) -> MailboxKey:
        """What stands for a mailbox key in its row."""
        return next_hop_key(self.hop)

    @property
    def node_user(self) -> NodeUser:
        """What the next hop is told."""
        return NodeUser(str(self.address))

    @property
    def bucket(self) -> int:
        """Where its queue row waits."""
        return NEXT_HOP_BUCKET


Leaf = Target | HopLeaf


@dataclass(frozen=True, slots=True, kw_only=True)
class Expanded:
    """A RCPT that is no plain mailbox: at least one leaf. `classes` are those of its own entry.

    `success` is what the sender is told at once if he asked to hear of success: that his mail reached the list, or was
    passed on to several; None: the leaves tell him.
    """

    address: Address
    options: RecipientOptions
    leaves: tuple[Leaf, ...]
    classes: tuple[str, ...] = ()
    success: NoticeKind | None = None
