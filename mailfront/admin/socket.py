"""The server's end of the admin socket: JSON lines (see `wire`) to handlers, one task per connection.

Who may connect is decided by the socket file's mode and group, set by whoever bound it. Each handler is
told the caller's uid as the kernel knows it, for the audit. A handler's `AdminError` and `Unavailable` become the
answer; any other exception is logged with its traceback and answered as a failure.

A handler is cancelled when its client goes away or after `LONGEST_CALL_S`. At most `MAX_CONNECTIONS` at a time, more
wait in the kernel's backlog; a connection on which nothing is asked for `IDLE_S` is closed.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.wire import (
    ALIVE_EVERY_S,
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    Alive,
    Progress,
    Result,
    read_request,
    write_answer,
)
from mailfront.base.errors import RemoteProtocolError, Unavailable
from mailfront.base.printable import printable
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.observe import log

MAX_CONNECTIONS = 16
IDLE_S = 60.0
LONGEST_CALL_S = 1800.0
WRITE_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.25
_PEER_CREDENTIALS = struct.Struct("3i")

_log = log.get("admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `uid` and `pid` are the caller's; `progress` may be told how far the work has come, as
    often as wanted."""

    verb: str
    arguments: dict[str, Any]
    uid: int
    pid: int
    progress: Callable[[Progress], None]


Handler = Callable[[Call], Awaitable[Any]]
"""Carries out one verb. Returns what JSON can hold: frozen dataclasses, dicts, lists, text, numbers."""


class AdminServer:
    """Serves an already listening socket. Order of calls: `start`, then `close`."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)

    def start(self, listening: socket.socket) -> None:
        """Begin to serve. The socket is closed by `close`."""
        listening.setblocking(False)
        self._listening = listening
        self._accepting = spawn(self._accept(listening), name="admin accept")

    async def close(self) -> None:
        """Stop at once: running handlers are cancelled. What they committed stays."""
        if self._accepting is not None:
            await cancel_and_wait(self._accepting)
        await cancel_and_wait(*self._connections)
        if self._listening is not None:
            self._listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                connected, _ = await loop.sock_accept(listening)
            except OSError as error:
                self._room.release()
                _log.warning("cannot accept on the admin socket", reason=str(error))
                await asyncio.sleep(0.1)
                continue
            except asyncio.CancelledError:
                self._room.release()
                raise
            task = spawn(self._serve(connected), name="admin connection")
            self._connections.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._room.release()

    async def _serve(self, connected: socket.socket) -> None:
        pid, uid, _gid = _PEER_CREDENTIALS.unpack(
            connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        reader, writer = await asyncio.open_unix_connection(sock=connected, limit=MAX_REQUEST_BYTES)
        conversation = _Conversation(self._handlers, reader, writer, uid, pid)
        try:
            while await conversation.next_call():
                pass
        except (_ClientGone, OSError, TimeoutError):
            pass  # Lost while it asked, or asks no more.
        except Exception:
            _log.exception("an admin connection failed", uid=uid)
        finally:
            writer.close()


class _ClientGone(Exception):
    """Nobody is left to answer: the connection is lost, or its client does not read."""


class _Conversation:
    """One connection: a request, its answer, the next request."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        uid: int,
        pid: int,
    ) -> None:
        self._handlers = handlers
        self._reader = reader
        self._writer = writer
        self._uid = uid
        self._pid = pid
        self._news: Progress | None = None

    async def next_call(self) -> bool:
        """Serve one request. Returns False at the end of the connection."""
        try:
            async with asyncio.timeout(IDLE_S):
                line = await self._reader.readline()
        except ValueError:
            await self._send(AdminError(f"a request is at most {MAX_REQUEST_BYTES} bytes", Kind.USAGE))
            return False
        if not line.endswith(b"\n"):
            return False
        try:
            verb, arguments = read_request(line)
        except RemoteProtocolError as error:
            await self._send(AdminError(str(error), Kind.USAGE))
            return False
        call = Call(verb=verb, arguments=arguments, uid=self._uid, pid=self._pid, progress=self._note)
        await self._carry_out(call)
        return True

    async def _carry_out(self, call: Call) -> None:
        working = spawn(self._answer(call), name=f"admin {printable(call.verb, 40)}")
        try:
            async with asyncio.timeout(LONGEST_CALL_S):
                silent_s = 0.0
                while not (await asyncio.wait({working}, timeout=_LOOK_EVERY_S))[0]:
                    silent_s = await self._say_something(silent_s + _LOOK_EVERY_S)
            last = working.result()
        except TimeoutError:
            last = AdminError(f"given up after {LONGEST_CALL_S:.0f} s; what was done until then stays", Kind.LATER)
        finally:
            await cancel_and_wait(working)
        await self._send(last)

    def _note(self, progress: Progress) -> None:
        self._news = progress

    async def _say_something(self, silent_s: float) -> float:
        """Pass on the newest progress, or say after a while that we are alive. Returns for how long we were silent."""
        news, self._news = self._news, None
        if news is None and silent_s < ALIVE_EVERY_S:
            return silent_s
        await self._send(news or Alive())
        return 0.0

    async def _answer(self, call: Call) -> Result | AdminError:
        handler = self._handlers.get(call.verb)
        if handler is None:
            return AdminError(f"this server has no verb {printable(call.verb, 60)!r}; is it another version?")
        try:
            return Result(await handler(call))
        except AdminError as error:
            return error
        except Unavailable as error:
            return AdminError(str(error), Kind.LATER)
        except _ClientGone:
            raise
        except Exception as error:
            _log.exception("an admin command failed", verb=call.verb, uid=call.uid)
            return AdminError(f"failed inside the server, its log says more: {type(error).__name__}")

    async def _send(self, part: Progress | Result | Alive | AdminError) -> None:
        line = write_answer(part)
        if len(line) > MAX_ANSWER_BYTES:
            line = write_answer(AdminError("the answer is too large; ask for less, or use a selector", Kind.USAGE))
        try:
            async with asyncio.timeout(WRITE_WITHIN_S):
                self._writer.write(line)
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise _ClientGone from error
