"""Counters with an end, in memory. Pure: time is passed in, in seconds since 1970, because it outlives the process.

Two kinds share one table. Both need a time and a number per key, and both end by themselves:

- *rate* (GCRA, the "leaky bucket as a meter"): `at_s` is the time at which the key's bucket is empty again. With a
  limit of 100 an hour each unit moves it 36 s further, and it may be at most an hour ahead. Nothing needs to be reset,
  and a key that is not used is empty at `at_s`, which is its end.
- *greylist*: `at_s` is when the key was first seen; `count` 0 means that it waits, else how often it has come through.

Bounded: beyond `MOST_KEYS` the keys that would end first go first.
"""

import heapq
from collections.abc import Iterable, Sequence

from mailfront.filters.counting.asks import GreyAsk, RateAsk
from mailfront.store.tally_rows import TallyRow

MOST_KEYS = 500_000


class Tallies:
    """See the module. Everything is decided at once; `take_changed` gives what the database does not know yet."""

    def __init__(self, rows: Iterable[TallyRow] = ()) -> None:
        self._rows = {row.key: row for row in rows}
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def take_rates(self, asks: Sequence[RateAsk], now_s: float) -> list[float]:
        """Take from all limits, or from none if one of them has not enough left. Returns for each how many seconds
        until it has; all 0: they were taken."""
        wanted = [self._emptied_s(ask, now_s) + ask.amount * ask.per_s / ask.count for ask in asks]
        # A hair of tolerance: sums of fractions must not make the last one of a limit fail.
        waits = [max(0.0, at_s - now_s - ask.per_s * (1 + 1e-9)) for ask, at_s in zip(asks, wanted, strict=True)]
        if not any(waits):
            for ask, at_s in zip(asks, wanted, strict=True):
                self._put(TallyRow(ask.key, at_s, 0, at_s))
        return waits

    def grey(self, ask: GreyAsk, now_s: float) -> float:
        """Whether a triplet may pass: 0, or how many seconds it must still wait."""
        network = self._live(ask.network, now_s) if ask.network else None
        is_learnt = network is not None and 0 < ask.learn_count <= network.count
        if network is not None and is_learnt:
            self._renew(network, now_s + ask.keep_s)
            return 0.0
        triplet = self._live(ask.triplet, now_s)
        if triplet is None:
            self._put(TallyRow(ask.triplet, now_s, 0, now_s + ask.window_s))
            return ask.delay_s
        if triplet.count == 0:
            left_s = triplet.at_s + ask.delay_s - now_s
            if left_s > 0:
                return left_s
            if ask.network:
                passed_count = network.count if network is not None else 0
                self._put(TallyRow(ask.network, now_s, passed_count + 1, now_s + ask.keep_s))
            self._put(TallyRow(ask.triplet, triplet.at_s, 1, now_s + ask.keep_s))
        else:
            self._renew(triplet, now_s + ask.keep_s)
        return 0.0

    def take_changed(self, most: int) -> list[TallyRow]:
        """Rows that have changed since they were last taken, at most `most`."""
        keys = [self._changed.pop() for _ in range(min(most, len(self._changed)))]
        return [self._rows[key] for key in keys if key in self._rows]

    def give_back(self, rows: Iterable[TallyRow]) -> None:
        """These could not be written: take them again next time."""
        self._changed.update(row.key for row in rows if row.key in self._rows)

    @property
    def is_crowded(self) -> bool:
        """Whether there are so many keys that some must go now."""
        return len(self._rows) > MOST_KEYS + MOST_KEYS // 10

    def drop_ended(self, now_s: float) -> list[str]:
        """Forget keys whose time is over, and those that are too many. Returns the latter: the database has them."""
        ended = [key for key, row in self._rows.items() if row.expires_s <= now_s]
        for key in ended:
            del self._rows[key]
        excess_count = len(self._rows) - MOST_KEYS
        if excess_count <= 0:
            return []
        excess = heapq.nsmallest(excess_count, self._rows, key=lambda key: self._rows[key].expires_s)
        for key in excess:
            del self._rows[key]
        return excess

    def _emptied_s(self, ask: RateAsk, now_s: float) -> float:
        row = self._live(ask.key, now_s)
        # A limit that was lowered must not hold what was counted under the old one for longer than its own time.
        return min(row.at_s, now_s + ask.per_s) if row is not None else now_s

    def _live(self, key: str, now_s: float) -> TallyRow | None:
        row = self._rows.get(key)
        return row if row is not None and row.expires_s > now_s else None

    def _renew(self, row: TallyRow, expires_s: float) -> None:
        """Move a row's end. Not for every use: a row that is used all day would be written all day."""
        if expires_s - row.expires_s > (expires_s - row.at_s) / 20 or expires_s - row.expires_s > 3600:
            self._put(TallyRow(row.key, row.at_s, row.count, expires_s))

    def _put(self, row: TallyRow) -> None:
        self._rows[row.key] = row
        self._changed.add(row.key)
