"""Frames over one connected UNIX stream socket, on asyncio or uvloop. Both ends of the channel are built on it.

Sending never waits: a frame goes out at once if the socket takes it, else it is kept until the socket does, up to
`max_waiting_bytes`. Reading happens a bounded piece at a time, so one busy peer cannot starve the loop. Descriptors
are duplicated when they are queued: the caller may close its own as soon as `send` returns.
"""

import array
import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable

from mailfront.base.errors import RemoteProtocolError
from mailfront.net.frames import MAX_FRAME_FDS, Frame, FrameReader, close_fds

READ_BYTES = 128 * 1024
_FD_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_FRAME_FDS * _FD_BYTES)


class _Waiting:
    """A frame that is not sent completely. Its descriptors go with its first byte."""

    __slots__ = ("data", "fds")

    def __init__(self, data: memoryview, fds: tuple[int, ...]) -> None:
        self.data = data
        self.fds = fds


class FrameStream:
    """One connection. `on_frame` gets each frame, `on_closed` is called once, with the reason, never from `send`."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_frame: Callable[[Frame], None],
        on_closed: Callable[[str], None],
        max_waiting_bytes: int,
    ) -> None:
        """Take over a connected socket and start reading. Must be called inside the loop."""
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()
        self._reader = FrameReader()
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._reading = False
        self._closed = False
        self.resume_reading()

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._closed

    @property
    def waiting_bytes(self) -> int:
        """How many bytes the peer has not taken yet."""
        return self._waiting_bytes

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> bool:
        """Send one encoded frame. False if it was not taken: closed, or too much waits already."""
        if self._closed or self._waiting_bytes + len(data) > self._max_waiting_bytes:
            return False
        sent = 0
        if not self._waiting:
            try:
                sent = self._send_now(memoryview(data), fds)
            except OSError as error:
                # The kernel bounds descriptors on their way (RLIMIT_NOFILE): that is a peer that is slow, not gone.
                if error.errno != errno.ETOOMANYREFS:
                    self._close_soon(_reason(error))
                return False
        if sent == len(data):
            return True
        try:
            waiting_fds = _duplicates(fds) if sent == 0 else ()
        except OSError:  # Too many open files; nothing of the frame is sent.
            return False
        if not self._waiting:
            self._loop.add_writer(self._fd, self._writable)
        self._waiting.append(_Waiting(memoryview(data)[sent:], waiting_fds))
        self._waiting_bytes += len(data) - sent
        return True

    def pause_reading(self) -> None:
        """Stop taking frames; the peer's sends begin to wait. Frames of the current piece still come."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Take frames again."""
        if not self._reading and not self._closed:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def close(self, reason: str = "closed") -> None:
        """Close now. What waits is dropped. `on_closed` is called before this returns, if it was not before."""
        if self._closed:
            return
        self._closed = True
        self.pause_reading()
        if self._waiting:
            self._loop.remove_writer(self._fd)
        for each in self._waiting:
            close_fds(each.fds)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._reader.close()
        self._sock.close()
        self._on_closed(reason)

    def _close_soon(self, reason: str) -> None:
        self._loop.call_soon(self.close, reason)

    def _send_now(self, data: memoryview, fds: tuple[int, ...]) -> int:
        """Send what the socket takes now. Raises OSError if the connection is gone."""
        try:
            if fds:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                return self._sock.sendmsg([data], [rights], socket.MSG_NOSIGNAL)
            return self._sock.send(data, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0

    def _writable(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            try:
                sent = self._send_now(first.data, first.fds)
            except OSError as error:
                self.close(_reason(error))
                return
            if sent == 0:
                return
            close_fds(first.fds)
            first.fds = ()
            self._waiting_bytes -= sent
            if sent < len(first.data):
                first.data = first.data[sent:]
                return
            self._waiting.popleft()
        self._loop.remove_writer(self._fd)

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(_reason(error))
            return
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % _FD_BYTES])
        if not data:
            close_fds(fds)
            self.close("the other side closed the connection")
            return
        try:
            frames = self._reader.receive(data, fds)
            if flags & socket.MSG_CTRUNC:
                raise RemoteProtocolError("descriptors were lost: too many open files, or more than a frame may have")
        except RemoteProtocolError as error:
            self.close(str(error))
            return
        for frame in frames:
            if self._closed:
                close_fds(frame.fds)
            else:
                self._on_frame(frame)


def _duplicates(fds: tuple[int, ...]) -> tuple[int, ...]:
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))
    except OSError:
        close_fds(made)
        raise
    return tuple(made)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
