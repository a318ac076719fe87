"""What is wrong with the stored queue: the database's own check, bodies that are not whole, rows that cannot be read.

Reads every message and recipient row, in short reads; on demand also every piece of every body. Changes nothing: a
damaged row or body is set aside when it is claimed or sent (`claims`, `Queue.set_aside`), with an alarm.

Raises StoreFailed if the database does not answer.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.mail.next_hop import NEXT_HOP_BUCKET
from mailfront.queue.queue import ORPHAN_S
from mailfront.queue.rows import RecipientState
from mailfront.store import message_rows, queue_queries, recipient_rows
from mailfront.store.engine import integrity_problems
from mailfront.store.errors import CorruptBody
from mailfront.store.queue_queries import FIRST_KEY, Key
from mailfront.store.writer import Connection, Store

R = TypeVar("R")

MOST_PROBLEMS = 200
_PAGE = 500
_CHECK_S = 600.0
_KNOWN = frozenset(state.value for state in RecipientState)

Step = Callable[["CheckResult"], None]
"""Told after each page, for a progress bar."""


@dataclass(slots=True)
class CheckResult:
    """What was looked at and found wrong, one line per problem, at most `MOST_PROBLEMS`."""

    messages_count: int = 0
    recipients_count: int = 0
    pieces_count: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether enough was found."""
        return len(self.problems) >= MOST_PROBLEMS

    def note(self, problem: str) -> None:
        """Add a line."""
        if not self.is_full:
            self.problems.append(printable(problem, 400))


async def check_queue(store: Store, *, with_bodies: bool = False, step: Step | None = None) -> CheckResult:
    """See the module."""
    result = CheckResult()
    lines = await store.read(lambda connection: integrity_problems(connection, MOST_PROBLEMS), limit_s=_CHECK_S)
    for line in lines:
        result.note(f"database: {line}")
    tell = step or (lambda _: None)
    ids = await _pages(result, tell, lambda after: _messages(store, after, result), MessageId(""))
    await _pages(result, tell, lambda after: _recipients(store, after, result), FIRST_KEY)
    orphans = await store.read(lambda c: message_rows.orphans_count(c, store.clock.wall_s() - 2 * ORPHAN_S))
    if orphans:
        result.note(f"{orphans} bodies were begun over two hours ago and not swept")
    if with_bodies:
        for message_id in ids:
            if result.is_full:
                break
            await _body(store, message_id, result)
            tell(result)
    return result


async def _pages(
    result: CheckResult, tell: Step, page: Callable[[R], Awaitable[tuple[Sequence[MessageId], R | None]]], first: R
) -> list[MessageId]:
    """Look at all pages, or until enough was found. Returns the messages with bodies that they name."""
    ids: list[MessageId] = []
    position: R | None = first
    while position is not None and not result.is_full:
        found, position = await page(position)
        ids += found
        tell(result)
    return ids


async def _messages(
    store: Store, after: MessageId, result: CheckResult
) -> tuple[Sequence[MessageId], MessageId | None]:
    rows = await store.read(lambda connection: queue_queries.page_of_checks(connection, after, _PAGE))
    with_bodies = []
    for message_id, state, declared_bytes, stored_bytes, recipients_count in rows:
        result.messages_count += state not in (message_rows.DONE, message_rows.DISOWNED)
        result.recipients_count += recipients_count
        if problem := _problem(state, declared_bytes, stored_bytes, recipients_count):
            result.note(f"{message_id}: {problem}")
        elif stored_bytes:
            with_bodies.append(message_id)
    return with_bodies, rows[-1][0] if rows else None


async def _recipients(store: Store, after: Key, result: CheckResult) -> tuple[Sequence[MessageId], Key | None]:
    def read(connection: Connection) -> tuple[list[str], Key | None]:
        problems = []
        rows = recipient_rows.page_of_rows(connection, after, _PAGE)
        for row in rows:
            try:
                value = recipient_rows.recipient_from_row(row)
            except (ValueError, TypeError) as error:
                why = f"the unknown state {row.state!r}" if row.state not in _KNOWN else str(error)
                problems.append(f"{row.message_id}/{row.number}: {why}")
                continue
            if value.state in (RecipientState.UNKNOWN, RecipientState.ACTIVE) and value.node is None:
                problems.append(f"{row.message_id}/{row.number}: {value.state.value} without a node")
            if not 0 <= value.bucket <= NEXT_HOP_BUCKET:
                problems.append(f"{row.message_id}/{row.number}: there is no bucket {value.bucket}")
        return problems, (rows[-1].message_id, rows[-1].number) if rows else None

    problems, position = await store.read(read)
    for problem in problems:
        result.note(problem)
    return (), position


async def _body(store: Store, message_id: MessageId, result: CheckResult) -> None:
    """Compare every piece with its checksum."""
    number = 0
    while True:
        try:
            piece = await store.read(lambda connection: message_rows.get_chunk(connection, message_id, number))  # noqa: B023
        except CorruptBody as error:
            result.note(str(error))
            return
        if piece is None:
            return
        number += 1
        result.pieces_count += 1


def _problem(state: str, declared_bytes: int, stored_bytes: int, recipients_count: int) -> str:
    if state in (message_rows.QUEUED, message_rows.EXPIRED):
        if not recipients_count:
            return "queued, and without recipients"
        if declared_bytes != stored_bytes:
            return f"{stored_bytes} of {declared_bytes} bytes of its body are stored"
    elif state not in (message_rows.INCOMING, message_rows.DONE, message_rows.DISOWNED):
        return f"unknown state {printable(state)!r}"
    elif recipients_count:
        return f"{recipients_count} recipients although its state is {state}"
    return ""
