"""Opening the database, and the few things that SQLite and PostgreSQL say differently.

This is the dialect seam: pragmas, the kind of BEGIN, upsert, free space, and which errors are a statement's own fault.
Only SQLite is opened in this version. Its settings: WAL, `synchronous=FULL` (COMMIT returns after fsync),
`foreign_keys`, `auto_vacuum=INCREMENTAL` (set before the first table, or never).

A writer's transactions begin IMMEDIATE: a lock that cannot be had is noticed at BEGIN, not halfway.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, Executable, Table, event
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

BUSY_TIMEOUT_S = 5.0
_WAL_BYTES = 64 * 1024 * 1024
_WRITER_CACHE_KIB = 32 * 1024  # the indexes of a large queue are written all over; 2 MiB would be read again and again
_READER_CACHE_KIB = 8 * 1024
_PROGRESS_STEPS = 20_000
_OWN_FAULT_CODES = frozenset(
    (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_RANGE,
    )
)


def writer_engine(path: Path) -> Engine:
    """An engine for the one writer. Creates the file when it is absent."""
    engine = _engine(f"file:{_quoted(path)}?mode=rwc")

    @event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        _pragmas(
            connection,
            "PRAGMA auto_vacuum=INCREMENTAL",
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "PRAGMA foreign_keys=ON",
            f"PRAGMA journal_size_limit={_WAL_BYTES}",
            f"PRAGMA cache_size=-{_WRITER_CACHE_KIB}",
        )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def reader_engine(path: Path) -> Engine:
    """An engine whose connections can only read; the file must exist."""
    engine = _engine(f"file:{_quoted(path)}?mode=ro")

    @event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        _pragmas(connection, "PRAGMA query_only=ON", f"PRAGMA cache_size=-{_READER_CACHE_KIB}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _engine(file_uri: str) -> Engine:
    url = URL.create("sqlite", database=file_uri, query={"uri": "true"})
    engine = sqlalchemy.create_engine(
        url,
        poolclass=NullPool,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False, "cached_statements": 256},
    )

    @event.listens_for(engine, "connect")
    def _own_begin(connection: Any, _entry: ConnectionPoolEntry) -> None:
        # The driver's own BEGIN comes too late and is the wrong kind; ours comes from the "begin" event.
        connection.isolation_level = None

    return engine


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _pragmas(connection: DBAPIConnection, *statements: str) -> None:
    cursor = connection.cursor()
    for statement in statements:
        cursor.execute(statement)
    cursor.close()


def keeping_insert(table: Table) -> Executable:
    """An INSERT that leaves a row as it is when its primary key exists."""
    return sqlite_insert(table).on_conflict_do_nothing()


def insert_or_replace(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows; where the primary key exists the other columns are overwritten."""
    if not rows:
        return
    statement = sqlite_insert(table)
    keys = [column.name for column in table.primary_key]
    values = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=values), rows)


def used_bytes(connection: Connection) -> int:
    """Bytes of the database that hold data (free pages not counted)."""
    pages, free, page_bytes = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * page_bytes


def reclaim(connection: Connection, pages_count: int) -> int:
    """Give up to `pages_count` free pages back to the file system. Returns how many free pages are left."""
    # The driver steps a statement without columns once, and each step gives back one page.
    for _ in range(pages_count):
        connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())


def integrity_problems(connection: Connection, limit: int) -> list[str]:
    """What the database engine finds wrong with its own file, at most `limit` lines; empty if nothing."""
    found = [str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA quick_check({int(limit)})")]
    return [] if found == ["ok"] else found


def stop_reads_after(connection: Connection, is_late: Callable[[], bool]) -> None:
    """Interrupt a statement on this connection once `is_late()` says so; it is asked every few milliseconds."""
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: 1 if is_late() else 0, _PROGRESS_STEPS)


def is_own_fault(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether only the statement is wrong (a constraint, a syntax error), so that the transaction can go on."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _OWN_FAULT_CODES


def is_damage(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether the database says that its own file is damaged or is no database."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_busy(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether another process holds the lock."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
