"""The two directions of one client's connection: buffered input, corked replies, deadlines.

Replies are gathered and written in one piece just before we would wait for the client, so a pipelined batch of
commands is answered in one segment. Input is served from the buffer without waiting while there is any.

Time counts only while we wait for the client, not while we work (look-ups, delivery, the spool). A command line must
be complete within `command_timeout` of the moment we began to wait for it. An upload must keep `data_rate` over each
`data_timeout`. Both end the dialogue with 421. There is no timer per connection: the listener calls `check_time` of
all its connections about once a second, which is cheaper than setting and cancelling timers at each command.

Not a transport: the session tells it what arrives (`feed`, `feed_eof`, `lost`). One reader at a time. It knows no
commands; once `may_leave` is set it is called each time before waiting and may raise to end the dialogue.
"""

import asyncio
from collections.abc import Callable

from mailfront.edge.settings import LimitsSettings
from mailfront.mail.reply import Reply, reply

HIGH_WATER_BYTES = 64 * 1024
CORK_BYTES = 16 * 1024
CORK_S = 1.0
LINGER_S = 1.0
_TIMED_OUT = reply(421, "4.4.2", "timeout, closing the connection")
_TOO_SLOW = reply(421, "4.4.2", "timeout: the message arrives too slowly, closing the connection")
_TOO_LONG = reply(500, "5.5.2", "command line too long, closing the connection")
_BARE = reply(521, "5.5.2", "bare newline received, closing the connection")


class DialogueEnded(ConnectionResetError):
    """There is nobody to talk to any more, or no more to say. Unwinds the command loop."""


class Farewell(Exception):
    """The dialogue ends with this reply. `end` and `reason` go into the connection's event."""

    def __init__(self, answer: Reply, *, end: str, reason: str) -> None:
        super().__init__(reason)
        self.answer = answer
        self.end = end
        self.reason = reason


