"""What an administrator may do to queued mail: retry, hold, release, bounce, delete. Audited.

A verb runs over its selection in pages, each one transaction, so that mail goes on meanwhile. What a row is is looked
at again inside the transaction: a row that is active by then is left alone and reported as `active at NODE`.
The audit row is committed with the first page and counts on with each further one.

Handed-off copies can only be retried, and released when home had refused them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.mail.names import NodeId
from mailfront.queue.changes import Changes, end_rows
from mailfront.queue.notices import NoticePolicy
from mailfront.queue.queue import Queue
from mailfront.queue.rows import HandoffState, RecipientState
from mailfront.queue.views import QueueViews
from mailfront.store import audit_rows, handoff_rows, message_rows, recipient_rows
from mailfront.store.audit_rows import AuditRow
from mailfront.store.queue_queries import FIRST_KEY, HANDED_OFF, Key, ListedRow, Selector
from mailfront.store.writer import Connection

PAGE_ROWS = 200
GIVEN_UP = "554 5.0.0 the administrator of this mail system has given up the delivery"
"""What the sender of a bounced message is told. The reason in the order is for the audit, not for the sender."""
MOST_SKIPPED_SHOWN = 100


class Verb(Enum):
    """RETRY: try what waits now. HOLD: do not try until released. RELEASE: try what is held. BOUNCE: give it up and
    tell the sender. DELETE: give it up and tell nobody."""

    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    BOUNCE = "bounce"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A verb, on what, and on whose word. `selector` empty means everything: the caller has made sure that it is."""

    verb: Verb
    selector: Selector
    uid: int
    reason: str = ""
    dry_run: bool = False


@dataclass(slots=True)
class VerbResult:
    """`matched_count` rows fit the selector; `changed_count` of them were (or with dry_run would be) changed.

    `skipped` says why others were not: (id, recipient, why), at most `MOST_SKIPPED_SHOWN` of `skipped_count`.
    """

    matched_count: int = 0
    changed_count: int = 0
    skipped_count: int = 0
    skipped: list[tuple[MessageId, str, str]] = field(default_factory=list)
    changed: list[tuple[MessageId, str]] = field(default_factory=list)


_WAITING, _ACTIVE, _HELD, _QUARANTINED, _UNKNOWN = (
    state.value
    for state in (
        RecipientState.WAITING,
        RecipientState.ACTIVE,
        RecipientState.HELD,
        RecipientState.QUARANTINED,
        RecipientState.UNKNOWN,
    )
)
_APPLIES_TO = {
    Verb.RETRY: (_WAITING, _UNKNOWN),
    Verb.HOLD: (_WAITING, _UNKNOWN, _QUARANTINED),
    Verb.RELEASE: (_HELD, _QUARANTINED),
    Verb.BOUNCE: (_WAITING, _UNKNOWN, _HELD, _QUARANTINED),
    Verb.DELETE: (_WAITING, _UNKNOWN, _HELD, _QUARANTINED),
}


class QueueOperations:
    """See the module."""

    def __init__(self, queue: Queue, views: QueueViews) -> None:
        self._queue = queue
        self._views = views

    async def run(self, order: Order, progress: Callable[[VerbResult], None] | None = None) -> VerbResult:
        """Apply a verb to everything that fits. `progress` is told after each page.

        Raises StoreFailed; pages before it stay done. Cancellation: the same.
        """
        result = VerbResult()
        audit_number: int | None = None
        after: Key | None = FIRST_KEY
        while after is not None:
            page = await self._views.list_rows(order.selector, limit=PAGE_ROWS, after=after)
            result.matched_count += len(page.rows)
            if order.dry_run:
                for row in page.rows:
                    _judge(result, row, order.verb, row.state, row.node)
            elif page.rows:
                audit_number = await self._apply(order, page.rows, result, audit_number)
            if progress is not None:
                progress(result)
            after = page.after
        return result

    async def _apply(
        self, order: Order, rows: Sequence[ListedRow], result: VerbResult, audit_number: int | None
    ) -> int:
        now_s = self._queue.store.clock.wall_s()
        before_count = result.changed_count

        def operation(connection: Connection) -> tuple[int, VerbResult, list[Any], Changes]:
            done, changes = VerbResult(), Changes()
            queued = [row for row in rows if row.state != HANDED_OFF]
            notes = _change_queued(connection, order, queued, done, changes, self._queue.notices, now_s)
            for row in rows:
                if row.state == HANDED_OFF:
                    _change_handed_off(connection, order.verb, row, done)
            number = audit_number
            if number is None:
                number = audit_rows.add_audit(connection, _audit_row(order, now_s))
            audit_rows.set_audit_count(connection, number, before_count + done.changed_count)
            return number, done, notes, changes

        def committed(answer: tuple[int, VerbResult, list[Any], Changes]) -> None:
            self._queue.note(answer[3])
            for row in answer[2]:
                if row.node is None:
                    self._queue.pending.note(row.bucket, row.mailbox_key, now_s)
                else:
                    self._queue.pending.note_unknown(NodeId(row.node), now_s)

        number, done, _, _ = await self._queue.store.write(operation, committed=committed)
        result.changed_count += done.changed_count
        result.skipped_count += done.skipped_count
        room = MOST_SKIPPED_SHOWN - len(result.skipped)
        result.skipped += done.skipped[:room]
        result.changed += done.changed[: MOST_SKIPPED_SHOWN - len(result.changed)]
        return number


