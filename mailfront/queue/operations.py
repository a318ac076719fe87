"""What an administrator may do to queued mail: retry, hold, release, bounce, delete, redirect. Audited.

A verb runs over its selection in pages, each one transaction, so that mail goes on meanwhile. What a row is is looked
at again inside the transaction (`verb_effects`), so two administrators, or an administrator and an attempt, never act
on the same picture. The audit row is committed with the first page and counts on with each further one.
"""

from collections.abc import Callable, Sequence

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.queue.changes import Changes
from mailfront.queue.queue import Queue
from mailfront.queue.verb_effects import Order, Verb, VerbResult, change_handed_off, change_queued, rehearse
from mailfront.queue.views import QueueViews
from mailfront.store import audit_rows, recipient_rows
from mailfront.store.audit_rows import AuditRow
from mailfront.store.message_rows import split_key
from mailfront.store.queue_queries import FIRST_KEY, HANDED_OFF, Key, ListedRow, Selector
from mailfront.store.writer import Connection

__all__ = ["Changed", "Order", "QueueOperations", "Verb", "VerbResult", "order_text", "selector_text"]

PAGE_ROWS = 200

Changed = Sequence[tuple[MessageId, str]]
"""Rows that a verb has changed: message and recipient."""


class QueueOperations:
    """See the module."""

    def __init__(self, queue: Queue, views: QueueViews) -> None:
        self._queue = queue
        self._views = views

    async def run(
        self,
        order: Order,
        progress: Callable[[VerbResult, int], None] | None = None,
        changed: Callable[[Changed], None] = lambda rows: None,
    ) -> VerbResult:
        """Apply a verb to everything that fits. `progress` is told after each page, and of how many rows in all;
        `changed` of each row that was changed, when that is committed.

        Raises StoreFailed; pages before it stay done. Cancellation: the same.
        """
        result = VerbResult()
        audit_number: int | None = None
        after: Key | None = FIRST_KEY
        own_notices: set[str] = set()
        total_count = 0 if progress is None else await self._views.count_rows(order.selector)
        while after is not None:
            page = await self._views.list_rows(order.selector, limit=PAGE_ROWS, after=after)
            # A bounce of everything comes to the notices of its first pages: these are to be delivered.
            rows = [row for row in page.rows if row.id not in own_notices]
            result.matched_count += len(rows)
            if order.dry_run:
                await self._rehearse(order, rows, result)
            elif rows:
                audit_number, notices = await self._apply(order, rows, result, audit_number, changed)
                own_notices |= notices
            if progress is not None:
                progress(result, total_count)
            after = page.after
        return result

    async def _apply(
        self,
        order: Order,
        rows: Sequence[ListedRow],
        result: VerbResult,
        audit_number: int | None,
        changed: Callable[[Changed], None] = lambda rows: None,
    ) -> tuple[int, set[str]]:
        """Do a page. Returns the number of the audit row, and the notices that were made."""
        now_s = self._queue.store.clock.wall_s()
        before_count = result.changed_count

        def operation(connection: Connection) -> tuple[int, VerbResult, Changes]:
            done, changes = VerbResult(most_shown=len(rows)), Changes()
            queued = [row for row in rows if row.state != HANDED_OFF]
            change_queued(connection, order, queued, done, changes, self._queue.notices, now_s)
            for row in rows:
                if row.state == HANDED_OFF:
                    change_handed_off(connection, order.verb, row, done)
            number = audit_number
            if number is None:
                number = audit_rows.add_audit(connection, _audit_row(order, now_s))
            audit_rows.set_audit_count(connection, number, before_count + done.changed_count)
            return number, done, changes

        number, done, changes = await self._queue.store.write(
            operation, committed=lambda answer: self._queue.note(answer[2])
        )
        result.add(done)
        changed(done.changed)
        return number, {told.notice for told in changes.told if told.notice}

    async def _rehearse(self, order: Order, rows: Sequence[ListedRow], result: VerbResult) -> None:
        """Count what the verb would do to a page."""
        served: set[MessageId] = set()
        if order.verb is Verb.REDIRECT:
            ids, address = [row.id for row in rows], split_key(order.to)
            served = await self._queue.store.read(lambda c: recipient_rows.messages_with_address(c, ids, *address))
        for row in rows:
            rehearse(result, order, row, served)


def _audit_row(order: Order, now_s: float) -> AuditRow:
    return AuditRow(
        at_s=now_s,
        uid=order.uid,
        verb=f"queue {order.verb.value}",
        selector=order_text(order),
        reason=printable(order.reason, 500),
    )


def order_text(order: Order) -> str:
    """What an order is about, for the audit and the log: its selector, and where a redirection leads."""
    chosen = selector_text(order.selector)
    return printable(f"{chosen} --to {order.to}", 800) if order.to else chosen


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
