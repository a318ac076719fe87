"""Rows of queued recipients: insert, claim, results, leases, and the earliest attempt per bucket.

Functions of an open connection: give them to `Store.write` or `Store.read`. A claim reads one bucket through the index
(state, bucket, time) and stops at its limit, so it costs the same with ten rows and with a million.
`FOR UPDATE SKIP LOCKED` is said where a database with several writers needs it; SQLite leaves it out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from mailfront.base.ids import MessageId
from mailfront.mail.envelope import NO_OPTIONS, RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.store.message_rows import split_key
from mailfront.store.queue_values import QueuedRecipient, RecipientState
from mailfront.store.schema import IS_UNKNOWN, recipient

_INSERT = insert(recipient)
_WAITING, _ACTIVE = RecipientState.WAITING.value, RecipientState.ACTIVE.value
LEASES_AT_ONCE = 1000
FEW_NUMBERS = 200
RECIPIENT_COLUMNS = tuple(column for column in recipient.c if column.name not in ("domain", "local_key", "arrived_s"))


# Built once: building a statement costs more than running it.
_OF_MESSAGE = select(*RECIPIENT_COLUMNS).where(recipient.c.message_id == bindparam("id")).order_by(recipient.c.number)
_OF_MESSAGE_IN_STATE = _OF_MESSAGE.where(recipient.c.state == bindparam("in_state"))
_OF_MESSAGE_NUMBERED = _OF_MESSAGE.where(recipient.c.number.in_(bindparam("numbers", expanding=True)))
_ONE = and_(recipient.c.message_id == bindparam("of"), recipient.c.number == bindparam("at"))
_ACTIVATE = (
    update(recipient)
    .where(_ONE)
    .values(
        state=_ACTIVE,
        node=bindparam("to_node"),
        lease_owner=bindparam("owner"),
        lease_until_s=bindparam("until_s"),
        attempts=recipient.c.attempts + 1,
        tried_s=bindparam("now_s"),
    )
)
_DELETE_ONE = delete(recipient).where(_ONE)
_IN_BUCKET = and_(recipient.c.state == _WAITING, recipient.c.bucket == bindparam("in_bucket"))
_IS_DUE = recipient.c.next_attempt_s <= bindparam("now_s")
_IS_KICKED = and_(recipient.c.blame == "node", recipient.c.tried_s < bindparam("kicked_s"))


def _due(is_due: ColumnElement[bool]) -> Select[tuple[str, int]]:
    return (
        select(recipient.c.message_id, recipient.c.number)
        .where(_IN_BUCKET, is_due)
        .order_by(recipient.c.next_attempt_s)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)
    )


_DUE, _DUE_OR_KICKED = _due(_IS_DUE), _due(or_(_IS_DUE, _IS_KICKED))
_EARLIEST = select(func.min(recipient.c.next_attempt_s)).where(_IN_BUCKET)


def insert_recipients(
    connection: Connection, message_id: MessageId, arrived_s: float, values: Iterable[QueuedRecipient]
) -> None:
    """Insert recipients of a message that is there already."""
    rows = []
    for value in values:
        domain, local = split_key(value.address)
        rows.append(
            {
                "message_id": message_id,
                "number": value.number,
                "address": value.address,
                "domain": domain,
                "local_key": local,
                "mailbox_key": value.mailbox_key,
                "bucket": value.bucket,
                "node_user": value.node_user,
                "notify": value.options.notify,
                "orcpt": value.options.orcpt,
                "state": value.state.value,
                "arrived_s": arrived_s,
                "next_attempt_s": value.next_attempt_s,
                "attempts": value.attempts,
                "tried_s": value.tried_s,
                "blame": value.blame,
                "last_reply": value.last_reply,
                "reason": value.reason,
                "node": value.node,
                "lease_owner": value.lease_owner,
                "lease_until_s": value.lease_until_s,
                "via": value.via,
                "list_owner": value.list_owner,
                "warned": value.warned,
            }
        )
    if rows:
        connection.execute(_INSERT, rows)


def recipient_from_row(row: Row[Any]) -> QueuedRecipient:
    """Make a value from `RECIPIENT_COLUMNS`. Raises ValueError or TypeError if the row is damaged."""
    options = NO_OPTIONS
    if row.notify is not None or row.orcpt is not None:
        options = RecipientOptions(notify=row.notify, orcpt=row.orcpt)
    for text in (row.address, row.mailbox_key, row.node_user):
        if not isinstance(text, str) or not text:
            raise ValueError("a name is missing")
    return QueuedRecipient(
        number=int(row.number),
        address=row.address,
        mailbox_key=MailboxKey(row.mailbox_key),
        bucket=int(row.bucket),
        node_user=NodeUser(row.node_user),
        options=options,
        state=RecipientState(row.state),
        next_attempt_s=float(row.next_attempt_s),
        attempts=int(row.attempts),
        tried_s=float(row.tried_s),
        blame=row.blame,
        last_reply=row.last_reply,
        reason=row.reason,
        node=None if row.node is None else NodeId(row.node),
        lease_owner=row.lease_owner,
        lease_until_s=None if row.lease_until_s is None else float(row.lease_until_s),
        via=row.via,
        list_owner=row.list_owner,
        warned=bool(row.warned),
    )


def recipient_rows(
    connection: Connection, message_id: MessageId, state: RecipientState | None = None
) -> list[Row[Any]]:
    """The rows of one message in order, all or those in one state. Make values of them with `recipient_from_row`."""
    if state is None:
        return list(connection.execute(_OF_MESSAGE, {"id": message_id}))
    return list(connection.execute(_OF_MESSAGE_IN_STATE, {"id": message_id, "in_state": state.value}))


def page_of_rows(connection: Connection, after: tuple[str, int], limit: int) -> list[Row[Any]]:
    """The next `limit` rows of all messages. Make values of them with `recipient_from_row`."""
    place = tuple_(recipient.c.message_id, recipient.c.number)
    query = (
        select(*RECIPIENT_COLUMNS)
        .where(place > after)
        .order_by(recipient.c.message_id, recipient.c.number)
        .limit(limit)
    )
    return list(connection.execute(query))


def rows_numbered(connection: Connection, message_id: MessageId, numbers: Collection[int]) -> list[Row[Any]]:
    """Those rows of one message that have these numbers, in order. See `recipient_rows`."""
    if len(numbers) <= FEW_NUMBERS:
        return list(connection.execute(_OF_MESSAGE_NUMBERED, {"id": message_id, "numbers": sorted(numbers)}))
    return [row for row in connection.execute(_OF_MESSAGE, {"id": message_id}) if row.number in numbers]


def due_rows(
    connection: Connection,
    bucket: int,
    now_s: float,
    limit: int,
    *,
    keys_in: Collection[MailboxKey] | None = None,
    keys_not_in: Collection[MailboxKey] = (),
    kicked_s: float | None = None,
) -> list[tuple[MessageId, int]]:
    """Waiting rows of one bucket whose time has come, oldest time first, at most `limit`.

    `keys_in` keeps only these mailboxes, `keys_not_in` leaves these out. `kicked_s`: also rows that wait because of
    their node and were last tried before then.
    """
    query, values = _DUE, {"in_bucket": bucket, "now_s": now_s, "most": limit}
    if kicked_s is not None:
        query, values = _DUE_OR_KICKED, values | {"kicked_s": kicked_s}
    if keys_in is not None or keys_not_in:
        query = query.where(*_key_conditions(keys_in, keys_not_in))
    return [(MessageId(row.message_id), row.number) for row in connection.execute(query, values)]


def unknown_rows(
    connection: Connection, node: NodeId, now_s: float, limit: int, *, kicked_s: float | None = None
) -> list[tuple[MessageId, int]]:
    """Rows of unknown outcome at `node` whose time has come, at most `limit`."""
    is_due: ColumnElement[bool] = recipient.c.next_attempt_s <= now_s
    if kicked_s is not None:
        is_due = or_(is_due, recipient.c.tried_s < kicked_s)
    query = (
        select(recipient.c.message_id, recipient.c.number)
        .where(IS_UNKNOWN, recipient.c.node == node, is_due)
        .order_by(recipient.c.next_attempt_s)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [(MessageId(row.message_id), row.number) for row in connection.execute(query)]


def activate(
    connection: Connection,
    message_id: MessageId,
    numbers: Sequence[int],
    *,
    node: NodeId,
    owner: str,
    until_s: float,
    now_s: float,
) -> None:
    """Record that an attempt at `node` begins for these rows."""
    lease = {"to_node": node, "owner": owner, "until_s": until_s, "now_s": now_s}
    connection.execute(_ACTIVATE, [{"of": message_id, "at": number, **lease} for number in numbers])


def earliest_in_bucket(
    connection: Connection,
    bucket: int,
    *,
    keys_in: Collection[MailboxKey] | None = None,
    keys_not_in: Collection[MailboxKey] = (),
) -> float | None:
    """When the next attempt in a bucket is due; None if nothing waits there."""
    query = _EARLIEST
    if keys_in is not None or keys_not_in:
        query = query.where(*_key_conditions(keys_in, keys_not_in))
    found: float | None = connection.execute(query, {"in_bucket": bucket}).scalar()
    return found


def earliest_per_bucket(connection: Connection) -> dict[int, float]:
    """When the next attempt is due, for every bucket in which something waits."""
    query = (
        select(recipient.c.bucket, func.min(recipient.c.next_attempt_s))
        .where(recipient.c.state == _WAITING)
        .group_by(recipient.c.bucket)
    )
    return {int(bucket): float(earliest_s) for bucket, earliest_s in connection.execute(query)}


def earliest_unknown(connection: Connection) -> dict[NodeId, float]:
    """When the next attempt is due for rows of unknown outcome, per node."""
    query = select(recipient.c.node, func.min(recipient.c.next_attempt_s)).where(IS_UNKNOWN).group_by(recipient.c.node)
    return {NodeId(node): float(earliest_s) for node, earliest_s in connection.execute(query) if node is not None}


def earliest_unknown_at(connection: Connection, node: NodeId) -> float | None:
    """When the next attempt is due for rows of unknown outcome at one node; None: there are none."""
    query = select(func.min(recipient.c.next_attempt_s)).where(IS_UNKNOWN, recipient.c.node == node)
    found: float | None = connection.execute(query).scalar()
    return found


def unknown_counts(connection: Connection) -> dict[NodeId, int]:
    """How many rows of unknown outcome there are, per node."""
    query = select(recipient.c.node, func.count()).where(IS_UNKNOWN).group_by(recipient.c.node)
    return {NodeId(node): int(count) for node, count in connection.execute(query) if node is not None}


def delete_recipients(connection: Connection, message_id: MessageId, numbers: Sequence[int]) -> None:
    """Delete rows that are done."""
    if numbers:
        connection.execute(_DELETE_ONE, [{"of": message_id, "at": number} for number in numbers])


def change_recipients(
    connection: Connection, message_id: MessageId, numbers: Sequence[int], values: Mapping[str, Any]
) -> None:
    """Change columns of some rows of one message."""
    connection.execute(update(recipient).where(_rows(message_id, numbers)).values(**values))


def change_keys_except(
    connection: Connection, bucket: int, known: Collection[MailboxKey], key: MailboxKey, now_s: float
) -> int:
    """Give `key` to the rows of a bucket that have none of the known ones, and make them due. Rows that may be on their
    way (active, unknown) stay. Returns how many were changed."""
    moving = (_ACTIVE, RecipientState.UNKNOWN.value)
    lost = and_(recipient.c.bucket == bucket, recipient.c.mailbox_key.not_in(known), recipient.c.state.not_in(moving))
    values = {"mailbox_key": key, "node_user": recipient.c.address, "next_attempt_s": now_s}
    return connection.execute(update(recipient).where(lost).values(**values)).rowcount


def states_of(connection: Connection, keys: Sequence[tuple[MessageId, int]]) -> list[Row[Any]]:
    """What a verb must know of these rows, as they are now."""
    if not keys:
        return []
    columns = recipient.c
    numbers = [number for _, number in keys]
    # Not a list of pairs: for that SQLite reads the whole table.
    query = select(
        columns.message_id,
        columns.number,
        columns.state,
        columns.bucket,
        columns.mailbox_key,
        columns.node,
        columns.address,
        columns.orcpt,
        columns.reason,
    ).where(
        columns.message_id.in_({message_id for message_id, _ in keys}),
        columns.number.between(min(numbers), max(numbers)),
    )
    meant = set(keys)
    return [row for row in connection.execute(query) if (row.message_id, row.number) in meant]


def messages_with_address(
    connection: Connection, message_ids: Sequence[MessageId], domain: str, local_key: str
) -> set[MessageId]:
    """Which of these messages have a row for an address (as `split_key` gives it)."""
    query = select(recipient.c.message_id).where(
        recipient.c.domain == domain, recipient.c.local_key == local_key, recipient.c.message_id.in_(message_ids)
    )
    return {MessageId(row.message_id) for row in connection.execute(query)}


def change_rows(connection: Connection, keys: Sequence[tuple[MessageId, int]], values: Mapping[str, Any]) -> None:
    """Change columns of rows of several messages."""
    if keys:
        named = {f"to_{name}": value for name, value in values.items()}
        change = update(recipient).where(_ONE).values({name: bindparam(f"to_{name}") for name in values})
        connection.execute(change, [{"of": message_id, "at": number, **named} for message_id, number in keys])


def change_each(connection: Connection, changes: Sequence[tuple[MessageId, int, Mapping[str, Any]]]) -> None:
    """Change the same columns of several rows, each to values of its own."""
    if changes:
        change = update(recipient).where(_ONE).values({name: bindparam(f"to_{name}") for name in changes[0][2]})
        rows = [
            {"of": message_id, "at": number, **{f"to_{name}": value for name, value in values.items()}}
            for message_id, number, values in changes
        ]
        connection.execute(change, rows)


def delete_rows(connection: Connection, keys: Sequence[tuple[MessageId, int]]) -> None:
    """Delete rows of several messages. Call `finish_if_empty` for the messages."""
    if keys:
        connection.execute(_DELETE_ONE, [{"of": message_id, "at": number} for message_id, number in keys])


def active_rows(
    connection: Connection, *, owner: str | None = None, lapsed_before_s: float | None = None
) -> list[tuple[MessageId, int, NodeId | None]]:
    """Active rows of one owner, or whose lease ended before `lapsed_before_s`; at most `LEASES_AT_ONCE`."""
    query = select(recipient.c.message_id, recipient.c.number, recipient.c.node).where(recipient.c.state == _ACTIVE)
    if owner is not None:
        query = query.where(recipient.c.lease_owner == owner)
    if lapsed_before_s is not None:
        lapsed = or_(recipient.c.lease_until_s.is_(None), recipient.c.lease_until_s < lapsed_before_s)
        query = query.where(lapsed)
    return [
        (MessageId(row.message_id), row.number, None if row.node is None else NodeId(row.node))
        for row in connection.execute(query.limit(LEASES_AT_ONCE))
    ]


def lease_owners(connection: Connection) -> list[str]:
    """Who holds leases of active rows."""
    query = select(recipient.c.lease_owner).where(recipient.c.state == _ACTIVE).distinct()
    return [str(row.lease_owner) for row in connection.execute(query) if row.lease_owner is not None]


def renew_leases(connection: Connection, owner: str, until_s: float) -> int:
    """Move the end of all leases of one owner. Returns how many there are."""
    changed = connection.execute(
        update(recipient)
        .where(recipient.c.state == _ACTIVE, recipient.c.lease_owner == owner)
        .values(lease_until_s=until_s)
    )
    return changed.rowcount


def _rows(message_id: MessageId, numbers: Sequence[int]) -> ColumnElement[bool]:
    if len(numbers) == 1:
        return and_(recipient.c.message_id == message_id, recipient.c.number == numbers[0])
    return and_(recipient.c.message_id == message_id, recipient.c.number.in_(numbers))


def _key_conditions(
    keys_in: Collection[MailboxKey] | None, keys_not_in: Collection[MailboxKey]
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if keys_in is not None:
        conditions.append(recipient.c.mailbox_key.in_(sorted(keys_in)))
    if keys_not_in:
        conditions.append(recipient.c.mailbox_key.not_in(sorted(keys_not_in)))
    return conditions
