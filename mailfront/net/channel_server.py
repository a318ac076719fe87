"""The keeper's side of the channel: answers requests of workers, pushes news to them.

A handler is `async (Request) -> dict`, one per verb. It runs in a task of its own; several requests of one worker run
at the same time and are answered in any order. It may raise `Refused("why")` or `Unavailable`: the worker sees the
text. Any other exception is logged with its traceback and the worker sees "internal error". A worker that goes away
does not cancel what it asked for; `on_peer_gone` tells who went, by process id as the kernel knows it (SO_PEERCRED).

Limits: 4,096 requests in work per worker (then its sends wait), 32 MiB of answers and pushes that a worker has not
taken (then it is dropped: it connects again and gets everything anew). Only the own user and root may connect.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mailfront.base.errors import LocalProtocolError, MailfrontError, Unavailable
from mailfront.base.printable import printable
from mailfront.base.tasks import spawn
from mailfront.net.frame_stream import FrameStream
from mailfront.net.frames import Frame, close_fds, encode_frame
from mailfront.net.sockets import UnixAddress, bind_listener
from mailfront.observe import log as observe_log

MAX_IN_WORK = 4096
MAX_WAITING_BYTES = 32 * 1024 * 1024
_CREDENTIALS = struct.Struct("iII")

log = observe_log.get("channel")


class Refused(MailfrontError):
    """A handler's answer to a request that it understood and does not do. The text reaches the worker."""


class Peer:
    """One connected worker. `pid`, `uid` and `gid` are the kernel's word; `name` is what it calls itself."""

    def __init__(self, pid: int, uid: int, gid: int) -> None:
        self.pid = pid
        self.uid = uid
        self.gid = gid
        self.name = ""
        self.in_work_count = 0
        self.stream: FrameStream | None = None

    def __repr__(self) -> str:
        return f"Peer({self.name or '?'}, pid {self.pid})"


class Request:
    """One request. Descriptors that the handler did not take are closed when it ends."""

    __slots__ = ("_fds", "payload", "peer", "verb")

    def __init__(self, peer: Peer, verb: str, payload: dict[str, Any], fds: tuple[int, ...]) -> None:
        self.peer = peer
        self.verb = verb
        self.payload = payload
        self._fds: list[int | None] = list(fds)

    @property
    def fds_count(self) -> int:
        """How many descriptors came along."""
        return len(self._fds)

    def take_fd(self, index: int = 0) -> int:
        """Take over a descriptor; the caller closes it. Raises Refused if the request has no such one."""
        fd = self._fds[index] if index < len(self._fds) else None
        if fd is None:
            raise Refused(f"{self.verb}: descriptor {index} is missing")
        self._fds[index] = None
        return fd

    def close(self) -> None:
        """Close what nobody took."""
        close_fds(fd for fd in self._fds if fd is not None)
        self._fds = [None] * len(self._fds)


Handler = Callable[[Request], Awaitable[dict[str, Any]]]


