"""Where the bodies of messages are kept while they come in: memory first, then an unlinked temporary file.

One `BodyBudget` per process says how much there may be of both. A body of up to `MEMORY_LIMIT_BYTES` stays in memory
while the budget lasts; anything else goes to a file in the spool directory that never has a name others could see for
long, so nothing is left behind by a crash. Files are written in threads. Nothing here is durable: that is the
queue's business.

Order of calls: `budget.open(size)` at MAIL, `write` the pieces, `await spill()` whenever `write` says so and once
before `finish` if `must_spill`, then `finish` or `discard`. What a body takes is given back when the last reference to
it goes.
"""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mailfront.base.errors import Unavailable
from mailfront.mail.body import PIECE_BYTES, BodyRef, MemoryBody

MEMORY_LIMIT_BYTES = 256 * 1024
SPILL_BYTES = 64 * 1024


class BodyRefused(Unavailable):
    """There is no room for this body now: the budget is used up, or the spool directory cannot be written."""


class BodyBudget:
    """What the bodies of one process may take. `disk_bytes` is this process's share of the whole.

    Sizes that clients announce are counted ahead, so that room for a message is not promised twice.
    """

    def __init__(self, *, memory_bytes: int, disk_bytes: int, spool_dir: Path) -> None:
        self._memory_limit_bytes = memory_bytes
        self._disk_limit_bytes = disk_bytes
        self.spool_dir = spool_dir
        self.memory_used_bytes = 0
        self.disk_used_bytes = 0

    def open(self, size_bytes: int | None) -> "BodyWriter | None":
        """Start a body that the client says has `size_bytes`. Returns None if there is no room for it now."""
        announced_bytes = size_bytes or 1
        if announced_bytes <= MEMORY_LIMIT_BYTES and self.take_memory(announced_bytes):
            return BodyWriter(self, memory_bytes=announced_bytes, disk_bytes=0)
        if self.take_disk(announced_bytes):
            return BodyWriter(self, memory_bytes=0, disk_bytes=announced_bytes)
        return None

    def take_memory(self, count_bytes: int) -> bool:
        """Count memory, if the budget has it."""
        if self.memory_used_bytes + count_bytes > self._memory_limit_bytes:
            return False
        self.memory_used_bytes += count_bytes
        return True

    def take_disk(self, count_bytes: int) -> bool:
        """Count disk space, if the budget has it."""
        if self.disk_used_bytes + count_bytes > self._disk_limit_bytes:
            return False
        self.disk_used_bytes += count_bytes
        return True


