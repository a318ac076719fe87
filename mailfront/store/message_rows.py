"""Rows of messages and their bodies.

A body is kept in pieces of at most 256 KiB, each with a CRC-32. A large one is written piece by piece under a message
in state `incoming`; the accepting commit only flips it to `queued`. A message whose last recipient is done loses its
body and stays as `done` for a while, so that an accept that is sent again is recognised. `disowned` is the mark of an
id that nobody may accept any more. `expired` is a queued message whose lifetime is over: what is left
of it is held, or active for the last time.

Functions of an open connection: give them to `Store.write` or `Store.read`.
"""

import zlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, literal, select, tuple_, update

from mailfront.base.ids import MessageId
from mailfront.mail.envelope import BodyType
from mailfront.store.engine import keeping_insert
from mailfront.store.errors import CorruptBody
from mailfront.store.queue_values import QueuedMessage
from mailfront.store.schema import body_chunk, message, recipient

INCOMING, QUEUED, EXPIRED, DONE, DISOWNED = "incoming", "queued", "expired", "done", "disowned"

_INSERT = insert(message)
_STATE = select(message.c.state).where(message.c.id == bindparam("id"))
MESSAGE_COLUMNS = (
    message.c.id,
    message.c.reverse_path,
    message.c.arrived_s,
    message.c.expires_s,
    message.c.size_bytes,
    message.c.body_type,
    message.c.smtputf8,
    message.c.ret,
    message.c.envid,
    message.c.client_ip,
    message.c.sha256,
    message.c.sender_proven,
)


# Statements of the accepting and the settling path are built once: building one costs more than running it.
_GET = select(*MESSAGE_COLUMNS).where(
    message.c.id == bindparam("id"), message.c.state.in_((literal(QUEUED), literal(EXPIRED)))
)
_EXPIRY = select(message.c.expires_s).where(message.c.id == bindparam("id"))
_SET_STATE = (
    update(message)
    .where(message.c.id == bindparam("of"))
    .values(state=bindparam("to_state"), changed_s=bindparam("now_s"))
)
_INSERT_CHUNK = insert(body_chunk)
_PUT_CHUNK = keeping_insert(body_chunk)
_GET_CHUNK = select(body_chunk.c.data, body_chunk.c.crc32).where(
    body_chunk.c.message_id == bindparam("id"), body_chunk.c.number == bindparam("number")
)
_HAS_RECIPIENTS = select(recipient.c.number).where(recipient.c.message_id == bindparam("id")).limit(1)
_DELETE_CHUNKS = delete(body_chunk).where(body_chunk.c.message_id == bindparam("id"))


def split_key(address: str) -> tuple[str, str]:
    """Domain and folded local part of an address: what selectors compare. ('', '') for the null reverse-path."""
    local, _, domain = address.rpartition("@")
    return (domain.lower(), local.casefold()) if local else ("", domain.casefold())


def message_state(connection: Connection, message_id: MessageId) -> str | None:
    """The state of a message, or None if there is no such row."""
    state: str | None = connection.execute(_STATE, {"id": message_id}).scalar()
    return state


def insert_message(connection: Connection, value: QueuedMessage, state: str, now_s: float) -> None:
    """Insert a message without recipients and body."""
    domain, local = split_key(value.reverse_path or "")
    connection.execute(
        _INSERT,
        {
            "id": value.id,
            "state": state,
            "reverse_path": value.reverse_path,
            "sender_domain": domain,
            "sender_local": local,
            "arrived_s": value.arrived_s,
            "expires_s": value.expires_s,
            "changed_s": now_s,
            "size_bytes": value.size_bytes,
            "body_type": value.body_type.value,
            "smtputf8": value.smtputf8,
            "ret": value.ret,
            "envid": value.envid,
            "client_ip": value.client_ip,
            "sha256": value.sha256,
            "sender_proven": value.sender_proven,
        },
    )


def set_message_state(connection: Connection, message_id: MessageId, state: str, now_s: float) -> None:
    """Change the state of a message."""
    connection.execute(_SET_STATE, {"of": message_id, "to_state": state, "now_s": now_s})


def insert_whole_body(connection: Connection, message_id: MessageId, data: bytes) -> None:
    """Store the body of a new message in one piece."""
    connection.execute(_INSERT_CHUNK, {"message_id": message_id, "number": 0, "crc32": zlib.crc32(data), "data": data})


def put_chunk(connection: Connection, message_id: MessageId, number: int, data: bytes) -> None:
    """Store one piece of a body; a piece that is there already is left as it is."""
    row = {"message_id": message_id, "number": number, "crc32": zlib.crc32(data), "data": data}
    connection.execute(_PUT_CHUNK, row)


