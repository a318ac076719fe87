"""Rows of handed-off copies (hints), one per recipient and holder.

Functions of an open connection: give them to `Store.write` or `Store.read`. `queue.handoff_rows` says when a row
changes from which state to which; here are only the statements.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, or_, select, update

from mailfront.base.ids import MessageId
from mailfront.mail.envelope import NO_OPTIONS, RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.store.queue_values import HandoffRow, HandoffState
from mailfront.store.schema import handoff

_INSERT = insert(handoff)
_STORED, _DRAINING, _HELD = HandoffState.STORED.value, HandoffState.DRAINING.value, HandoffState.HELD.value


def insert_handoffs(connection: Connection, rows: Iterable[HandoffRow]) -> None:
    """Insert rows that are not there yet."""
    values = [
        {
            "message_id": row.id,
            "holder": row.holder,
            "number": row.number,
            "home": row.home,
            "mailbox_key": row.mailbox_key,
            "address": row.address,
            "node_user": row.node_user,
            "notify": row.options.notify,
            "orcpt": row.options.orcpt,
            "reverse_path": row.reverse_path,
            "arrived_s": row.arrived_s,
            "state": row.state.value,
            "changed_s": row.changed_s,
            "attempts": row.attempts,
            "next_attempt_s": row.next_attempt_s,
            "last_reply": row.last_reply,
            "node": row.node,
            "lease_owner": row.lease_owner,
            "lease_until_s": row.lease_until_s,
        }
        for row in rows
    ]
    if values:
        connection.execute(_INSERT, values)


def handoff_from_row(row: Row[Any]) -> HandoffRow:
    """Make a value from a row. Raises ValueError or TypeError if the row is damaged."""
    options = NO_OPTIONS
    if row.notify is not None or row.orcpt is not None:
        options = RecipientOptions(notify=row.notify, orcpt=row.orcpt)
    return HandoffRow(
        id=MessageId(row.message_id),
        holder=NodeId(row.holder),
        number=int(row.number),
        home=NodeId(row.home),
        mailbox_key=MailboxKey(row.mailbox_key),
        address=row.address,
        node_user=NodeUser(row.node_user),
        options=options,
        reverse_path=row.reverse_path,
        arrived_s=float(row.arrived_s),
        state=HandoffState(row.state),
        changed_s=float(row.changed_s),
        attempts=int(row.attempts),
        next_attempt_s=float(row.next_attempt_s),
        last_reply=row.last_reply,
        node=None if row.node is None else NodeId(row.node),
        lease_owner=row.lease_owner,
        lease_until_s=None if row.lease_until_s is None else float(row.lease_until_s),
    )


def handoffs_of(
    connection: Connection, message_ids: Sequence[MessageId], holder: NodeId | None = None
) -> list[HandoffRow]:
    """All rows of these messages, at one holder or at any."""
    query = select(handoff).where(handoff.c.message_id.in_(message_ids))
    if holder is not None:
        query = query.where(handoff.c.holder == holder)
    query = query.order_by(handoff.c.message_id, handoff.c.holder, handoff.c.number)
    return [handoff_from_row(row) for row in connection.execute(query)]


def drainable(connection: Connection, holder: NodeId, home: NodeId, now_s: float, limit: int) -> list[HandoffRow]:
    """Rows at `holder` for `home` that may be tried now: stored, or draining without a live lease. Oldest first."""
    without_lease = and_(
        handoff.c.state == _DRAINING, or_(handoff.c.lease_until_s.is_(None), handoff.c.lease_until_s < now_s)
    )
    query = (
        select(handoff)
        .where(
            handoff.c.state.in_((_STORED, _DRAINING)),
            handoff.c.holder == holder,
            handoff.c.home == home,
            handoff.c.next_attempt_s <= now_s,
            or_(handoff.c.state == _STORED, without_lease),
        )
        .order_by(handoff.c.next_attempt_s)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [handoff_from_row(row) for row in connection.execute(query)]


def change_handoffs(
    connection: Connection,
    message_id: MessageId,
    holders: Collection[NodeId],
    values: Mapping[str, Any],
    *,
    home: NodeId | None = None,
    numbers: Sequence[int] | None = None,
    states: Collection[HandoffState] = (),
) -> int:
    """Change columns of a message's rows at these holders; only those of one home, those numbers and states, when
    given."""
    statement = update(handoff).where(*_rows(message_id, holders, numbers, states)).values(**values)
    if home is not None:
        statement = statement.where(handoff.c.home == home)
    return connection.execute(statement).rowcount


def delete_handoffs(
    connection: Connection, message_id: MessageId, holder: NodeId, numbers: Sequence[int] | None = None
) -> int:
    """Delete a message's rows at one holder, all or those numbers."""
    return connection.execute(delete(handoff).where(*_rows(message_id, (holder,), numbers, ()))).rowcount


