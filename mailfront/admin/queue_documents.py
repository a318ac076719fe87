"""Queue rows, messages and counts as documents for people and programs: what `queue list|show|stats` print. Pure."""

from dataclasses import dataclass
from typing import Any

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.queue.rows import QueuedMessage, RecipientState
from mailfront.queue.views import MessageView, Stats
from mailfront.store.queue_queries import ListedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One recipient in the queue, for people.

    `state` is a word of `SHOWN_STATES`, and `unknown at NODE` where the outcome at a node is unknown. `node` is where
    an active or unknown attempt is or was, or who holds a handed-off copy; `home` is where the mailbox lives. An empty
    `sender` is the null reverse-path. `next_attempt_s` is None where nothing is planned.
    """

    id: str
    recipient: str
    sender: str
    state: str
    mailbox: str
    home: str | None
    node: str | None
    attempts: int
    arrived_s: float
    age_s: float
    next_attempt_s: float | None
    size_bytes: int | None
    last_reply: str
    reason: str
    number: int


def show_row(row: ListedRow, now_s: float) -> RowView:
    """Make a row fit to be shown."""
    waits = row.state == RecipientState.WAITING.value
    return RowView(
        id=row.id,
        recipient=printable(row.recipient, 400),
        sender=printable(row.sender or "", 400),
        state=_shown_state(row, now_s),
        mailbox=printable(row.mailbox_key),
        home=row.home,
        node=row.node,
        attempts=row.attempts,
        arrived_s=row.arrived_s,
        age_s=round(now_s - row.arrived_s, 3),
        next_attempt_s=row.next_attempt_s if waits else None,
        size_bytes=row.size_bytes,
        last_reply=printable(row.last_reply, 500),
        reason=printable(row.reason, 500),
        number=row.number,
    )


def _shown_state(row: ListedRow, now_s: float) -> str:
    if row.state == RecipientState.WAITING.value:
        return "due" if row.next_attempt_s <= now_s else "deferred"
    if row.state == RecipientState.UNKNOWN.value and row.node is not None:
        return f"unknown at {row.node}"
    return row.state


def show_message(message_id: MessageId, view: MessageView, now_s: float) -> dict[str, Any]:
    return {
        "id": message_id,
        **({} if view.message is None else _show_envelope(view.message)),
        "recipients": [show_row(row, now_s) for row in view.recipients],
    }


def _show_envelope(message: QueuedMessage) -> dict[str, Any]:
    return {
        "sender": printable(message.reverse_path or "", 400),
        "arrived_s": message.arrived_s,
        "expires_s": message.expires_s,
        "size_bytes": message.size_bytes,
        "body_type": message.body_type.value,
        "smtputf8": message.smtputf8,
        "client_ip": message.client_ip,
        "sha256": message.sha256,
    }


def show_stats(stats: Stats, now_s: float) -> dict[str, Any]:
    return {
        "total": stats.total,
        **stats.states,
        "messages": stats.messages_count,
        "size_bytes": stats.size_bytes,
        "oldest_age_s": None if stats.oldest_s is None else round(now_s - stats.oldest_s, 3),
        "age_limits_s": stats.age_limits_s,
        "by_domain": {printable(domain): shape.ages for domain, shape in stats.by_domain.items()},
        "by_node": {node: shape.ages for node, shape in stats.by_node.items()},
    }
