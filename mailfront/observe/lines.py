"""Buffered line outputs: many small lines, few writes, and a log reader that stops reading cannot stop the mail.

A `LineOutput` gathers lines and writes them at the end of the event loop's turn (or `gather_s` later), when 64 KiB
wait, or at once when no loop runs (start, threads, shutdown). Writing never raises. Lines of one output keep their
order and stay whole.

`StreamOutput` writes to a pipe, socket, terminal or file without waiting: what the reader does not take is kept up to
`MAX_WAITING_BYTES` and dropped, counted, beyond that. A crash loses at most the lines that were being gathered.
"""

import asyncio
import os
import select
import socket
import stat
import threading
from collections import deque

FLUSH_BYTES = 64 * 1024
MAX_WAITING_BYTES = 4 * 1024 * 1024
WHOLE_WRITE_BYTES = 4096
"""Pipes are shared by all processes; only writes up to PIPE_BUF (4096 bytes on Linux) are never interleaved."""
RETRY_S = 0.1


class LineOutput:
    """Base of the outputs: buffers lines (bytes that end in a newline) and decides when to write. Thread-safe."""

    def __init__(self, gather_s: float = 0.0) -> None:
        self._gather_s = gather_s
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.dropped_count = 0

    def put(self, line: bytes) -> None:
        """Add one line. It is written at the end of this turn of the loop or `gather_s` later; now if no loop runs."""
        with self._lock:
            if self._waiting_bytes > MAX_WAITING_BYTES:
                self.dropped_count += 1
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            full = self._waiting_bytes >= FLUSH_BYTES
        loop = asyncio._get_running_loop()
        if loop is None or (full and self._loop is loop):
            self.flush()
        elif self._loop is not loop:
            self._loop = loop
            if self._gather_s:
                loop.call_later(self._gather_s, self._turn_ended)
            else:
                loop.call_soon(self._turn_ended)

    def flush(self) -> None:
        """Write what waits, as far as the other side takes it now."""
        with self._lock:
            if self._waiting:
                self._write_waiting()

    def close(self) -> None:
        """Write what waits and stop."""
        self.flush()

    def _turn_ended(self) -> None:
        loop, self._loop = self._loop, None
        self.flush()
        if self._waiting and loop is not None:
            self._loop = loop
            loop.call_later(RETRY_S, self._turn_ended)

    def _write_waiting(self) -> None:
        """Write from `_waiting` and keep `_waiting_bytes` in step. Called with the lock held; must not raise."""
        raise NotImplementedError


class StreamOutput(LineOutput):
    """Lines to a file descriptor that somebody else owns, usually stderr. Never waits for its reader."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._reopened_fd = -1
        self._socket: socket.socket | None = None
        self._poll: select.poll | None = None
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            # O_NONBLOCK on the descriptor itself would be shared with whoever else has this pipe or terminal.
            try:
                self._reopened_fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:  # Made by another user, or no /proc: ask before each write instead.
                self._poll = select.poll()
                self._poll.register(fd, select.POLLOUT)

    def close(self) -> None:
        """Write what can be written and let go; the descriptor itself stays open."""
        super().close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._reopened_fd >= 0:
            os.close(self._reopened_fd)
            self._reopened_fd = -1

    def _write_waiting(self) -> None:
        while self._waiting:
            chunk = self._next_chunk()
            try:
                written = self._write_now(chunk)
            except BlockingIOError:
                written = 0
            except OSError:
                # Nobody reads any more, or the disk is full: a log line is not worth more than the mail.
                self.dropped_count += 1
                written = len(chunk)
            self._waiting_bytes -= written
            if written < len(chunk):
                self._waiting.appendleft(chunk[written:])
                return

    def _next_chunk(self) -> bytes:
        waiting = self._waiting
        if len(waiting) == 1:
            return waiting.popleft()
        lines = [waiting.popleft()]
        size_bytes = len(lines[0])
        while waiting and size_bytes + len(waiting[0]) <= WHOLE_WRITE_BYTES:
            line = waiting.popleft()
            size_bytes += len(line)
            lines.append(line)
        return b"".join(lines)

    def _write_now(self, chunk: bytes) -> int:
        """Write without waiting. Raises BlockingIOError when the other side takes nothing now."""
        if self._socket is not None:
            return self._socket.send(chunk, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._reopened_fd >= 0:
            return os.write(self._reopened_fd, chunk)
        if self._poll is not None:
            # A writable pipe takes PIPE_BUF bytes without waiting; a longer line goes out in such parts.
            if not self._poll.poll(0):
                raise BlockingIOError
            return os.write(self._fd, chunk[:WHOLE_WRITE_BYTES])
        return os.write(self._fd, chunk)
