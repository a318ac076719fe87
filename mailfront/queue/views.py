"""What can be seen of the queue: pages, one message, counts by age and destination.

Reads only, so it also works beside a running server or without one. Long answers are put together from short reads and
are therefore not one moment's picture. Raises StoreFailed if the database does not answer.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mailfront.base.ids import MessageId
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.queue.pending import BUCKETS_COUNT, Homes
from mailfront.queue.rows import SHOWN_STATES, QueuedMessage, RecipientState
from mailfront.store import message_rows, queue_queries
from mailfront.store.errors import StoreFailed
from mailfront.store.queue_queries import FIRST_KEY, HANDED_OFF, Key, ListedRow, Selector, Shape
from mailfront.store.writer import Connection, Store

K = TypeVar("K")

AGE_LIMITS_S = tuple(60.0 * minutes for minutes in (5, 10, 20, 40, 80, 160, 320, 640, 1280))
"""The age classes of `stats`; a last one holds what is older."""
MOST_RECIPIENTS_SHOWN = 10_000
_PAGE = 500
_COUNT_S = 1.0
_BUCKETS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows in the order of arrival; `after` is where the next page goes on, None: these are the last."""

    rows: tuple[ListedRow, ...]
    after: Key | None


@dataclass(frozen=True, slots=True)
class MessageView:
    """One message and all its recipients that are not done. `message` None: only handed-off copies are known."""

    message: QueuedMessage | None
    recipients: tuple[ListedRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts. `states` has every shown state; `total` is their sum. The shapes count what is in the queue itself."""

    total: int
    states: dict[str, int]
    messages_count: int
    size_bytes: int
    oldest_s: float | None
    by_domain: dict[str, Shape]
    by_node: dict[NodeId, Shape]
    age_limits_s: tuple[float, ...] = AGE_LIMITS_S


class QueueViews:
    """See the module. `homes` says where mailboxes live; set it again when the map changes."""

    def __init__(self, store: Store, homes: Homes) -> None:
        self._store = store
        self.homes = homes

    async def list_rows(self, selector: Selector, *, limit: int, after: Key = FIRST_KEY) -> Page:
        """The next rows that fit, queued and handed off, in the order of arrival."""
        now_s = self._store.clock.wall_s()
        ask = max(limit, _PAGE) if selector.nodes else limit
        found: list[ListedRow] = []
        position = after
        while len(found) < limit:
            rows = await self._page(selector, position, ask, now_s)
            found += [row for row in rows if not selector.nodes or self._is_at(row, selector.nodes)]
            if len(rows) < ask:
                cut = found[:limit]
                return Page(tuple(cut), _key(cut[-1]) if len(found) > limit else None)
            position = _key(rows[-1])
        cut = found[:limit]
        return Page(tuple(cut), _key(cut[-1]))

    async def count_rows(self, selector: Selector) -> int:
        """How many rows fit, for a progress bar; 0 where counting would take as long as looking at all of them."""
        if selector.nodes:
            return 0
        now_s = self._store.clock.wall_s()
        try:
            return await self._store.read(
                lambda connection: queue_queries.count_rows(connection, selector, now_s), limit_s=_COUNT_S
            )
        except StoreFailed:
            return 0

    async def show(self, message_id: MessageId) -> MessageView | None:
        """One message with its recipients; None if it is neither queued nor handed off."""
        page = await self.list_rows(Selector(ids=(message_id,)), limit=MOST_RECIPIENTS_SHOWN)

        def read(connection: Connection) -> QueuedMessage | None:
            try:
                return message_rows.get_message(connection, message_id)
            except (ValueError, TypeError):
                return None  # a damaged row: what is left are its recipients, and `check` says more

        message = await self._store.read(read)
        return MessageView(message, page.rows) if message is not None or page.rows else None

    async def stats(self) -> Stats:
        """Counts per state, and ages against recipient domains and against nodes."""
        store, now_s = self._store, self._store.clock.wall_s()
        by_domain, by_node = await asyncio.gather(
            store.read(lambda connection: queue_queries.shape_by_domain(connection, AGE_LIMITS_S, now_s)),
            self._shape_by_node(now_s),
        )
        due_count, (count, size_bytes, oldest_s), away_count = await asyncio.gather(
            store.read(lambda connection: queue_queries.count_due(connection, now_s)),
            store.read(queue_queries.stored_bytes),
            store.read(queue_queries.count_handed_off),
        )
        domains: dict[str, Shape] = {}
        stored: dict[str, int] = {}
        for (state, domain), shape in by_domain.items():
            _add(domains, domain, shape)
            stored[state] = stored.get(state, 0) + shape.total
        states = dict.fromkeys(SHOWN_STATES, 0) | stored
        waiting_count = states.pop(RecipientState.WAITING.value, 0)
        states["due"] = min(due_count, waiting_count)
        states["deferred"] = waiting_count - states["due"]
        states[HANDED_OFF] = away_count
        return Stats(
            total=sum(states.values()),
            states=states,
            messages_count=count,
            size_bytes=size_bytes,
            oldest_s=oldest_s,
            by_domain=domains,
            by_node=by_node,
        )

    async def _page(self, selector: Selector, after: Key, limit: int, now_s: float) -> list[ListedRow]:
        """The next `limit` rows of both tables together."""
        queued = await self._store.read(
            lambda connection: queue_queries.page_of_rows(connection, selector, after, limit, now_s)
        )
        handed_off = await self._store.read(
            lambda connection: queue_queries.page_of_handoffs(connection, selector, after, limit, now_s)
        )
        rows = [replace(row, home=self.homes.home_of(row.mailbox_key, row.bucket or 0)) for row in queued]
        return sorted([*rows, *handed_off], key=_key)[:limit]

    def _is_at(self, row: ListedRow, nodes: Sequence[NodeId]) -> bool:
        if row.state == HANDED_OFF:
            return row.node in nodes or row.home in nodes
        return (row.node or row.home) in nodes

    async def _shape_by_node(self, now_s: float) -> dict[NodeId, Shape]:
        store, homes = self._store, self.homes
        shapes: dict[NodeId, Shape] = {}
        if not any(homes.pins_in(bucket) for bucket in range(BUCKETS_COUNT)):
            by_bucket = await store.read(
                lambda connection: queue_queries.shape_by_bucket(connection, AGE_LIMITS_S, now_s)
            )
            for (_, bucket), shape in by_bucket.items():
                _add(shapes, homes.home_of(_NO_KEY, bucket), shape)
            return shapes
        for start in range(0, BUCKETS_COUNT, _BUCKETS_AT_ONCE):
            by_mailbox = await self._by_mailbox(range(start, start + _BUCKETS_AT_ONCE), now_s)
            for (bucket, key), shape in by_mailbox.items():
                _add(shapes, homes.home_of(key, bucket), shape)
        return shapes

    async def _by_mailbox(self, buckets: range, now_s: float) -> dict[tuple[int, MailboxKey], Shape]:
        return await self._store.read(
            lambda connection: queue_queries.shape_by_mailbox(connection, buckets, AGE_LIMITS_S, now_s)
        )


_NO_KEY = MailboxKey("")


def _key(row: ListedRow) -> Key:
    return row.id, row.number


def _add(shapes: dict[K, Shape], key: K, shape: Shape) -> None:
    total = shapes.setdefault(key, Shape([0] * len(shape.ages)))
    total.ages = [mine + more for mine, more in zip(total.ages, shape.ages, strict=True)]
