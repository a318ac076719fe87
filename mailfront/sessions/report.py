"""The worker's side of the session register: tells the keeper who came and went, and ends whom the keeper names.

Changes are collected for `COLLECT_S` and sent in one request, one request at a time, so they arrive in order. A session
that came and went in between is never told. When the keeper has been away, or did not answer, everything is told anew
(`all`): a report is a picture, never a condition for a login.

    keeper verb  sessions {all, opened: [row...], closed: [id...]}      push  kick {ids: [...], reason}

Limits: `MOST_ROWS` per request; what waits is bounded by the number of sessions.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from mailfront.base.errors import Unavailable
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.net.channel import Payload
from mailfront.observe.log import get
from mailfront.sessions.register import SessionRow

COLLECT_S = 0.1
MOST_ROWS = 500
AGAIN_AFTER_S = 1.0
ANSWER_TIMEOUT_S = 30.0

log = get("sessions")


class KeeperLine(Protocol):
    """What is needed of the channel to the keeper."""

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Call back after each connect."""
        ...

    def on_push(self, topic: str, handler: Callable[[Payload], None]) -> None:
        """Call `handler` for every push of a topic."""
        ...

    async def request(self, verb: str, payload: Payload, fds: tuple[int, ...] = (), *, timeout_s: float) -> Payload:
        """Ask the keeper. Raises Unavailable."""
        ...


class SessionReport:
    """See the module. One per worker."""

    def __init__(
        self, keeper: KeeperLine, rows: Callable[[], Iterable[SessionRow]], kick: Callable[[frozenset[str], str], None]
    ) -> None:
        """`rows`: all sessions of this worker now. `kick(ids, reason)`: end these; unknown ids are no mistake."""
        self._keeper = keeper
        self._rows = rows
        self._kick = kick
        self._opened: dict[str, Callable[[], SessionRow]] = {}
        self._closed: list[str] = []
        self._changed = asyncio.Event()
        self._must_tell_all = True
        self._task: asyncio.Task[None] | None = None
        keeper.on_connected(self._connected)
        keeper.on_push("kick", self._kicked)

    def start(self) -> None:
        """Begin to report."""
        self._task = spawn(self._run(), name="session report")

    async def close(self) -> None:
        """Stop. What was not told yet is lost: the keeper forgets a worker that goes."""
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None

    def opened(self, id: str, row: Callable[[], SessionRow]) -> None:
        """A session was opened. Its row is made when it is told, if it is still there. Never waits."""
        self._opened[id] = row
        self._changed.set()

    def closed(self, id: str) -> None:
        """A session has ended. Never waits."""
        if self._opened.pop(id, None) is None and not self._must_tell_all:
            self._closed.append(id)
            self._changed.set()

    def _connected(self) -> None:
        self._must_tell_all = True
        self._changed.set()

    def _kicked(self, payload: Payload) -> None:
        self._kick(frozenset(str(id) for id in payload["ids"]), str(payload["reason"]))

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(COLLECT_S)
            self._changed.clear()
            try:
                await self._tell()
            except Unavailable as error:
                # Some of it may have arrived: tell everything, in a moment or with the next connection.
                self._must_tell_all = True
                log.debug("sessions could not be told to the keeper", reason=str(error))
                await asyncio.sleep(AGAIN_AFTER_S)
                self._changed.set()

    async def _tell(self) -> None:
        is_all, self._must_tell_all = self._must_tell_all, False
        if is_all:
            self._opened, self._closed = {row.id: partial(_same, row) for row in self._rows()}, []
        while is_all or self._opened or self._closed:
            opened = [self._opened.pop(id) for id in list(self._opened)[:MOST_ROWS]]
            closed, self._closed = self._closed[:MOST_ROWS], self._closed[MOST_ROWS:]
            payload: dict[str, Any] = {"all": is_all, "opened": [row().to_wire() for row in opened], "closed": closed}
            is_all = False
            await self._keeper.request("sessions", payload, timeout_s=ANSWER_TIMEOUT_S)
            if self._must_tell_all:
                return


def _same(row: SessionRow) -> SessionRow:
    return row
