"""Reading the database: short queries in two threads, or at once in the caller's own thread.

Readers see the last commit and never wait for the writer. A read that runs longer than `MAX_READ_S` is interrupted: an
old read keeps the log file from being emptied. Long answers are asked for in pages.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from mailfront.store.engine import is_damage, stop_reads_after
from mailfront.store.errors import StoreFailed

T = TypeVar("T")

READERS = 2
MAX_READ_S = 5.0
MAX_WAITING = 256


class _ReadConnection(threading.local):
    """Each thread's own connection."""

    connection: Connection | None = None
    deadline_s: float = float("inf")


class ReaderPool:
    """Owns the reading connections."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._mine = _ReadConnection()
        self._all: list[Connection] = []
        self._waiting_count = 0
        self._is_closed = False

    async def read(self, operation: Callable[[Connection], T], *, limit_s: float | None = None) -> T:
        """Run a query in a reader thread. Raises StoreFailed when it takes longer than `limit_s` (else `MAX_READ_S`).

        Cancellation is safe: the query ends by itself and its answer is dropped.
        """
        if self._is_closed:
            raise StoreFailed("the store is closed")
        if self._waiting_count >= MAX_WAITING:
            raise StoreFailed(f"{MAX_WAITING} reads are waiting already")
        self._waiting_count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self.read_now, operation, limit_s)
        finally:
            self._waiting_count -= 1

    def read_now(self, operation: Callable[[Connection], T], limit_s: float | None = None) -> T:
        """Run a query in this thread. Only for what takes well under a millisecond if the thread is an event loop's."""
        try:
            connection = self._mine.connection or self._connect()
            self._mine.deadline_s = time.monotonic() + (MAX_READ_S if limit_s is None else limit_s)
            with connection.begin():
                return operation(connection)
        except DBAPIError as error:
            self._disconnect()
            if is_damage(error):
                raise StoreFailed(f"the database file is damaged: {error.orig}") from error
            raise StoreFailed(f"the database does not answer: {error.orig}") from error

    def close(self) -> None:
        """End the threads and close every connection. Blocks until running queries have ended."""
        self._is_closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        while self._all:
            with contextlib.suppress(DBAPIError):
                self._all.pop().close()

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        mine = self._mine
        # threading.local: the closure must hold this thread's view, which is the thread that will run the queries.
        stop_reads_after(connection, lambda: time.monotonic() > mine.deadline_s)
        mine.connection = connection
        self._all.append(connection)
        return connection

    def _disconnect(self) -> None:
        connection, self._mine.connection = self._mine.connection, None
        if connection is not None:
            with contextlib.suppress(ValueError):
                self._all.remove(connection)
            with contextlib.suppress(DBAPIError):
                connection.close()
