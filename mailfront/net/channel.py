"""The worker's side of the channel to the keeper: requests with replies, pushes, file descriptors.

`Channel` connects to the keeper's UNIX socket and stays connected: after a loss it tries again with back-off
(50 ms to 2 s). A request either returns the keeper's answer or raises `Unavailable`: the keeper is away, refused it,
answered too late, or too much is outstanding. **Unavailable does not say that nothing happened**: the request may have
been done and the answer lost. A verb that changes something must be safe to repeat.

Order of calls: `on_push` and `on_connected` for everything that is wanted, `start()`, requests, `close()`.
A descriptor that is sent stays the same open file on both sides, with one position: read it with `pread`.
Limits: 8 MiB per frame, 4 descriptors, 4,096 outstanding requests, 16 MiB of requests that the keeper has not taken.
Nothing survives a crash; what must is kept by the callers.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

from mailfront.base.backoff import exponential_s, jittered_s
from mailfront.base.errors import Unavailable
from mailfront.base.printable import printable
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.net.channel_server import ChannelServer, Handler, Peer, Refused, Request
from mailfront.net.frame_stream import FrameStream
from mailfront.net.frames import Frame, close_fds, encode_frame
from mailfront.observe import log as observe_log
from mailfront.observe import metrics

__all__ = ["Channel", "ChannelServer", "Handler", "Payload", "Peer", "Refused", "Request", "memory_file"]

MAX_OUTSTANDING = 4096
MAX_WAITING_BYTES = 16 * 1024 * 1024
CONNECT_TIMEOUT_S = 5.0
FIRST_RECONNECT_S = 0.05
MOST_RECONNECT_S = 2.0

Payload = dict[str, Any]
PushHandler = Callable[[Payload], None]

log = observe_log.get("channel")


class Channel:
    """One worker's connection to the keeper. One per process, used inside one event loop."""

    def __init__(self, path: str, name: str) -> None:
        """`path`: the keeper's socket. `name`: this process (worker-0), for the keeper's log."""
        self._path = path
        self._name = name
        self._stream: FrameStream | None = None
        self._lost = asyncio.Event()
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._number = 0
        self._outstanding: dict[int, asyncio.Future[Payload]] = {}
        self._push_handlers: dict[str, PushHandler] = {}
        self._connected_callbacks: list[Callable[[], None]] = []
        self._lost_callbacks: list[Callable[[str], None]] = []

    @property
    def is_connected(self) -> bool:
        """Whether the keeper can be asked now."""
        return self._stream is not None and not self._stream.is_closed

    @property
    def outstanding_count(self) -> int:
        """Requests without an answer yet."""
        return len(self._outstanding)

    def on_push(self, topic: str, handler: PushHandler) -> None:
        """Call `handler(payload)` for every push of a topic. It runs in the loop and must be quick."""
        self._push_handlers[topic] = handler

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Call back after each connect and reconnect, before any push of the new connection."""
        self._connected_callbacks.append(callback)

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call back with the reason after each loss of the connection."""
        self._lost_callbacks.append(callback)

    def start(self) -> None:
        """Begin to connect. Returns at once; see `wait_connected`."""
        self._task = spawn(self._stay_connected(), name="channel to the keeper")

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait for the connection. Raises Unavailable after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            raise Unavailable(f"keeper: no connection to {self._path} within {timeout_s:g} s") from None

    async def request(self, verb: str, payload: Payload, fds: tuple[int, ...] = (), *, timeout_s: float) -> Payload:
        """Ask the keeper and wait for its answer.

        The descriptors stay the caller's, and may be closed when this returns. Raises Unavailable (see the module) at
        once if the keeper is away, LocalProtocolError if the payload is not JSON or too large. Cancellation: safe; the
        keeper may still do it.
        """
        stream = self._stream
        if stream is None or stream.is_closed:
            metrics.CHANNEL_REQUESTS.inc("away")
            raise Unavailable(f"keeper: not connected, cannot ask for {verb}")
        if len(self._outstanding) >= MAX_OUTSTANDING:
            metrics.CHANNEL_REQUESTS.inc("busy")
            raise Unavailable(f"keeper: {MAX_OUTSTANDING} requests without an answer, {verb} not asked")
        self._number += 1
        number = self._number
        if not stream.send(encode_frame({"n": number, "v": verb, "p": payload}, len(fds)), fds):
            metrics.CHANNEL_REQUESTS.inc("busy")
            raise Unavailable(f"keeper: does not take what we send, {verb} not asked")
        return await self._answer(number, verb, timeout_s)

    async def close(self) -> None:
        """Stop. Outstanding requests raise Unavailable."""
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None
        if self._stream is not None:
            self._stream.close("this process is stopping")

    async def _answer(self, number: int, verb: str, timeout_s: float) -> Payload:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Payload] = loop.create_future()
        self._outstanding[number] = answer
        started_s = loop.time()
        timer = loop.call_later(timeout_s, _too_late, answer, verb, timeout_s)
        try:
            return await answer
        finally:
            timer.cancel()
            self._outstanding.pop(number, None)
            metrics.CHANNEL_SECONDS.observe(loop.time() - started_s)

    async def _stay_connected(self) -> None:
        failures_count = 0
        while True:
            try:
                sock = await self._connect()
            except OSError as error:
                failures_count += 1
                if failures_count in (1, 10, 100):
                    log.warning(
                        "cannot reach the keeper", path=self._path, reason=error.strerror or type(error).__name__
                    )
                delay_s = exponential_s(failures_count, first_s=FIRST_RECONNECT_S, most_s=MOST_RECONNECT_S)
                await asyncio.sleep(jittered_s(delay_s))
                continue
            failures_count = 0
            self._take_over(sock)
            await self._lost.wait()
            # A keeper that accepts and fails at once must not be asked in a busy loop.
            await asyncio.sleep(jittered_s(FIRST_RECONNECT_S))

    async def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(sock, self._path)
        except BaseException:
            sock.close()
            raise
        return sock

    def _take_over(self, sock: socket.socket) -> None:
        self._lost.clear()
        self._stream = FrameStream(
            sock, on_frame=self._received, on_closed=self._closed, max_waiting_bytes=MAX_WAITING_BYTES
        )
        self._stream.send(encode_frame({"hello": self._name}))
        metrics.CHANNEL_CONNECTS.inc()
        self._connected.set()
        for callback in self._connected_callbacks:
            try:
                callback()
            except Exception:
                log.exception("what must happen after a connect failed")

    def _closed(self, reason: str) -> None:
        self._stream = None
        self._connected.clear()
        self._lost.set()
        error_text = f"keeper: connection lost ({reason})"
        outstanding, self._outstanding = self._outstanding, {}
        for answer in outstanding.values():
            if not answer.done():
                metrics.CHANNEL_REQUESTS.inc("away")
                answer.set_exception(Unavailable(error_text))
        for callback in self._lost_callbacks:
            callback(reason)

    def _received(self, frame: Frame) -> None:
        close_fds(frame.fds)  # The keeper sends none.
        message = frame.message
        if "t" in message:
            self._pushed(str(message["t"]), message.get("p"))
            return
        answer = self._outstanding.pop(message.get("n", 0), None)
        if answer is None or answer.done():
            return  # It came too late.
        if "e" in message:
            metrics.CHANNEL_REQUESTS.inc("refused")
            answer.set_exception(Unavailable(f"keeper: {printable(str(message['e']), 1000)}"))
        else:
            metrics.CHANNEL_REQUESTS.inc("ok")
            payload = message.get("p")
            answer.set_result(payload if isinstance(payload, dict) else {})

    def _pushed(self, topic: str, payload: Any) -> None:
        handler = self._push_handlers.get(topic)
        if handler is None:
            return
        try:
            handler(payload if isinstance(payload, dict) else {})
        except Exception:
            log.exception("a push from the keeper could not be used", topic=topic)


def _too_late(answer: "asyncio.Future[Payload]", verb: str, timeout_s: float) -> None:
    if not answer.done():
        metrics.CHANNEL_REQUESTS.inc("timeout")
        answer.set_exception(Unavailable(f"keeper: no answer to {verb} within {timeout_s:g} s"))


def memory_file(pieces: Iterable[bytes], name: str = "body") -> int:
    """Make a descriptor with the given bytes in memory, at position 0, to be sent along. The caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