def handoff_counts(connection: Connection) -> dict[tuple[NodeId, NodeId, HandoffState], int]:
    """How many rows that are not over there are per holder, home and state. Tombstones of a month are not looked at."""
    keys = (handoff.c.holder, handoff.c.home, handoff.c.state)
    query = (
        select(*keys, func.count().label("rows"))
        .where(handoff.c.state.in_((_STORED, _DRAINING, _HELD)))
        .group_by(handoff.c.state, handoff.c.holder, handoff.c.home)
    )
    return {(NodeId(r.holder), NodeId(r.home), HandoffState(r.state)): int(r.rows) for r in connection.execute(query)}


def oldest_handoff_s(connection: Connection) -> float | None:
    """When the oldest copy that is not at home arrived; None if all are."""
    query = select(func.min(handoff.c.arrived_s)).where(handoff.c.state.in_((_STORED, _DRAINING)))
    found: float | None = connection.execute(query).scalar()
    return found


def wake_handoffs(connection: Connection, home: NodeId) -> int:
    """Make every row that waits for `home` due at once."""
    changed = connection.execute(
        update(handoff)
        .where(handoff.c.state.in_((_STORED, _DRAINING)), handoff.c.home == home, handoff.c.next_attempt_s > 0.0)
        .values(next_attempt_s=0.0)
    )
    return changed.rowcount


def handoff_lease_owners(connection: Connection) -> list[str]:
    """Who holds leases of rows that are being brought home."""
    query = select(handoff.c.lease_owner).where(handoff.c.state == _DRAINING).distinct()
    return [str(row.lease_owner) for row in connection.execute(query) if row.lease_owner is not None]


def release_handoff_leases(connection: Connection, owner: str) -> int:
    """End the leases of a process that died; its rows stay `draining`, their outcome unknown."""
    changed = connection.execute(
        update(handoff)
        .where(handoff.c.state == _DRAINING, handoff.c.lease_owner == owner)
        .values(lease_owner=None, lease_until_s=None)
    )
    return changed.rowcount


def renew_handoff_leases(connection: Connection, owner: str, until_s: float) -> int:
    """Move the end of all leases of one owner. Returns how many there are."""
    changed = connection.execute(
        update(handoff)
        .where(handoff.c.state == _DRAINING, handoff.c.lease_owner == owner)
        .values(lease_until_s=until_s)
    )
    return changed.rowcount


def sweep_handoffs(connection: Connection, before_s: float, limit: int) -> int:
    """Forget tombstones that are older than `before_s`, at most `limit`."""
    over = (HandoffState.DONE.value, HandoffState.EXPUNGED.value, HandoffState.SUPERSEDED.value)
    keys = (handoff.c.message_id, handoff.c.holder, handoff.c.number)
    query = select(*keys).where(handoff.c.state.in_(over), handoff.c.changed_s < before_s).limit(limit)
    rows = connection.execute(query).all()
    for row in rows:
        delete_handoffs(connection, row.message_id, row.holder, [row.number])
    return len(rows)


def _rows(
    message_id: MessageId,
    holders: Collection[NodeId],
    numbers: Sequence[int] | None,
    states: Collection[HandoffState],
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        handoff.c.message_id == message_id,
        handoff.c.holder.in_(sorted(holders)),
    ]
    if numbers is not None:
        conditions.append(handoff.c.number.in_(sorted(numbers)))
    if states:
        conditions.append(handoff.c.state.in_([state.value for state in states]))
    return conditions