class DialogueStream:
    """See the module. Owned by one session."""

    __slots__ = (
        "_buffer", "_corked", "_corked_bytes", "_corked_s", "_deadline_s", "_eof", "_is_parting",
        "_is_read_paused", "_is_write_paused", "_limits", "_loop", "_position", "_refuse_bare", "_uploading", "_waiter",
        "_window_start_bytes", "commands_count", "is_lost", "may_leave", "received_bytes", "transport",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: LimitsSettings, *, refuse_bare: bool) -> None:
        self._loop = loop
        self._limits = limits
        self._refuse_bare = refuse_bare
        self.may_leave: Callable[[], None] | None = None
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._position = 0
        self._eof = False
        self.is_lost = False
        self._is_read_paused = False
        self._is_write_paused = False
        self._is_parting = False
        self._corked: list[bytes] = []
        self._corked_bytes = 0
        self._corked_s = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._deadline_s = 0.0
        self._uploading = False
        self._window_start_bytes = 0
        self.received_bytes = 0
        self.commands_count = 0

    # What the transport says.

    def feed(self, data: bytes) -> None:
        """Bytes arrived."""
        if self._is_parting:
            return
        self.received_bytes += len(data)
        if self._position < len(self._buffer):
            self._buffer = self._buffer[self._position :] + data
        else:
            self._buffer = data
        self._position = 0
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        # A reader that waits for its input takes it at once. One that waits for the client to read replies does not.
        if waiter is None or self._is_write_paused:
            self._pause_if_full()

    def _pause_if_full(self) -> None:
        if len(self._buffer) >= HIGH_WATER_BYTES and not self._is_read_paused and self.transport is not None:
            self._is_read_paused = True
            self.transport.pause_reading()

    def feed_eof(self) -> None:
        """The client will send no more. What is buffered is still served and answered."""
        self._eof = True
        self.wake()

    def lost(self) -> None:
        """The connection is gone: nothing can be sent."""
        self._eof = self.is_lost = True
        self._is_write_paused = False
        self.wake()

    def set_write_paused(self, paused: bool) -> None:
        """The client does not take our replies (or does again)."""
        self._is_write_paused = paused
        if not paused:
            self.wake()

    def wake(self) -> None:
        """Make a waiting reader look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Replies.

    def write(self, data: bytes) -> None:
        """Send a reply, a little later together with others."""
        if not self._corked:
            self._corked_s = self._loop.time()
        self._corked.append(data)
        self._corked_bytes += len(data)
        # One that took us long must not keep the client waiting for the answers before it.
        if self._corked_bytes > CORK_BYTES or (len(self._corked) > 1 and self._loop.time() > self._corked_s + CORK_S):
            self.flush()

    def flush(self) -> None:
        """Send the replies that were gathered."""
        corked = self._corked
        if corked:
            if self.transport is not None and not self.is_lost:
                self.transport.write(corked[0] if len(corked) == 1 else b"".join(corked))
            self._corked = []
            self._corked_bytes = 0

    async def part(self, *, linger: bool) -> None:
        """Send what is left and close. `linger`: the client may still be sending; closing at once would reset the
        connection and the last reply might never be read, so wait up to `LINGER_S` for the client to see it."""
        self.flush()
        transport = self.transport
        if transport is None:
            return
        if linger and not self._eof and not transport.is_closing() and transport.can_write_eof():
            self._is_parting = True
            transport.write_eof()
            waiter = self._waiter = self._loop.create_future()
            timer = self._loop.call_later(LINGER_S, self.wake)
            try:
                await waiter
            finally:
                self._waiter = None
                timer.cancel()
        transport.close()

    # Input.

    @property
    def has_input(self) -> bool:
        """Whether bytes are buffered that nobody has read."""
        return self._position < len(self._buffer)

    def start_afresh(self, transport: asyncio.Transport) -> None:
        """Go on over another transport (TLS)."""
        self.transport = transport

    async def talks_within(self, seconds: float) -> bool:
        """Wait until the client says something, at most that long; before the greeting only. What it says stays
        unread. Returns whether it did; a client that goes away did not. Cancellation is safe."""
        ends_s = self._loop.time() + seconds
        while not self.has_input and not self._eof and (left_s := ends_s - self._loop.time()) > 0:
            waiter = self._waiter
            if waiter is None:
                waiter = self._waiter = self._loop.create_future()
            self._deadline_s = ends_s + self._limits.command_timeout
            try:
                await asyncio.wait((waiter,), timeout=left_s)
            finally:
                if self._waiter is waiter:
                    self._waiter = None
        return self.has_input

    async def command_line(self) -> bytes:
        """The next command line with its line end. One that is too long ends the dialogue: it may have been a BDAT,
        and then nobody knows where the next command begins.

        Raises DialogueEnded, Farewell. Cancellation is safe.
        """
        searched = self._position
        is_new = True
        while True:
            if self._is_write_paused and not self.is_lost:
                await self._wait(is_new)
                is_new = False
                continue
            end = self._buffer.find(b"\n", searched) + 1
            if end:
                line = self._buffer[self._position : end]
                if len(line) > self._limits.command_length:
                    raise Farewell(_TOO_LONG, end="limit", reason="line_length")
                self._consumed_to(end)
                self.commands_count += 1
                if self._refuse_bare and not line.endswith(b"\r\n"):
                    raise Farewell(_BARE, end="protocol", reason="bare_newline")
                return line
            if len(self._buffer) - self._position > self._limits.command_length:
                raise Farewell(_TOO_LONG, end="limit", reason="line_length")
            await self._wait(is_new)
            is_new = False
            searched = self._position

    async def read_some(self, limit_bytes: int | None = None) -> bytes:
        """What has arrived, at least one byte, at most `limit_bytes`. Between `begin_upload` and `end_upload` only.

        Raises DialogueEnded, Farewell. Cancellation is safe.
        """
        while not self.has_input or (self._is_write_paused and not self.is_lost):
            await self._wait(False)
        end = len(self._buffer)
        if limit_bytes is not None and end - self._position > limit_bytes:
            end = self._position + limit_bytes
        data = self._buffer[self._position : end]
        self._consumed_to(end)
        return data

    def unread(self, data: bytes) -> None:
        """Put back what was read too much."""
        if data:
            self._buffer = data + self._buffer[self._position :]
            self._position = 0

    def begin_upload(self) -> None:
        """From now on the upload's speed is what counts, from zero. Call it again after own work."""
        self._uploading = True
        self._deadline_s = self._loop.time() + self._limits.data_timeout
        self._window_start_bytes = self.received_bytes

    def end_upload(self) -> None:
        """Commands follow again."""
        self._uploading = False

    def _consumed_to(self, end: int) -> None:
        if end >= len(self._buffer):
            self._buffer = b""
            self._position = 0
        else:
            self._position = end
        if self._is_read_paused and len(self._buffer) - self._position < HIGH_WATER_BYTES:
            self._is_read_paused = False
            if self.transport is not None and not self.is_lost:
                self.transport.resume_reading()

    # Waiting.

    async def _wait(self, is_new: bool) -> None:
        """Wait until something arrives. `is_new` starts the clock for a command line."""
        if self.may_leave is not None:
            self.may_leave()
        self.flush()
        if self._eof:
            raise DialogueEnded
        if is_new:
            self._deadline_s = self._loop.time() + self._limits.command_timeout
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def check_time(self, now_s: float) -> None:
        """End the dialogue if the client is too slow. `now_s` is the loop's time."""
        waiter = self._waiter
        if waiter is None or now_s < self._deadline_s or waiter.done() or self._is_parting:
            return
        if not self._uploading:
            waiter.set_exception(Farewell(_TIMED_OUT, end="timeout", reason="timeout"))
        elif self.received_bytes - self._window_start_bytes < self._limits.data_rate * self._limits.data_timeout:
            waiter.set_exception(Farewell(_TOO_SLOW, end="timeout", reason="slow_upload"))
        else:
            self.begin_upload()
