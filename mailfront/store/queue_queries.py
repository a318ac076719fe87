"""What an administrator asks of the queue: pages of rows, one message, counts by age, and what is not as it should be.

A page goes on after the last key of the page before (keyset), so its cost does not grow with its number. The condition
`node` cannot be asked of the database, because rows do not know their home: the caller filters pages.

Functions of an open connection: give them to `Store.read`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, func, or_, select, tuple_

from mailfront.base.ids import MessageId
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.store.message_rows import split_key
from mailfront.store.queue_values import HandoffState, RecipientState
from mailfront.store.schema import body_chunk, handoff, message, recipient

Key = tuple[str, int]
FIRST_KEY: Key = ("", -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which rows are meant: all conditions that are given must hold. Several values of one condition: any of them.

    `senders` and `recipients` are addresses or `@domain`; the sender `<>` is the null reverse-path. `states` are the
    words of `mailfront.queue.rows.SHOWN_STATES`; `nodes` where a mailbox lives (or, for unknown, where it was tried).
    `older_s`: arrived at least so many seconds ago.
    """

    ids: tuple[MessageId, ...] = ()
    senders: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    nodes: tuple[NodeId, ...] = ()
    older_s: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it selects everything."""
        return self == Selector()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRow:
    """One line of `queue list`. `state` is a stored state, or `handed-off` (then `node` is the holder).

    `home` is where the mailbox lives now; the database does not know it, so it is filled in later.
    """

    id: MessageId
    number: int
    recipient: str
    sender: str | None
    state: str
    mailbox_key: MailboxKey
    bucket: int | None
    node: NodeId | None
    home: NodeId | None = None
    arrived_s: float
    size_bytes: int | None
    attempts: int
    next_attempt_s: float
    tried_s: float
    last_reply: str
    reason: str


@dataclass(slots=True)
class Shape:
    """Counts per age class: `ages[i]` rows are younger than the i-th limit and not younger than the one before; the
    last entry is what is older than all limits."""

    ages: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All ages together."""
        return sum(self.ages)


_WAITING = RecipientState.WAITING.value
HANDED_OFF = "handed-off"
_AWAY = (HandoffState.STORED.value, HandoffState.DRAINING.value, HandoffState.HELD.value)


def page_of_rows(connection: Connection, selector: Selector, after: Key, limit: int, now_s: float) -> list[ListedRow]:
    """The next `limit` queued recipients that fit (all conditions but `nodes`), in the order of their arrival."""
    query = (
        select(
            recipient.c.message_id,
            recipient.c.number,
            recipient.c.address,
            message.c.reverse_path,
            recipient.c.state,
            recipient.c.mailbox_key,
            recipient.c.bucket,
            recipient.c.node,
            recipient.c.arrived_s,
            message.c.size_bytes,
            recipient.c.attempts,
            recipient.c.next_attempt_s,
            recipient.c.tried_s,
            recipient.c.last_reply,
            recipient.c.reason,
        )
        .join(message, message.c.id == recipient.c.message_id)
        .where(*_row_conditions(selector, now_s), tuple_(recipient.c.message_id, recipient.c.number) > after)
        .order_by(recipient.c.message_id, recipient.c.number)
        .limit(limit)
    )
    return [_listed(row) for row in connection.execute(query)]


def page_of_handoffs(
    connection: Connection, selector: Selector, after: Key, limit: int, now_s: float
) -> list[ListedRow]:
    """The next `limit` handed-off recipients that fit (all conditions but `nodes`)."""
    if not _may_be_away(selector):
        return []
    columns = handoff.c
    query = (
        select(handoff)
        .where(*_away_conditions(selector, now_s), tuple_(columns.message_id, columns.number) > after)
        .order_by(columns.message_id, columns.number)
        .limit(limit)
    )
    return [
        ListedRow(
            id=MessageId(row.message_id),
            number=row.number,
            recipient=row.address,
            sender=row.reverse_path,
            state=HANDED_OFF,
            mailbox_key=MailboxKey(row.mailbox_key),
            bucket=None,
            node=NodeId(row.holder),
            home=NodeId(row.home),
            arrived_s=row.arrived_s,
            size_bytes=None,
            attempts=row.attempts,
            next_attempt_s=row.next_attempt_s,
            tried_s=row.changed_s,
            last_reply=row.last_reply,
            reason=f"home {row.home} was away" if row.state != HandoffState.HELD.value else f"{row.home} refused it",
        )
        for row in connection.execute(query)
    ]


