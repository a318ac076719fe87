"""Rows that filters count in: one per key, with the time when it is of no more use. Functions of an open connection."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from mailfront.store.engine import insert_or_replace
from mailfront.store.schema import tally

PAGE_ROWS = 500


@dataclass(frozen=True, slots=True)
class TallyRow:
    """One key. What `at_s` and `count` mean is decided by who counts (`mailfront.filters.counting`)."""

    key: str
    at_s: float
    count: int
    expires_s: float


def put_tallies(connection: Connection, rows: Sequence[TallyRow]) -> None:
    """Write rows, in place of what was there under their keys."""
    for start in range(0, len(rows), PAGE_ROWS):
        values = [
            {"key": row.key, "at_s": row.at_s, "number": row.count, "expires_s": row.expires_s}
            for row in rows[start : start + PAGE_ROWS]
        ]
        insert_or_replace(connection, tally, values)


def drop_tallies(connection: Connection, now_s: float, limit: int) -> int:
    """Remove rows whose time is over, at most `limit`. Returns how many."""
    old = select(tally.c.key).where(tally.c.expires_s <= now_s).limit(limit)
    return connection.execute(delete(tally).where(tally.c.key.in_(old))).rowcount


def delete_tallies(connection: Connection, keys: Sequence[str]) -> None:
    """Remove rows by their keys."""
    for start in range(0, len(keys), PAGE_ROWS):
        connection.execute(delete(tally).where(tally.c.key.in_(keys[start : start + PAGE_ROWS])))


def live_tallies(connection: Connection, now_s: float, limit: int) -> Iterable[TallyRow]:
    """The rows that are still of use, those that live longest first, at most `limit`."""
    query = select(tally).where(tally.c.expires_s > now_s).order_by(tally.c.expires_s.desc()).limit(limit)
    return [TallyRow(row.key, row.at_s, row.number, row.expires_s) for row in connection.execute(query)]
