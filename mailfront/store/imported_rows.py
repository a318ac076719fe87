"""Which recipients came in by an import, remembered beyond their delivery. Functions of an open connection."""

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, select

from mailfront.base.ids import MessageId
from mailfront.store.message_rows import EXPIRED, QUEUED
from mailfront.store.schema import imported, message

MEMORY_S = 30 * 86400.0
"""How long a second import of the same recipient is recognised."""


def numbers_of(connection: Connection, message_id: MessageId) -> set[int]:
    """The numbers of a message's recipients that were imported."""
    query = select(imported.c.number).where(imported.c.message_id == message_id)
    return {int(row.number) for row in connection.execute(query)}


def add(connection: Connection, message_id: MessageId, numbers: Collection[int], now_s: float) -> None:
    """Remember recipients that come in now."""
    rows = [{"message_id": message_id, "number": number, "at_s": now_s} for number in sorted(numbers)]
    if rows:
        connection.execute(insert(imported), rows)


def forget(connection: Connection, before_s: float) -> int:
    """Forget what came in before `before_s`, but nothing of a message that is queued. Returns how many recipients."""
    queued = select(message.c.id).where(message.c.id == imported.c.message_id, message.c.state.in_((QUEUED, EXPIRED)))
    return connection.execute(delete(imported).where(imported.c.at_s < before_s, ~queued.exists())).rowcount
