"""What the keeper does by the clock: leases, expiry, sweeping, old events.

| every | what |
|---|---|
| 30 s | renew the leases of this process, lapse those that nobody renews |
| 30 s, or a tenth of the shorter time | give up and warn (`queue.lifetimes`) |
| 60 s | index and remove event files |
| 10 min | sweep orphans and tombstones |

Each is repeated at its next turn if the database does not answer; nothing depends on exact times.
"""

import asyncio
from collections.abc import Awaitable, Callable

from mailfront.base.errors import Unavailable
from mailfront.config.model import Configuration
from mailfront.observe import event_files
from mailfront.observe.log import emit, get
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.lifetimes import Lifetimes
from mailfront.queue.queue import Queue
from mailfront.store.writer import Store

LEASES_EVERY_S = 30.0
LIFETIMES_EVERY_S = 30.0
EVENTS_EVERY_S = 60.0
SWEEP_EVERY_S = 600.0

log = get("keeper")


class Housekeeping:
    """See the module. One per keeper. `wake` is called when rows may have become due."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        handoffs: HandoffTable,
        config: Configuration,
        *,
        owner: str,
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._queue = queue
        self._handoffs = handoffs
        self._config = config
        self._owner = owner
        self._wake = wake
        self._lifetimes = Lifetimes(queue)

    async def run(self) -> None:
        """Keep house until cancelled."""
        await asyncio.gather(
            self._every(LEASES_EVERY_S, self._leases),
            self._every(_lifetimes_every_s(self._config), self._look_for_late_mail),
            self._every(EVENTS_EVERY_S, self._events),
            self._every(SWEEP_EVERY_S, self._sweep),
        )

    async def _every(self, interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Unavailable as error:
                log.warning("housekeeping waits for the database", reason=str(error))
            except Exception as error:
                log.error("housekeeping failed by our fault", exc_info=error)
            await asyncio.sleep(interval_s)

    async def _leases(self) -> None:
        await self._queue.renew(self._owner)
        await self._handoffs.renew(self._owner)
        if lapsed := await self._queue.lapse():
            emit("queue_lapsed", rows_count=lapsed)
            self._wake()

    async def _look_for_late_mail(self) -> None:
        for page in (self._lifetimes.expire, self._lifetimes.warn):
            while await page():
                self._wake()

    async def _events(self) -> None:
        server = self._config.server
        await asyncio.to_thread(event_files.tidy, server.events_dir, self._store.clock.wall_s())

    async def _sweep(self) -> None:
        if swept := await self._queue.sweep():
            emit("queue_swept", rows_count=swept)
        await self._handoffs.sweep()
        await self._store.reclaim()


def _lifetimes_every_s(config: Configuration) -> float:
    shortest_s = min(config.queue.lifetime, config.queue.warn_after)
    return min(LIFETIMES_EVERY_S, max(1.0, shortest_s / 10))