def count_rows(connection: Connection, selector: Selector, now_s: float) -> int:
    """Recipients, queued and handed off, that fit all conditions but `nodes`."""
    query = select(func.count()).select_from(recipient).where(*_row_conditions(selector, now_s))
    if selector.senders:
        query = query.join(message, message.c.id == recipient.c.message_id)
    count = int(connection.execute(query).scalar_one())
    away = select(func.count()).select_from(handoff).where(*_away_conditions(selector, now_s))
    return count + (int(connection.execute(away).scalar_one()) if _may_be_away(selector) else 0)


def count_by_state(connection: Connection) -> dict[str, int]:
    """Queued recipients per stored state; states without rows are absent."""
    query = select(recipient.c.state, func.count()).group_by(recipient.c.state)
    return {str(state): int(count) for state, count in connection.execute(query)}


def count_due(connection: Connection, now_s: float) -> int:
    """Waiting recipients whose time has come."""
    query = select(func.count()).where(recipient.c.state == _WAITING, recipient.c.next_attempt_s <= now_s)
    return int(connection.execute(query).scalar_one())


def count_handed_off(connection: Connection) -> int:
    """Recipients whose copies are with a holder."""
    return int(connection.execute(select(func.count()).where(handoff.c.state.in_(_AWAY))).scalar_one())


def shape_by_domain(connection: Connection, limits_s: Sequence[float], now_s: float) -> dict[tuple[str, str], Shape]:
    """Queued recipients per stored state, recipient domain and age. `limits_s` are the age limits, ascending."""
    return _shape(connection, (recipient.c.state, recipient.c.domain), limits_s, now_s)


def shape_by_bucket(connection: Connection, limits_s: Sequence[float], now_s: float) -> dict[tuple[str, int], Shape]:
    """Queued recipients per stored state, bucket and age."""
    return _shape(connection, (recipient.c.state, recipient.c.bucket), limits_s, now_s)


def shape_by_mailbox(
    connection: Connection, buckets: range, limits_s: Sequence[float], now_s: float
) -> dict[tuple[int, MailboxKey], Shape]:
    """Queued recipients per mailbox and age, in some buckets: for counts where mailboxes are pinned."""
    states = [state.value for state in RecipientState]
    meant = (recipient.c.state.in_(states), recipient.c.bucket >= buckets.start, recipient.c.bucket < buckets.stop)
    return _shape(connection, (recipient.c.bucket, recipient.c.mailbox_key), limits_s, now_s, *meant)


def _shape(
    connection: Connection, by: tuple[Any, Any], limits_s: Sequence[float], now_s: float, *meant: ColumnElement[bool]
) -> dict[tuple[Any, Any], Shape]:
    younger = [_younger(limit_s, now_s) for limit_s in limits_s]
    query = select(*by, *younger, func.count()).where(*meant).group_by(*by)
    shapes: dict[tuple[Any, Any], Shape] = {}
    for first, second, *cumulative in connection.execute(query):
        ages = [int(more) - int(less) for less, more in zip([0, *cumulative[:-1]], cumulative, strict=True)]
        shapes[first, second] = Shape(ages)
    return shapes


def _younger(limit_s: float, now_s: float) -> ColumnElement[int]:
    return func.sum(case((recipient.c.arrived_s > now_s - limit_s, 1), else_=0))


def stored_bytes(connection: Connection) -> tuple[int, int, float | None]:
    """Messages that have recipients, their bytes, and when the oldest of them arrived."""
    query = select(func.count(), func.sum(message.c.size_bytes), func.min(message.c.arrived_s)).where(
        message.c.state.in_(("queued", "expired"))
    )
    count, size_bytes, oldest_s = connection.execute(query).one()
    return int(count), int(size_bytes or 0), oldest_s


