"""The store: one database, opened once by the keeper (read and write) or by an offline command (read only).

Order of calls: `Store.open` (creates the file, takes the writer's lock, runs migrations; blocks), then `write` and
`read` from one event loop, then `close`. `Store.open_to_read` opens without any lock for commands that run while no
server does.

What survives a crash: every write whose caller got its result (`synchronous=FULL`: fsynced before COMMIT returns). A
write that raised `StoreFailed`, or whose process died first, may or may not be there; so every operation given to
`write` must be harmless when it is sent again.

`Connection` is passed on for the annotations of other packages; its methods are used in this package only.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection as Connection
from sqlalchemy.exc import DBAPIError

from mailfront.base.clock import Clock
from mailfront.store.commits import CommitThread, Write
from mailfront.store.engine import is_busy, is_damage, reader_engine, reclaim, used_bytes, writer_engine
from mailfront.store.errors import StoreFailed, StoreLocked, StoreRefused
from mailfront.store.gate import QueueGate
from mailfront.store.location import database_path
from mailfront.store.reads import ReaderPool
from mailfront.store.settings import StoreLimits
from mailfront.store.upgrade import require_current, upgrade

T = TypeVar("T")


class Store:
    """See the module. `gate` says whether more mail may be queued; `clock` is the time that leases are counted in."""

    def __init__(
        self, clock: Clock, gate: QueueGate, reads: ReaderPool, commits: CommitThread | None, lock_fd: int | None
    ) -> None:
        self.clock = clock
        self.gate = gate
        self._reads = reads
        self._commits = commits
        self._lock_fd = lock_fd

    @classmethod
    def open(
        cls,
        url: str,
        clock: Clock,
        *,
        free_space_bytes: int = StoreLimits().free_space,
        max_bytes: int | None = None,
    ) -> "Store":
        """Open the database as its only writer and bring it to the current revision. Blocks.

        Raises StoreLocked (another keeper has it), StoreRefused (damaged, not ours, newer) or StoreFailed (cannot be
        opened); each says what to do. `free_space_bytes` and `max_bytes` are the gate's limits.
        """
        path = database_path(url)
        lock_fd = _take_lock(path)
        try:
            # Mail is nobody else's business; the log files that SQLite makes get the mode of the database.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            engine = writer_engine(path)
            gate = QueueGate(path.parent, clock, free_space_bytes=free_space_bytes, max_bytes=max_bytes)
            with _explained(path), engine.connect() as connection, connection.begin():
                upgrade(connection)
                gate.database_used(used_bytes(connection))
        except OSError as error:
            os.close(lock_fd)
            raise StoreFailed(f"{path}: {error.strerror}; check its owner and its mode") from error
        except BaseException:
            os.close(lock_fd)
            raise
        commits = CommitThread(engine, gate, clock)
        commits.start()
        return cls(clock, gate, ReaderPool(reader_engine(path)), commits, lock_fd)

    @classmethod
    def open_to_read(cls, url: str, clock: Clock) -> "Store":
        """Open the database for reading, beside whoever writes. Blocks. Raises StoreRefused or StoreFailed."""
        path = database_path(url)
        if not path.exists():
            raise StoreRefused(f"{path}: no such database; the server has not been started with this configuration")
        reads = ReaderPool(reader_engine(path))
        gate = QueueGate(path.parent, clock, free_space_bytes=0, max_bytes=None)
        gate.commit_failed("opened to read only")
        with _explained(path):
            reads.read_now(require_current)
        return cls(clock, gate, reads, None, None)

    async def write(
        self,
        operation: Callable[[Connection], T],
        *,
        size_bytes: int = 0,
        committed: Callable[[T], None] | None = None,
    ) -> T:
        """Run `operation` in the writer thread and return its result once it is on disk.

        `operation` runs inside a group's transaction; what it raises fails it alone and is raised here. It must not
        keep the connection. `size_bytes` is the body that it writes. `committed` is called with the result in the
        event loop, before this returns and even if this was cancelled meanwhile: for memory that mirrors the rows.

        Raises StoreFailed: nothing was acknowledged. Cancellation: the operation may still be committed.
        """
        if self._commits is None:
            raise StoreFailed("the database was opened to read only")
        loop = asyncio.get_running_loop()
        write = Write(operation, size_bytes, loop, loop.create_future(), committed)
        self._commits.submit(write)
        result: T = await write.answer
        return result

    async def read(self, operation: Callable[[Connection], T], *, limit_s: float | None = None) -> T:
        """Run a query in a reader thread: one that takes well under a second, or says how long it may take.

        Raises StoreFailed. Cancellation is safe.
        """
        return await self._reads.read(operation, limit_s=limit_s)

    def read_now(self, operation: Callable[[Connection], T]) -> T:
        """Run a query by primary key in this thread (one body piece: about 0.2 ms). Raises StoreFailed."""
        return self._reads.read_now(operation)

    async def reclaim(self, pages_count: int = 500) -> int:
        """Give free pages back to the disk, a few at a time. Returns how many are left to give."""
        return await self.write(lambda connection: reclaim(connection, pages_count))

    async def ended(self) -> None:
        """Wait until nothing can be written any more: returns after `close`.

        Raises StoreFailed if the writer's thread broke down; this process must then end, to be started anew.
        Cancellation is safe.
        """
        if self._commits is not None:
            await asyncio.wrap_future(self._commits.ended)

    async def close(self) -> None:
        """Commit what waits, end the threads, release the lock. What comes later raises StoreFailed."""
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._reads.close()
        if self._commits is not None:
            self._commits.stop()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def _take_lock(path: Path) -> int:
    lock_path = path.with_name(path.name + ".lock")
    try:
        lock_fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreFailed(f"{lock_path}: {error.strerror}; the directory must exist and be ours to write") from error
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock_fd)
        raise StoreLocked(f"{path} is in use by another mailfront; one keeper at a time may write it") from error
    return lock_fd


class _explained:
    """Turn a database error at opening into a line that says what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        cause = error.__cause__ if isinstance(error, StoreFailed) else error
        if not isinstance(cause, DBAPIError):
            return
        if is_damage(cause):
            raise StoreRefused(
                f"{self._path} is damaged ({cause.orig}); move it away together with its -wal file, keep both, "
                "and restore a backup or start with an empty database"
            ) from cause
        if is_busy(cause):
            raise StoreLocked(f"{self._path} is locked by another process ({cause.orig})") from cause
        raise StoreFailed(f"{self._path}: {cause.orig}; check the path, its owner and the disk") from cause