def _change_queued(
    connection: Connection,
    order: Order,
    rows: Sequence[ListedRow],
    done: VerbResult,
    changes: Changes,
    notices: NoticePolicy,
    now_s: float,
) -> list[Any]:
    """Apply the verb to queued rows as they are now. Returns the rows that are due by it, for the pending index."""
    if not rows:
        return []
    listed = {(row.id, row.number): row for row in rows}
    fit: list[Any] = []
    for now in recipient_rows.states_of(connection, list(listed)):
        node = None if now.node is None else NodeId(now.node)
        if _judge(done, listed[now.message_id, now.number], order.verb, now.state, node):
            fit.append(now)
    keys = [(MessageId(row.message_id), row.number) for row in fit]
    if order.verb is Verb.BOUNCE:
        for message_id in dict.fromkeys(message_id for message_id, _ in keys):
            numbers = {number for of, number in keys if of == message_id}
            end_rows(connection, changes, notices, message_id, numbers, GIVEN_UP, now_s)
        return []
    if order.verb is Verb.DELETE:
        recipient_rows.delete_rows(connection, keys)
        for message_id in dict.fromkeys(message_id for message_id, _ in keys):
            message_rows.finish_if_empty(connection, message_id, now_s)
        return []
    if order.verb is Verb.HOLD:
        why = f"held by uid {order.uid}" + (f": {printable(order.reason, 200)}" if order.reason else "")
        recipient_rows.change_rows(connection, keys, {"state": _HELD, "reason": why})
        return []
    # A held row that still names a node was of unknown outcome there: it goes back to being searched for first.
    unknown = [(MessageId(row.message_id), row.number) for row in fit if row.node is not None]
    waiting = [(MessageId(row.message_id), row.number) for row in fit if row.node is None]
    due: dict[str, Any] = {"next_attempt_s": now_s, "reason": ""}
    recipient_rows.change_rows(connection, unknown, {"state": _UNKNOWN, **due})
    recipient_rows.change_rows(connection, waiting, {"state": _WAITING, **due})
    return fit


def _change_handed_off(connection: Connection, verb: Verb, row: ListedRow, done: VerbResult) -> None:
    if verb not in (Verb.RETRY, Verb.RELEASE) or row.node is None:
        _skip(done, row, f"handed-off at {row.node}")
        return
    values: dict[str, Any] = {"next_attempt_s": 0.0}
    states: tuple[HandoffState, ...] = (HandoffState.STORED, HandoffState.DRAINING)
    if verb is Verb.RELEASE:
        values["state"], states = HandoffState.STORED.value, (HandoffState.HELD,)
    changed = handoff_rows.change_handoffs(connection, row.id, (row.node,), values, numbers=[row.number], states=states)
    if changed:
        _count(done, row)
    else:
        _skip(done, row, f"handed-off at {row.node}")


def _judge(result: VerbResult, row: ListedRow, verb: Verb, state: str, node: NodeId | None) -> bool:
    """Whether a verb applies to a row in this state; counts it either way."""
    if state == HANDED_OFF:
        if verb in (Verb.RETRY, Verb.RELEASE):
            _count(result, row)
            return True
        _skip(result, row, f"handed-off at {node}")
        return False
    if state in _APPLIES_TO[verb]:
        _count(result, row)
        return True
    _skip(result, row, f"active at {node}" if state == _ACTIVE else f"it is {_WORD.get(state, state)}")
    return False


_WORD = {_WAITING: "not held"}


def _count(result: VerbResult, row: ListedRow) -> None:
    result.changed_count += 1
    if len(result.changed) < MOST_SKIPPED_SHOWN:
        result.changed.append((row.id, row.recipient))


def _skip(result: VerbResult, row: ListedRow, why: str) -> None:
    result.skipped_count += 1
    if len(result.skipped) < MOST_SKIPPED_SHOWN:
        result.skipped.append((row.id, row.recipient, why))


def _audit_row(order: Order, now_s: float) -> AuditRow:
    return AuditRow(
        at_s=now_s,
        uid=order.uid,
        verb=f"queue {order.verb.value}",
        selector=selector_text(order.selector),
        reason=printable(order.reason, 500),
    )


def selector_text(selector: Selector) -> str:
    """A selector as it would be typed, for the audit and the log."""
    words: list[str] = []
    for name, values in (
        ("id", selector.ids),
        ("sender", selector.senders),
        ("recipient", selector.recipients),
        ("node", selector.nodes),
        ("state", selector.states),
    ):
        words += [f"--{name} {value}" for value in values[:20]]
    if selector.older_s is not None:
        words.append(f"--older {selector.older_s:.0f}s")
    return printable(" ".join(words) or "--everything", 500)
