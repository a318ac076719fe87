"""The `queue` verbs: what waits, what is wrong with it, and changes of it.

`QueueReader` only reads, so the command line uses it directly on the database when no server runs. `QueueService` is
the whole, in the keeper. A selection by ids that matches nothing is an error (no such message); by anything else it is
an answer (nothing matches).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.requests import ChangeRequest, ListRequest, Selection
from mailfront.admin.wire import Progress
from mailfront.base.clock import Clock
from mailfront.base.ids import MessageId, is_message_id
from mailfront.base.printable import printable
from mailfront.mail.names import NodeId
from mailfront.observe import log
from mailfront.queue.operations import Order, QueueOperations, Verb, VerbResult, selector_text
from mailfront.queue.rows import SHOWN_STATES, QueuedMessage, RecipientState
from mailfront.queue.views import CheckResult, MessageView, QueueViews, Stats
from mailfront.store.queue_queries import ListedRow, Selector

_EVENTS = {
    Verb.RETRY: "queue_retried",
    Verb.HOLD: "queue_held",
    Verb.RELEASE: "queue_released",
    Verb.BOUNCE: "queue_bounced",
    Verb.DELETE: "queue_deleted",
}


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


class QueueReader:
    """What can be read without a server."""

    def __init__(self, views: QueueViews, clock: Clock) -> None:
        self._views = views
        self._clock = clock

    async def list(self, request: ListRequest) -> dict[str, Any]:
        """One page: `rows`, and `next`: the `after` of the following page, or None."""
        page = await self._views.list_rows(_selector(request), limit=request.limit, after=request.after)
        now_s = self._clock.wall_s()
        return {"rows": [show_row(row, now_s) for row in page.rows], "next": page.after}

    async def show(self, message_id: str) -> dict[str, Any]:
        """One message with its recipients. Raises AdminError if it is neither queued nor handed off."""
        found = await self.find(message_id)
        if found is None:
            raise _no_such_message(message_id)
        return found

    async def find(self, message_id: str) -> dict[str, Any] | None:
        """The same; None if it is not there."""
        if not is_message_id(message_id):
            return None
        view = await self._views.show(MessageId(message_id))
        return None if view is None else _show_message(MessageId(message_id), view, self._clock.wall_s())

    async def stats(self) -> dict[str, Any]:
        """Counts: `total`, one per state, and ages against domains and against nodes."""
        return _show_stats(await self._views.stats(), self._clock.wall_s())

    async def check(self) -> CheckResult:
        """What is wrong with the stored queue."""
        return await self._views.check()


class QueueService(QueueReader):
    """All queue verbs."""

    def __init__(self, views: QueueViews, operations: QueueOperations, clock: Clock) -> None:
        super().__init__(views, clock)
        self._operations = operations

    async def change(
        self, verb: Verb, request: ChangeRequest, *, uid: int, progress: Callable[[Progress], None]
    ) -> dict[str, Any]:
        """Carry out a verb on all rows that match. Raises AdminError without a selector, or for unknown ids."""
        selector = _selector(request)
        if selector.is_empty and not request.everything:
            raise AdminError("say which: --id, --sender, --recipient, --node, --state, --older, or --everything",
                             Kind.USAGE)  # fmt: skip
        if request.everything and not selector.is_empty:
            raise AdminError("--everything and a selector contradict each other", Kind.USAGE)
        order = Order(verb=verb, selector=selector, uid=uid, reason=request.reason, dry_run=request.dry_run)
        result = await self._operations.run(
            order, lambda so_far: progress(Progress(so_far.matched_count, 0, "recipients"))
        )
        if result.matched_count == 0 and selector.ids:
            raise _no_such_message(", ".join(selector.ids[:5]))
        if not request.dry_run:
            _tell(order, result)
        return {
            "verb": verb.value,
            "dry_run": request.dry_run,
            "matched": result.matched_count,
            "changed": result.changed_count,
            "skipped": result.skipped_count,
            "changed_rows": [{"id": id_, "recipient": recipient} for id_, recipient in result.changed],
            "skipped_rows": [{"id": id_, "recipient": who, "reason": why} for id_, who, why in result.skipped],
        }


def _no_such_message(message_id: str) -> AdminError:
    return AdminError(f"no message {printable(message_id, 120)} is queued or handed off")


def _selector(request: Selection) -> Selector:
    for state in request.states:
        if state not in SHOWN_STATES:
            raise AdminError(f"{printable(state, 40)!r} is not a state; use {', '.join(SHOWN_STATES)}", Kind.USAGE)
    for id_ in request.ids:
        if not is_message_id(id_):
            raise _no_such_message(id_)
    return Selector(
        ids=tuple(MessageId(id_) for id_ in request.ids),
        senders=request.senders,
        recipients=request.recipients,
        states=request.states,
        nodes=tuple(NodeId(node) for node in request.nodes),
        older_s=request.older_s,
    )


def _tell(order: Order, result: VerbResult) -> None:
    by = f"uid {order.uid}"
    log.emit(
        "admin_action",
        verb=f"queue {order.verb.value}",
        selector=selector_text(order.selector),
        reason=printable(order.reason, 500),
        uid=order.uid,
        rows_count=result.changed_count,
    )
    for id_, recipient in result.changed:
        log.emit(
            _EVENTS[order.verb], id=id_, recipient=printable(recipient), by=by, reason=printable(order.reason, 500)
        )


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


def _show_message(message_id: MessageId, view: MessageView, now_s: float) -> dict[str, Any]:
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


def _show_stats(stats: Stats, now_s: float) -> dict[str, Any]:
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