class BodyWriter:
    """Takes one body's bytes. Owned by one session."""

    __slots__ = ("_budget", "_disk_bytes", "_file", "_memory_bytes", "_pending", "_pending_bytes", "size_bytes")

    def __init__(self, budget: BodyBudget, *, memory_bytes: int, disk_bytes: int) -> None:
        self._budget = budget
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes
        self._file: _SpoolFile | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.size_bytes = 0

    def write(self, data: bytes) -> bool:
        """Take a piece. Returns whether `spill` must be awaited before the next one."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        self.size_bytes += len(data)
        if self._file is None and not self._disk_bytes and self._pending_bytes <= MEMORY_LIMIT_BYTES:
            missing_bytes = self._pending_bytes - self._memory_bytes
            if missing_bytes <= 0:
                return False
            if self._budget.take_memory(missing_bytes):
                self._memory_bytes += missing_bytes
                return False
            return True
        return self._pending_bytes >= SPILL_BYTES

    @property
    def must_spill(self) -> bool:
        """Whether `spill` must be awaited before `finish`."""
        return bool(self._pending) and (self._file is not None or self._pending_bytes > self._memory_bytes)

    async def spill(self) -> None:
        """Move what is in memory to the file. Raises BodyRefused if there is no room. Cancellation is safe."""
        budget = self._budget
        missing_bytes = self.size_bytes - self._disk_bytes
        if missing_bytes > 0:
            if not budget.take_disk(missing_bytes):
                raise BodyRefused("limits.body_disk is used up")
            self._disk_bytes += missing_bytes
        pieces, self._pending, self._pending_bytes = self._pending, [], 0
        loop = asyncio.get_running_loop()
        try:
            if self._file is None:
                self._file = await loop.run_in_executor(None, _open_spool_file, budget.spool_dir)
            await loop.run_in_executor(None, _write, [(self._file, pieces)])
        except OSError as error:
            raise BodyRefused(
                f"cannot write a temporary file in {budget.spool_dir}: {error.strerror}; check space and owner"
            ) from error
        budget.memory_used_bytes -= self._memory_bytes
        self._memory_bytes = 0

    def finish(self) -> BodyRef:
        """All pieces are written. Returns the body; this writer is then empty."""
        budget, file = self._budget, self._file
        if file is None:
            pending = self._pending
            data = pending[0] if len(pending) == 1 else b"".join(pending)
            budget.disk_used_bytes -= self._disk_bytes
            body: BodyRef = _CountedBody(data, budget, self._memory_bytes)
        else:
            file.counted(budget, self._disk_bytes)
            budget.memory_used_bytes -= self._memory_bytes
            body = FileBody(file, self.size_bytes)
        self._memory_bytes = self._disk_bytes = 0
        self._file = None
        self._pending = []
        return body

    def discard(self) -> None:
        """Forget the body and give back what it took. Harmless when repeated."""
        self._budget.memory_used_bytes -= self._memory_bytes
        self._budget.disk_used_bytes -= self._disk_bytes
        self._memory_bytes = self._disk_bytes = self._pending_bytes = self.size_bytes = 0
        self._file = None
        self._pending = []


class _CountedBody(MemoryBody):
    """A body in memory that gives its share of the budget back when it goes."""

    __slots__ = ("_budget", "_memory_bytes")

    def __init__(self, data: bytes, budget: BodyBudget, memory_bytes: int) -> None:
        super().__init__(data)
        self._budget = budget
        self._memory_bytes = memory_bytes

    def __del__(self) -> None:
        self._budget.memory_used_bytes -= self._memory_bytes


class _SpoolFile:
    """An open file without a name. Closed, and its share of the budget given back, with the last reference."""

    __slots__ = ("_budget", "_counted_bytes", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._budget: BodyBudget | None = None
        self._counted_bytes = 0

    def counted(self, budget: BodyBudget, count_bytes: int) -> None:
        """From now on this file's share of the budget is given back when it goes."""
        self._budget, self._counted_bytes = budget, count_bytes

    def __del__(self) -> None:
        os.close(self.fd)
        if self._budget is not None:
            self._budget.disk_used_bytes -= self._counted_bytes


def _open_spool_file(spool_dir: Path) -> _SpoolFile:
    """Open a file that no other process can open by name. Blocks. Raises OSError."""
    try:
        return _SpoolFile(os.open(spool_dir, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError:
        # Not every file system has O_TMPFILE.
        fd, name = tempfile.mkstemp(dir=spool_dir, prefix="body-")
        os.unlink(name)
        return _SpoolFile(fd)


def _write(job: list[tuple[_SpoolFile, list[bytes]]]) -> None:
    """Append to a file. Blocks: runs in a thread. Raises OSError.

    While it writes it holds the file, so a session that is cancelled cannot close the descriptor under it. It empties
    `job`, because the executor drops its arguments some time after we are done, in another thread than the budget's.
    """
    file, pieces = job.pop()
    view = memoryview(b"".join(pieces))
    while view:
        view = view[os.write(file.fd, view) :]


class FileBody:
    """A body in a file. Any number of readers: each read names its own offset."""

    __slots__ = ("_file", "_size_bytes")

    def __init__(self, file: _SpoolFile, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes

    @property
    def size_bytes(self) -> int:
        """See `BodyRef`."""
        return self._size_bytes

    def fileno(self) -> int:
        """The descriptor, to be sent to another process. It stays this body's own."""
        return self._file.fd

    def pieces(self) -> Iterator[bytes]:
        """See `BodyRef`. The pages were just written, so reading them does not wait for a disk."""
        offset_bytes = 0
        while offset_bytes < self._size_bytes:
            piece = os.pread(self._file.fd, min(PIECE_BYTES, self._size_bytes - offset_bytes), offset_bytes)
            if not piece:
                raise OSError(f"a body of {self._size_bytes} bytes ended after {offset_bytes}")
            offset_bytes += len(piece)
            yield piece

    def head(self, limit_bytes: int) -> bytes:
        """See `BodyRef`."""
        return os.pread(self._file.fd, min(limit_bytes, self._size_bytes), 0)


def body_from_fd(fd: int, size_bytes: int) -> FileBody:
    """A body of `size_bytes` from the start of an open file, such as one that another process sent. Owns `fd` now."""
    return FileBody(_SpoolFile(fd), size_bytes)
