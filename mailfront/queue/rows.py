"""Queue rows as values, and the words that people use for their states. Pure."""

from dataclasses import dataclass

from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import MailboxKey, NodeUser
from mailfront.store.queue_values import (
    HandoffRow,
    HandoffState,
    QueuedMessage,
    QueuedRecipient,
    RecipientState,
)

__all__ = [
    "SHOWN_STATES",
    "Claimed",
    "HandoffRow",
    "HandoffState",
    "Place",
    "QueuedMessage",
    "QueuedRecipient",
    "RecipientState",
    "reverse_path_of",
    "shown_state",
]

SHOWN_STATES = ("due", "active", "deferred", "held", "quarantined", "unknown", "handed-off")
"""The states that an administrator can say aloud, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One message and those of its recipients that are to be tried now, at one node, in one transaction.

    `was_unknown`: an earlier attempt at this node may have delivered it; search there first. `recipients` carry the
    attempt's number (`attempts`), its node and its lease.
    """

    message: QueuedMessage
    recipients: tuple[QueuedRecipient, ...]
    was_unknown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where mail for an address goes: a mailbox, or a next hop with its name for a key. See `QueuedRecipient`."""

    address: str
    mailbox_key: MailboxKey
    bucket: int
    node_user: NodeUser
    options: RecipientOptions
    via: str = ""
    list_owner: str | None = None


def reverse_path_of(message: QueuedMessage, row: QueuedRecipient) -> str | None:
    """Who is told when this recipient fails, and who stands in MAIL FROM for it; None is the null reverse-path.

    A list's owner takes the sender's place (RFC 5321 section 3.9.2). What nobody may be told of is never told to him.
    """
    return row.list_owner if row.list_owner is not None and message.reverse_path is not None else message.reverse_path


def shown_state(row: QueuedRecipient, now_s: float) -> str:
    """The state as people read it: waiting is `due` or `deferred`, unknown and active say where."""
    if row.state is RecipientState.WAITING:
        return "due" if row.next_attempt_s <= now_s else "deferred"
    if row.state in (RecipientState.UNKNOWN, RecipientState.ACTIVE) and row.node is not None:
        return f"{row.state.value} at {row.node}"
    return str(row.state.value)