class ChannelServer:
    """Listens on the keeper's socket. Used inside one event loop."""

    def __init__(
        self,
        path: str,
        handlers: Mapping[str, Handler],
        *,
        on_peer: Callable[[Peer], None] | None = None,
        on_peer_gone: Callable[[Peer], None] | None = None,
    ) -> None:
        """`on_peer` is called when a worker has said its name: the place to push what it must know."""
        self._path = path
        self._handlers = dict(handlers)
        self._on_peer = on_peer
        self._on_peer_gone = on_peer_gone
        self._peers: set[Peer] = set()
        self._listening: socket.socket | None = None

    @property
    def peers(self) -> frozenset[Peer]:
        """Workers that are connected and have said their name."""
        return frozenset(peer for peer in self._peers if peer.name)

    def handle(self, verb: str, handler: Handler) -> None:
        """Add the handler of one verb. Each verb has one."""
        if verb in self._handlers:
            raise LocalProtocolError(f"verb {verb} has two handlers")
        self._handlers[verb] = handler

    def start(self) -> None:
        """Bind and accept. Raises ConfigError if the socket cannot be made."""
        (self._listening,) = bind_listener(UnixAddress(self._path), mode=0o600)
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting, drop all workers, remove the socket file. Handlers in work run to their end."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._listening.close()
            self._listening = None
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
        for peer in list(self._peers):
            self._drop(peer, "the keeper is stopping")

    def push(self, topic: str, payload: dict[str, Any], to: Peer | None = None) -> None:
        """Tell one worker, or all that are connected. A worker that does not take it is dropped."""
        data = encode_frame({"t": topic, "p": payload})
        for peer in [to] if to is not None else list(self.peers):
            self._send(peer, data)

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            sock, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("cannot accept a worker", reason=error.strerror)
            loop, listening = asyncio.get_running_loop(), self._listening
            loop.remove_reader(listening.fileno())
            loop.call_later(0.1, self._accept_again, listening)
            return
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        peer = Peer(*_CREDENTIALS.unpack(credentials))
        if peer.uid not in (0, os.geteuid()):
            log.error("refused a connection of another user", uid=peer.uid, pid=peer.pid)
            sock.close()
            return
        self._peers.add(peer)
        peer.stream = FrameStream(
            sock,
            on_frame=lambda frame: self._received(peer, frame),
            on_closed=lambda reason: self._gone(peer, reason),
            max_waiting_bytes=MAX_WAITING_BYTES,
        )

    def _accept_again(self, listening: socket.socket) -> None:
        if self._listening is listening:
            asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    def _received(self, peer: Peer, frame: Frame) -> None:
        message = frame.message
        if not peer.name:
            close_fds(frame.fds)
            peer.name = printable(str(message.get("hello", "")), 64)
            if not peer.name:
                self._drop(peer, "the first frame must be a hello")
            elif self._on_peer is not None:
                self._on_peer(peer)
            return
        number, verb, payload = message.get("n"), message.get("v"), message.get("p")
        if not isinstance(number, int) or not isinstance(verb, str) or not isinstance(payload, dict):
            close_fds(frame.fds)
            self._drop(peer, "not a request")
            return
        request = Request(peer, verb, payload, frame.fds)
        peer.in_work_count += 1
        if peer.in_work_count == MAX_IN_WORK and peer.stream is not None:
            peer.stream.pause_reading()
        spawn(self._work(request, number), name=f"keeper {printable(verb, 40)}")

    async def _work(self, request: Request, number: int) -> None:
        peer = request.peer
        answer: dict[str, Any]
        try:
            handler = self._handlers.get(request.verb)
            if handler is None:
                raise Refused(f"verb {request.verb} is unknown; are worker and keeper of one version?")
            answer = {"n": number, "p": await handler(request)}
            data = encode_frame(answer)
        except (Refused, Unavailable) as error:
            data = encode_frame({"n": number, "e": printable(str(error), 1000)})
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a request of a worker failed", verb=request.verb, worker=peer.name)
            data = encode_frame({"n": number, "e": f"internal error in {printable(request.verb, 40)}"})
        finally:
            request.close()
            peer.in_work_count -= 1
            if peer.in_work_count == MAX_IN_WORK - 1 and peer.stream is not None:
                peer.stream.resume_reading()
        self._send(peer, data)

    def _send(self, peer: Peer, data: bytes) -> None:
        if peer.stream is not None and not peer.stream.is_closed and not peer.stream.send(data):
            self._drop(peer, f"does not read: {peer.stream.waiting_bytes} bytes wait")

    def _drop(self, peer: Peer, reason: str) -> None:
        if peer.stream is not None:
            peer.stream.close(reason)

    def _gone(self, peer: Peer, reason: str) -> None:
        self._peers.discard(peer)
        log.info("a worker's connection ended", worker=peer.name, pid=peer.pid, reason=reason)
        if self._on_peer_gone is not None and peer.name:
            self._on_peer_gone(peer)
