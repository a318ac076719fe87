"""One LMTP connection to a node: moves bytes between the transport and the sans-IO core, and keeps the time.

Order of calls: `handshake` (before or between: TLS, then `encrypted`), and for each message `envelope`, `send_body`,
`send_dot`, `finals`. One transaction at a time; the pool keeps the connection between them. When the connection is
lost, closing, garbled or silent for too long it is dead: `trouble` says why, and what is awaited raises `PeerTrouble`,
except `finals`, which gives the answers that came.

The body goes out in pieces with backpressure: at most one piece of `PIECE_BYTES` and the transport's 64 KiB wait in
memory. A body over `SMALL_BODY_BYTES` may be on disk, so its pieces are read in a thread. Nothing here works on lines.
There is one timer per connection; a deadline that moves on costs no timer call.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.printable import printable
from mailfront.delivery.trouble import Cause, Stage, Trouble
from mailfront.mail.body import PIECE_BYTES, BodyRef
from mailfront.mail.reply import Reply
from mailfront.protocol.dot_stuffing import DotStuffer
from mailfront.protocol.lmtp import (
    EnvelopeAnswered,
    Extensions,
    FinalReply,
    LmtpClient,
    LmtpEnvelope,
    Ready,
    Refused,
    Send,
    ServiceClosing,
    StartTls,
    Step,
)

SMALL_BODY_BYTES = 256 * 1024
CLOSE_GRACE_S = 5.0
_NEVER_S = float("inf")
_STAGES = {
    Step.GREETING: Stage.GREETING,
    Step.LHLO: Stage.LHLO,
    Step.STARTTLS: Stage.STARTTLS,
    Step.TLS: Stage.TLS,
    Step.IDLE: Stage.IDLE,
    Step.RSET: Stage.MAIL,
    Step.MAIL: Stage.MAIL,
    Step.RCPT: Stage.RCPT,
    Step.DATA: Stage.DATA,
    Step.BODY: Stage.BODY,
    Step.FINAL: Stage.FINAL,
    Step.CLOSED: Stage.IDLE,
}


class PeerTrouble(Exception):
    """The connection cannot go on. Inside `delivery` only; `trouble` decides what it means."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


