"""The one writer thread: runs operations, commits them in groups, then tells their callers.

While one group is being fsynced the next one gathers, so a group is as large as the load makes it: at most 20
operations or 1 MiB of body (larger groups are slower again: they keep everybody waiting). Each operation runs in a
savepoint of its own; one that raises fails alone. When the database itself fails (disk full, I/O error) the whole group
is rolled back, every caller gets `StoreFailed`, the gate shuts, and the connection is opened anew.

A COMMIT that failed may have left its pages in the log file, where a crash would find them. The next successful commit
overwrites them; that is why the gate opens only after one, and why the thread tries one each second by itself.

Callers are answered only after COMMIT returned, in the order in which they asked.

An error of our own in the thread itself ends it: the gate shuts for good, everybody who waits gets `StoreFailed`, and
`ended` says so, because a process whose writer is gone must be started anew.
"""

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from mailfront.base.clock import Clock
from mailfront.observe import log as observe_log
from mailfront.observe import metrics
from mailfront.store.engine import insert_or_replace, is_busy, is_own_fault, used_bytes
from mailfront.store.errors import StoreFailed
from mailfront.store.gate import QueueGate
from mailfront.store.schema import counter

GROUP_OPERATIONS = 20
GROUP_BYTES = 1024 * 1024
MAX_WAITING = 4000
_TRY_AGAIN_S = 1.0
_MEASURE_EVERY_S = 1.0

_log = observe_log.get("store")


@dataclass(slots=True)
class Write:
    """One operation and who waits for it. `committed` runs in the loop's thread even if the caller went away."""

    operation: Callable[[Connection], Any]
    size_bytes: int
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Any]"
    committed: Callable[[Any], None] | None
    result: Any = None
    error: BaseException | None = None


class CommitThread:
    """Owns the writing connection. `submit` from the event loop; `stop` once."""

    def __init__(self, engine: Engine, gate: QueueGate, clock: Clock) -> None:
        self._engine = engine
        self._gate = gate
        self._clock = clock
        self._waiting: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._failing = False
        self._closed = ""
        self._lock = threading.Lock()  # after `_closed` is set nothing may join the line that nobody looks at
        self._group: list[Write] = []
        self._measured_s = float("-inf")
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.ended.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, write: Write) -> None:
        """Hand over one operation. Raises StoreFailed at once when too many wait already or the store is closed."""
        with self._lock:
            if self._closed:
                raise StoreFailed(self._closed)
            if self._waiting.qsize() >= MAX_WAITING:
                raise StoreFailed(f"{MAX_WAITING} writes are waiting already; the disk is too slow for this load")
            self._waiting.put(write)

    def stop(self) -> None:
        """Commit what waits, then end. Blocks; call it from a thread."""
        with self._lock:
            if not self._closed:
                self._closed = "the store is closed"
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._broken(error)
        else:
            self.ended.set_result(None)

    def _work(self) -> None:
        while True:
            self._group, is_last = self._gather()
            if self._group or self._failing:
                self._commit(self._group)
            if is_last:
                break
        self._drop_connection()

    def _broken(self, error: BaseException) -> None:
        """Nobody writes any more: refuse what waits and what comes."""
        reason = f"the writer of the database ended by our fault ({type(error).__name__}: {error})"
        self._gate.commit_failed(reason)
        _log.error("the writer of the database ended; this process must be started anew", exc_info=error)
        with self._lock:
            self._closed = reason
        left = self._group
        with contextlib.suppress(queue.Empty):
            while True:
                write = self._waiting.get_nowait()
                if write is not None:
                    left.append(write)
        for write in left:
            write.error = StoreFailed(reason)
        _answer(left)
        self.ended.set_exception(StoreFailed(reason))

    def _gather(self) -> tuple[list[Write], bool]:
        try:
            write = self._waiting.get(timeout=_TRY_AGAIN_S if self._failing else None)
        except queue.Empty:
            return [], False
        group: list[Write] = []
        size_bytes = 0
        while write is not None:
            group.append(write)
            size_bytes += write.size_bytes
            if len(group) >= GROUP_OPERATIONS or size_bytes >= GROUP_BYTES:
                return group, False
            try:
                write = self._waiting.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[Write]) -> None:
        """Run one group in one transaction. An empty group is a trial after a failure."""
        started_s = self._clock.monotonic_s()
        try:
            self._transaction(group)
        except Exception as error:
            self._failed(group, error)
        else:
            metrics.STORE_COMMITS.inc("ok")
            metrics.STORE_OPERATIONS.inc(amount=len(group))
            metrics.STORE_COMMIT_SECONDS.observe(self._clock.monotonic_s() - started_s)
            if self._failing:
                _log.warning("the database takes writes again")
            self._failing = False
            self._gate.commit_succeeded()
        _answer(group)

    def _transaction(self, group: list[Write]) -> None:
        if self._connection is None:
            self._connection = self._engine.connect()
        connection = self._connection
        with connection.begin():
            if self._failing:
                trial = {"name": "recovered_s", "value": int(self._clock.wall_s())}
                insert_or_replace(connection, counter, [trial])
            for write in group:
                _run_one(connection, write, alone=len(group) == 1 and not self._failing)
            now_s = self._clock.monotonic_s()
            if now_s - self._measured_s >= _MEASURE_EVERY_S:
                self._measured_s = now_s
                self._gate.database_used(used_bytes(connection))

    def _failed(self, group: list[Write], error: Exception) -> None:
        if len(group) == 1 and group[0].error is not None and not isinstance(error, StoreFailed):
            return  # it ran without a savepoint and rolled back its own transaction: the database is well
        metrics.STORE_COMMITS.inc("failed")
        reason = _reason(error)
        self._gate.commit_failed(reason)
        if not self._failing:
            _log.warning("the database does not take writes", reason=reason)
        self._failing = True
        for write in group:
            write.error = StoreFailed(reason)
        self._drop_connection()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError):
                connection.close()


def _run_one(connection: Connection, write: Write, *, alone: bool) -> None:
    """Run one operation. An operation's own error is kept in `write`; only trouble of the database is raised, except
    that an operation that is `alone` needs no savepoint and takes its transaction with it."""
    if not alone:
        connection.exec_driver_sql("SAVEPOINT op")
    try:
        write.result = write.operation(connection)
    except Exception as error:
        if isinstance(error, DBAPIError) and not is_own_fault(error):
            raise StoreFailed(_reason(error)) from error
        write.error = error
        if alone:
            raise
        connection.exec_driver_sql("ROLLBACK TO op")
    if not alone:
        connection.exec_driver_sql("RELEASE op")


def _reason(error: Exception) -> str:
    if isinstance(error, DBAPIError):
        if is_busy(error):
            return "the database is locked by another process"
        return f"the database does not answer: {error.orig}"
    return str(error) or type(error).__name__


def _answer(group: list[Write]) -> None:
    for loop in {write.loop for write in group}:
        mine = [write for write in group if write.loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(_answer_in_loop, mine)


def _answer_in_loop(group: list[Write]) -> None:
    for write in group:
        if write.error is None and write.committed is not None:
            try:
                write.committed(write.result)
            except Exception as error:
                # The rows are on disk: the caller must not hear StoreFailed, which says that they may not be.
                _log.error("a write was committed, but what follows from it failed", exc_info=error)
                write.error = error
        if write.answer.done():
            continue
        if isinstance(write.error, StopIteration):  # a future does not take it
            write.error = RuntimeError("a database operation raised StopIteration")
        if write.error is not None:
            write.answer.set_exception(write.error)
        else:
            write.answer.set_result(write.result)
