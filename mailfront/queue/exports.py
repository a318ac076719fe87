"""Reading messages whole, to be written elsewhere: envelope, DSN parameters, recipients with their states, and body.

A page never cuts a message: all of its selected recipients come together, read in one transaction with the message.
The body is read piece by piece afterwards, so it may be gone by then (the message was delivered): then there is nothing
to export. Handed-off copies lie at nodes and are not in here; they are counted.

Reads only. Raises StoreFailed if the database does not answer, CorruptBody if a piece is not what was stored.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mailfront.base.ids import MessageId
from mailfront.queue.check import CheckResult, Step, check_queue
from mailfront.queue.rows import QueuedMessage, QueuedRecipient
from mailfront.queue.views import QueueViews
from mailfront.store import message_rows, recipient_rows
from mailfront.store.queue_queries import HANDED_OFF, Key, ListedRow, Selector
from mailfront.store.writer import Connection, Store

PAGE_ROWS = 500
_TOGETHER = 50
"""Messages that one read transaction takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMessage:
    """One message with those of its recipients that were selected. `damaged`: rows that cannot be read, and why."""

    message: QueuedMessage
    recipients: tuple[QueuedRecipient, ...]
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPage:
    """Some messages. `rows_count` recipients were looked at, `handed_off_count` of them are at nodes. `after` is where
    the next page goes on; None: these are the last. `damaged`: messages that cannot be read, and why."""

    messages: tuple[ExportedMessage, ...]
    rows_count: int
    handed_off_count: int
    after: Key | None
    damaged: tuple[str, ...] = ()


class QueueExport:
    """See the module."""

    def __init__(self, store: Store, views: QueueViews) -> None:
        self._store = store
        self._views = views

    async def page(self, selector: Selector, after: Key) -> ExportPage:
        """The next messages that have selected recipients."""
        rows, goes_on = await self._whole_messages(selector, after)
        numbers: dict[MessageId, set[int]] = {}
        for row in rows:
            if row.state != HANDED_OFF:
                numbers.setdefault(row.id, set()).add(row.number)
        messages: list[ExportedMessage] = []
        damaged: list[str] = []
        meant = list(numbers.items())
        for start in range(0, len(meant), _TOGETHER):
            found, bad = await self._read(meant[start : start + _TOGETHER])
            messages += found
            damaged += bad
        return ExportPage(
            messages=tuple(messages),
            rows_count=len(rows),
            handed_off_count=sum(row.state == HANDED_OFF for row in rows),
            after=goes_on,
            damaged=tuple(damaged),
        )

    async def piece(self, message_id: MessageId, number: int) -> bytes | None:
        """One piece of a body, of at most 256 KiB; None after the last, or if the message is gone."""
        return await self._store.read(lambda connection: message_rows.get_chunk(connection, message_id, number))

    async def check(self, *, with_bodies: bool, step: Step) -> CheckResult:
        """What is wrong with all of it, see `check`."""
        return await check_queue(self._store, with_bodies=with_bodies, step=step)

    async def _whole_messages(self, selector: Selector, after: Key) -> tuple[list[ListedRow], Key | None]:
        rows: list[ListedRow] = []
        position = after
        while True:
            page = await self._views.list_rows(selector, limit=PAGE_ROWS, after=position)
            rows += page.rows
            if page.after is None:
                return rows, None
            whole = [row for row in rows if row.id != rows[-1].id]
            if whole:
                return whole, (whole[-1].id, whole[-1].number)
            position = page.after

    async def _read(self, meant: Sequence[tuple[MessageId, set[int]]]) -> tuple[list[ExportedMessage], list[str]]:
        """Some messages, in one short read; those that are gone are left out."""

        def read(connection: Connection) -> tuple[list[ExportedMessage], list[str]]:
            found, damaged = [], []
            for message_id, numbers in meant:
                try:
                    message = message_rows.get_message(connection, message_id)
                except (ValueError, TypeError) as error:
                    damaged.append(f"{message_id}: {error}")
                    continue
                if message is not None:
                    found.append(_with_recipients(connection, message, numbers))
            return [each for each in found if each.recipients or each.damaged], damaged

        return await self._store.read(read)


def _with_recipients(connection: Connection, message: QueuedMessage, numbers: Collection[int]) -> ExportedMessage:
    good, damaged = [], []
    for found in recipient_rows.recipient_rows(connection, message.id):
        if found.number not in numbers:
            continue
        try:
            good.append(recipient_rows.recipient_from_row(found))
        except (ValueError, TypeError) as error:
            damaged.append(f"{message.id}/{found.number}: {error}")
    return ExportedMessage(message=message, recipients=tuple(good), damaged=tuple(damaged))