def page_of_checks(connection: Connection, after: MessageId, limit: int) -> list[tuple[MessageId, str, int, int, int]]:
    """For the next `limit` messages: id, state, declared bytes, stored bytes, recipients."""
    stored = (
        select(func.coalesce(func.sum(func.length(body_chunk.c.data)), 0))
        .where(body_chunk.c.message_id == message.c.id)
        .scalar_subquery()
    )
    recipients = select(func.count()).where(recipient.c.message_id == message.c.id).scalar_subquery()
    query = (
        select(message.c.id, message.c.state, message.c.size_bytes, stored, recipients)
        .where(message.c.id > after)
        .order_by(message.c.id)
        .limit(limit)
    )
    return [(MessageId(a), str(b), int(c), int(d), int(e)) for a, b, c, d, e in connection.execute(query)]


def _row_conditions(selector: Selector, now_s: float) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if selector.ids:
        conditions.append(recipient.c.message_id.in_(selector.ids))
    if selector.senders:
        conditions.append(
            or_(*(_address(message.c.sender_domain, message.c.sender_local, s) for s in selector.senders))
        )
    if selector.recipients:
        conditions.append(or_(*(_address(recipient.c.domain, recipient.c.local_key, r) for r in selector.recipients)))
    if selector.states:
        conditions.append(_state_condition(selector.states, now_s))
    if selector.older_s is not None:
        conditions.append(recipient.c.arrived_s <= now_s - selector.older_s)
    return conditions


def _may_be_away(selector: Selector) -> bool:
    return not selector.states or HANDED_OFF in selector.states


def _away_conditions(selector: Selector, now_s: float) -> list[ColumnElement[bool]]:
    columns = handoff.c
    conditions: list[ColumnElement[bool]] = [columns.state.in_(_AWAY)]
    if selector.ids:
        conditions.append(columns.message_id.in_(selector.ids))
    if selector.senders:
        conditions.append(_any_address(columns.reverse_path, selector.senders))
    if selector.recipients:
        conditions.append(_any_address(columns.address, selector.recipients))
    if selector.older_s is not None:
        conditions.append(columns.arrived_s <= now_s - selector.older_s)
    return conditions


def _state_condition(states: Sequence[str], now_s: float) -> ColumnElement[bool]:
    stored = {state.value for state in RecipientState} - {_WAITING}
    parts: list[ColumnElement[bool]] = []
    if wanted := sorted(stored.intersection(states)):
        parts.append(recipient.c.state.in_(wanted) if len(wanted) > 1 else recipient.c.state == wanted[0])
    if "due" in states and "deferred" in states:
        parts.append(recipient.c.state == _WAITING)
    elif "due" in states:
        parts.append(and_(recipient.c.state == _WAITING, recipient.c.next_attempt_s <= now_s))
    elif "deferred" in states:
        parts.append(and_(recipient.c.state == _WAITING, recipient.c.next_attempt_s > now_s))
    return or_(*parts) if parts else recipient.c.state.is_(None)


def _address(domain: Any, local: Any, wanted: str) -> ColumnElement[bool]:
    if wanted.startswith("@"):
        return and_(domain == wanted[1:].lower())
    wanted_domain, wanted_local = split_key("" if wanted == "<>" else wanted)
    return and_(domain == wanted_domain, local == wanted_local)


def _any_address(column: Any, wanted: Sequence[str]) -> ColumnElement[bool]:
    """Hints are few: compared as text, the domain by its end."""
    parts: list[ColumnElement[bool]] = []
    for one in wanted:
        if one == "<>":
            parts.append(column.is_(None))
        elif one.startswith("@"):
            parts.append(func.lower(column).endswith(one.lower(), autoescape=True))
        else:
            parts.append(func.lower(column) == one.lower())
    return or_(*parts)


def _listed(row: Row[Any]) -> ListedRow:
    return ListedRow(
        id=MessageId(row.message_id),
        number=row.number,
        recipient=row.address,
        sender=row.reverse_path,
        state=row.state,
        mailbox_key=MailboxKey(row.mailbox_key),
        bucket=row.bucket,
        node=None if row.node is None else NodeId(row.node),
        arrived_s=row.arrived_s,
        size_bytes=row.size_bytes,
        attempts=row.attempts,
        next_attempt_s=row.next_attempt_s,
        tried_s=row.tried_s,
        last_reply=row.last_reply,
        reason=row.reason,
    )
