"""The keeper's end of the counters: answers workers out of memory, and writes what has changed to the database.

Order of calls: `load`, `serve` before the channel starts, `run` until cancelled, `close`. While the database cannot
write, counting goes on in memory, and what has changed is written when it can. Rows whose time is over are removed.
"""

import asyncio
from functools import partial
from typing import Any

from mailfront.base.errors import Unavailable
from mailfront.filters.counting.asks import GreyAsk, RateAsk
from mailfront.filters.counting.client import GREY, RATE
from mailfront.filters.counting.tallies import MOST_KEYS, Tallies
from mailfront.net.channel import ChannelServer, Request
from mailfront.observe import metrics
from mailfront.observe.log import get
from mailfront.store.tally_rows import delete_tallies, drop_tallies, live_tallies, put_tallies
from mailfront.store.writer import Store

WRITE_EVERY_S = 1.0
TIDY_EVERY_S = 60.0
MOST_ROWS_PER_WRITE = 5000
LOAD_WITHIN_S = 30.0

log = get("filters")


class CounterService:
    """See the module. One per keeper."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tallies = Tallies()

    async def load(self) -> None:
        """Read what was counted before. Raises StoreFailed."""
        now_s = self._store.clock.wall_s()
        rows = await self._store.read(
            lambda connection: live_tallies(connection, now_s, MOST_KEYS), limit_s=LOAD_WITHIN_S
        )
        self._tallies = Tallies(rows)

    def serve(self, server: ChannelServer) -> None:
        """Register the verbs."""
        server.handle(RATE, self._rate)
        server.handle(GREY, self._grey)

    async def run(self) -> None:
        """Write and tidy until cancelled."""
        loop = asyncio.get_running_loop()
        tidied_s = loop.time()
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self._write()
            if loop.time() - tidied_s >= TIDY_EVERY_S or self._tallies.is_crowded:
                tidied_s = loop.time()
                await self.tidy()

    async def close(self) -> None:
        """Write what has changed since. Call it while the store is open."""
        await self._write()

    async def _rate(self, request: Request) -> dict[str, Any]:
        asks = [
            RateAsk(key=str(key), count=max(1, int(count)), per_s=float(per_s), amount=int(amount))
            for key, count, per_s, amount in request.payload["asks"]
        ]
        return {"waits_s": self._tallies.take_rates(asks, self._store.clock.wall_s())}

    async def _grey(self, request: Request) -> dict[str, Any]:
        wait_s = self._tallies.grey(GreyAsk(**request.payload), self._store.clock.wall_s())
        return {"wait_s": wait_s}

    async def _write(self) -> None:
        while rows := self._tallies.take_changed(MOST_ROWS_PER_WRITE):
            try:
                await self._store.write(partial(put_tallies, rows=rows))
            except Unavailable as error:
                self._tallies.give_back(rows)
                log.warning("counters wait for the database", reason=str(error))
                return
            except BaseException:
                self._tallies.give_back(rows)
                raise

    async def tidy(self) -> None:
        """Remove keys whose time is over, and those that are too many, here and in the database."""
        now_s = self._store.clock.wall_s()
        excess = self._tallies.drop_ended(now_s)
        metrics.FILTERS_COUNTERS.set(len(self._tallies))
        try:
            for start in range(0, len(excess), MOST_ROWS_PER_WRITE):
                await self._store.write(partial(delete_tallies, keys=excess[start : start + MOST_ROWS_PER_WRITE]))
            dropped_count = MOST_ROWS_PER_WRITE
            while dropped_count == MOST_ROWS_PER_WRITE:
                dropped_count = await self._store.write(partial(drop_tallies, now_s=now_s, limit=MOST_ROWS_PER_WRITE))
        except Unavailable as error:
            log.warning("counters wait for the database", reason=str(error))