class LmtpConnection(asyncio.Protocol):
    """A connection and its dialogue. Owned by one attempt at a time, or by the pool while it is idle."""

    __slots__ = (
        "_clear_is_an_error",
        "_core",
        "_deadline_s",
        "_finals",
        "_held",
        "_loop",
        "_patience_s",
        "_paused",
        "_timer",
        "_timer_at_s",
        "_transport",
        "_unsent_bytes",
        "_waiter",
        "closed",
        "messages_count",
        "on_idle_end",
        "opened_s",
        "tls",
        "trouble",
    )

    def __init__(self, core: LmtpClient, loop: asyncio.AbstractEventLoop, *, implicit_tls: bool = False) -> None:
        """With `implicit_tls` a byte before `encrypted` is an error."""
        self._clear_is_an_error = implicit_tls
        self._core = core
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = self._deadline_s = _NEVER_S
        self._patience_s = _NEVER_S
        self._paused = False
        self._unsent_bytes = 0
        self._held = b""
        self._finals: list[tuple[int, Reply]] = []
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the transport is gone."""
        self.messages_count = 0
        self.opened_s = loop.time()
        self.tls: str | None = None
        self.trouble: Trouble | None = None
        self.on_idle_end: Callable[[LmtpConnection], None] | None = None
        """Called once when the connection ends while the pool holds it: lost, out of step, or unused for too long."""

    @property
    def extensions(self) -> Extensions:
        """What the node's LHLO offered."""
        return self._core.extensions

    @property
    def stage(self) -> Stage:
        """Where the dialogue stands."""
        return _STAGES[self._core.step]

    @property
    def is_reusable(self) -> bool:
        """Whether another transaction may be started."""
        return self.trouble is None and self._core.step is Step.IDLE

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, for the TLS handshake."""
        assert self._transport is not None
        return self._transport

    # What the owner does.

    async def handshake(self, patience_s: float) -> bool:
        """Wait until the connection is idle (True) or ready for TLS (False). Raises PeerTrouble."""
        self._wait_at_most(patience_s)
        # A quick node may have said everything before we came here.
        if self._core.step not in (Step.IDLE, Step.TLS):
            await self._wait()
        self._check()
        return self._core.step is Step.IDLE

    def encrypted(self, transport: asyncio.Transport) -> None:
        """Go on over TLS; `handshake` comes next."""
        self._transport = transport
        self._clear_is_an_error = False
        version = transport.get_extra_info("ssl_object").version()
        self.tls = f"{version} {transport.get_extra_info('cipher')[0]}"
        if self._core.step is Step.TLS:
            self._write(self._core.tls_started())

    async def envelope(self, envelope: LmtpEnvelope, patience_s: float) -> EnvelopeAnswered:
        """Send MAIL, RCPT and DATA; wait for their answers, `patience_s` for each. Raises PeerTrouble, and
        LocalProtocolError if the envelope cannot be written (the connection is then still good)."""
        self._check()
        self._write(self._core.begin(envelope))
        self._finals = []
        return cast(EnvelopeAnswered, await self._answer(patience_s))

    async def send_body(self, body: BodyRef, patience_s: float) -> None:
        """Write the body, but keep back the final dot and what fits into one write with it. `patience_s`: how long the
        node may take nothing. Raises PeerTrouble."""
        stuffer = DotStuffer()
        if body.size_bytes <= SMALL_BODY_BYTES:
            stuffed = [stuffer.stuff(piece) for piece in body.pieces()]
            self._held = b"".join((*stuffed, stuffer.end()))
        else:
            pieces = _small_pieces(body)
            while piece := await self._loop.run_in_executor(None, next, pieces, b""):
                self._check()
                self._wait_at_most(patience_s)
                self._write(stuffer.stuff(piece))
                self._unsent_bytes = self.transport.get_write_buffer_size()
                if self._paused:
                    await self._wait()
            self._held = stuffer.end()
        self._deadline_s = _NEVER_S

    def send_dot(self, patience_s: float) -> None:
        """Write what was kept back. From here on a lost connection leaves the outcome unknown. Raises PeerTrouble."""
        self._check()
        held, self._held = self._held, b""
        self._core.body_ended()
        self._write(held)
        self._wait_at_most(patience_s)

    async def finals(self) -> list[tuple[int, Reply]]:
        """Wait for the answers after the dot: (index of the recipient, reply), in order. Fewer than expected if the
        connection died; `trouble` then says why."""
        if self._core.step is Step.FINAL and self.trouble is None:
            try:
                await self._wait()
            except PeerTrouble:
                pass
        self.messages_count += 1
        return self._finals

    def rest(self, patience_s: float) -> None:
        """Go idle for at most `patience_s`."""
        self._wait_at_most(patience_s)

    def quit(self) -> None:
        """Say QUIT where it fits, flush and close without waiting for the answer."""
        if self.trouble is None:
            self.trouble = Trouble(self.stage, Cause.STOPPED, "closed by us")
            self._write(self._core.quit())
            self.transport.close()
            self._stop_timer()
            self._timer = self._loop.call_later(CLOSE_GRACE_S, self.transport.abort)

    def abort(self, trouble: Trouble) -> None:
        """Close at once; what is not sent yet is thrown away."""
        self._die(trouble)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.trouble is not None:
            return
        if self._clear_is_an_error:
            self._die(Trouble(Stage.TLS, Cause.GARBLED, "bytes came before TLS"))
            return
        core = self._core
        core.receive(data)
        if b"\n" in data:
            self._deadline_s = self._loop.time() + self._patience_s
        step = core.step
        try:
            while (event := core.next_event()) is not None:
                self._take(event)
                step = core.step
        except RemoteProtocolError as error:
            self._die(Trouble(_STAGES[step], Cause.GARBLED, str(error)))

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = False
        if self._core.step is Step.BODY:
            self._wake(None)

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_timer()
        if not self.closed.done():
            self.closed.set_result(None)
        self._die(Trouble(self.stage, Cause.LOST, printable(str(error or "closed by the node"))))

    # Inside.

    def _take(self, event: object) -> None:
        match event:
            case FinalReply(index, reply):
                self._finals.append((index, reply))
                if self._core.step is not Step.FINAL:
                    self._wake(None)
            case EnvelopeAnswered() | Ready() | StartTls():
                self._wake(event)
            case Send(data):
                self._write(data)
            case Refused(step, reply):
                self._die(Trouble(_STAGES[step], Cause.REFUSED, str(reply), reply))
            case ServiceClosing(step, reply):
                self._die(Trouble(_STAGES[step], Cause.CLOSING, str(reply), reply))

    def _write(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    def _check(self) -> None:
        if self.trouble is not None:
            raise PeerTrouble(self.trouble)

    async def _answer(self, patience_s: float) -> object:
        self._wait_at_most(patience_s)
        return await self._wait()

    async def _wait(self) -> object:
        self._check()
        self._waiter = waiter = self._loop.create_future()
        try:
            return await waiter
        finally:
            self._waiter = None

    def _wake(self, result: object) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(result)

    def _die(self, trouble: Trouble) -> None:
        if self.trouble is not None:
            return
        self.trouble = trouble
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(PeerTrouble(trouble))
        self._end_idle()

    def _end_idle(self) -> None:
        on_idle_end, self.on_idle_end = self.on_idle_end, None
        if on_idle_end is not None:
            on_idle_end(self)

    def _wait_at_most(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._deadline_s = deadline_s = self._loop.time() + patience_s
        if self._timer is None or self._timer_at_s > deadline_s:
            self._stop_timer()
            self._timer_at_s = deadline_s
            self._timer = self._loop.call_at(deadline_s, self._timer_fired)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timer_fired(self) -> None:
        self._timer = None
        if self._deadline_s == _NEVER_S or self.trouble is not None:
            return
        now_s = self._loop.time()
        if self._core.step is Step.BODY and now_s >= self._deadline_s:
            unsent_bytes = self.transport.get_write_buffer_size()
            if unsent_bytes < self._unsent_bytes:
                self._unsent_bytes = unsent_bytes
                self._deadline_s = now_s + self._patience_s
        if now_s < self._deadline_s:
            self._timer_at_s = self._deadline_s
            self._timer = self._loop.call_at(self._deadline_s, self._timer_fired)
        elif self._core.step is Step.IDLE:
            self.quit()
            self._end_idle()
        else:
            self._die(Trouble(self.stage, Cause.STALLED, f"nothing for {self._patience_s:g} s"))


def _small_pieces(body: BodyRef) -> Iterator[bytes]:
    """The body in pieces that are not empty and not large."""
    for piece in body.pieces():
        for at in range(0, len(piece), PIECE_BYTES):
            yield piece[at : at + PIECE_BYTES]  # a slice of the whole is not a copy