def get_chunk(connection: Connection, message_id: MessageId, number: int) -> bytes | None:
    """One piece of a body; None after the last. Raises CorruptBody if it is not what was stored."""
    row = connection.execute(_GET_CHUNK, {"id": message_id, "number": number}).first()
    if row is None:
        return None
    if not isinstance(row.data, bytes) or zlib.crc32(row.data) != row.crc32:
        raise CorruptBody(f"{message_id}: piece {number} of the stored body does not match its checksum")
    return row.data


def message_from_row(row: Row[Any]) -> QueuedMessage:
    """Make a value from `MESSAGE_COLUMNS`. Raises ValueError or TypeError if the row is damaged."""
    return QueuedMessage(
        id=MessageId(row.id),
        reverse_path=row.reverse_path,
        arrived_s=float(row.arrived_s),
        expires_s=float(row.expires_s),
        size_bytes=int(row.size_bytes),
        body_type=BodyType(row.body_type),
        smtputf8=bool(row.smtputf8),
        ret=row.ret,
        envid=row.envid,
        client_ip=row.client_ip,
        sha256=row.sha256,
        sender_proven=None if row.sender_proven is None else bool(row.sender_proven),
    )


def get_message(connection: Connection, message_id: MessageId) -> QueuedMessage | None:
    """A message that is queued or expired, else None. Raises ValueError or TypeError if its row is damaged."""
    row = connection.execute(_GET, {"id": message_id}).first()
    return None if row is None else message_from_row(row)


def expiry_of(connection: Connection, message_id: MessageId) -> float | None:
    """When a message's lifetime ends; None if there is no such message."""
    expires_s: float | None = connection.execute(_EXPIRY, {"id": message_id}).scalar()
    return expires_s


def finish_if_empty(connection: Connection, message_id: MessageId, now_s: float, state: str = DONE) -> bool:
    """If a message has no recipients left, delete its body and keep it in `state`. Returns whether that is so."""
    if connection.execute(_HAS_RECIPIENTS, {"id": message_id}).first() is not None:
        return False
    connection.execute(_DELETE_CHUNKS, {"id": message_id})
    set_message_state(connection, message_id, state, now_s)
    return True


def mark_disowned(connection: Connection, message_id: MessageId, now_s: float) -> None:
    """Leave a mark under the id of a message that is not there (yet)."""
    value = QueuedMessage(id=message_id, reverse_path=None, arrived_s=now_s, expires_s=now_s, size_bytes=0)
    insert_message(connection, value, DISOWNED, now_s)


def sweep_messages(connection: Connection, state: str, before_s: float, limit: int) -> list[MessageId]:
    """Delete at most `limit` messages that have been in `state` since before `before_s`. Returns their ids."""
    query = select(message.c.id).where(message.c.state == state, message.c.changed_s < before_s).limit(limit)
    ids = [MessageId(row.id) for row in connection.execute(query)]
    if ids:
        connection.execute(delete(message).where(message.c.id.in_(ids)))
    return ids


def orphans_count(connection: Connection, before_s: float) -> int:
    """Bodies that were begun before `before_s` and never accepted."""
    query = select(func.count()).where(message.c.state == INCOMING, message.c.changed_s < before_s)
    return int(connection.execute(query).scalar_one())


def expired_messages(connection: Connection, now_s: float, limit: int) -> list[MessageId]:
    """Queued messages whose lifetime is over, at most `limit`."""
    query = select(message.c.id).where(message.c.state == QUEUED, message.c.expires_s <= now_s).limit(limit)
    return [MessageId(row.id) for row in connection.execute(query)]


def late_messages(
    connection: Connection, after: tuple[float, MessageId], expires_before_s: float, limit: int
) -> list[tuple[float, MessageId]]:
    """Queued messages in the order in which they expire, behind `after`: when each expires, and its id."""
    place = tuple_(message.c.expires_s, message.c.id)
    query = (
        select(message.c.expires_s, message.c.id)
        .where(message.c.state == QUEUED, message.c.expires_s >= after[0], place > tuple_(*map(literal, after)))
        .where(message.c.expires_s <= expires_before_s)
        .order_by(message.c.expires_s, message.c.id)
        .limit(limit)
    )
    return [(float(row.expires_s), MessageId(row.id)) for row in connection.execute(query)]


def body_sizes(connection: Connection, ids: Sequence[MessageId]) -> dict[MessageId, int]:
    """How many bytes of body are stored for each message; a message without any is absent."""
    query = (
        select(body_chunk.c.message_id, func.sum(func.length(body_chunk.c.data)).label("size_bytes"))
        .where(body_chunk.c.message_id.in_(ids))
        .group_by(body_chunk.c.message_id)
    )
    return {MessageId(row.message_id): int(row.size_bytes) for row in connection.execute(query)}
