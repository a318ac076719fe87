"""Waiting for a task until a deadline, for many tasks at once and with one timer.

`asyncio.timeout` makes and cancels a timer for each wait, and with uvloop a timer is a handle of libuv's: together with
`asyncio.shield` that was a tenth of the cost of a message. Here a wait is an entry in a dict.
"""

import asyncio
from typing import Any


class Deadlines:
    """See the module. One event loop; entries are as many as there are waits under way."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0

    async def wait(self, task: asyncio.Task[Any], deadline_s: float) -> bool:
        """Wait until a task has ended, or until `deadline_s` by the loop's clock. Returns whether it has ended.

        The task is not touched, whatever happens: not at the deadline, and not when this wait is cancelled.
        """
        if task.done():
            return True
        loop = task.get_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake(_ended: asyncio.Task[Any]) -> None:
            if not woken.done():
                woken.set_result(None)

        task.add_done_callback(wake)
        self._waiting[woken] = deadline_s
        if self._timer is None or deadline_s < self._timer_at_s:
            self._set_timer(loop, deadline_s)
        try:
            await woken
        finally:
            del self._waiting[woken]
            task.remove_done_callback(wake)
        return task.done()

    def _set_timer(self, loop: asyncio.AbstractEventLoop, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = loop.call_at(at_s, self._fired, loop)

    def _fired(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake those whose time is over; look again at the next one's. A wait that ended meanwhile set no new timer, so
        this one may fire for nobody."""
        self._timer = None
        now_s = loop.time()
        for woken, deadline_s in self._waiting.items():
            if deadline_s <= now_s and not woken.done():
                woken.set_result(None)
        left_s = [deadline_s for deadline_s in self._waiting.values() if deadline_s > now_s]
        if left_s:
            self._set_timer(loop, min(left_s))
