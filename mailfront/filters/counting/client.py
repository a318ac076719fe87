"""Asks the keeper's counters from a worker. Filters find it as the service `counters`.

Keys are made by `counter_key`: short, of one length, and without what they were made of, so that no address of a
sender or recipient stands in the database for being counted.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

from mailfront.filters.counting.asks import GreyAsk, RateAsk
from mailfront.filters.failure import FilterFailed

SERVICE = "counters"
RATE, GREY = "filters.rate", "filters.grey"
KEEPER_TIMEOUT_S = 5.0


class Counters(Protocol):
    """The shared counters. Both raise Unavailable if nobody can tell."""

    async def take_rates(self, asks: Sequence[RateAsk]) -> list[float]:
        """Take from all limits or none; seconds until each has enough, all 0 if they were taken."""
        ...

    async def grey(self, ask: GreyAsk) -> float:
        """0: the triplet may pass; else how many seconds it must still wait."""
        ...


class Asking(Protocol):
    """What carries a question to the keeper: `mailfront.net.channel.Channel`."""

    async def request(self, verb: str, payload: Any, fds: tuple[int, ...] = (), *, timeout_s: float) -> Any:
        """One question, one answer. Raises Unavailable."""
        ...


class CounterClient:
    """See the module."""

    def __init__(self, keeper: Asking) -> None:
        self._keeper = keeper

    async def take_rates(self, asks: Sequence[RateAsk]) -> list[float]:
        """See `Counters`."""
        payload = {"asks": [[each.key, each.count, each.per_s, each.amount] for each in asks]}
        answer = await self._keeper.request(RATE, payload, timeout_s=KEEPER_TIMEOUT_S)
        return [float(each) for each in answer["waits_s"]]

    async def grey(self, ask: GreyAsk) -> float:
        """See `Counters`."""
        payload = {
            "triplet": ask.triplet,
            "network": ask.network,
            "delay_s": ask.delay_s,
            "window_s": ask.window_s,
            "keep_s": ask.keep_s,
            "learn_count": ask.learn_count,
        }
        answer = await self._keeper.request(GREY, payload, timeout_s=KEEPER_TIMEOUT_S)
        return float(answer["wait_s"])


def counter_key(filter_name: str, *parts: str) -> str:
    """The key for what a filter counts: its name, and a digest of the parts."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return f"{filter_name}:{blake2b(text, digest_size=15).hexdigest()}"


def counters_of(services: Any) -> Counters:
    """The service that the process offers. Raises FilterFailed if it has none."""
    found: Counters | None = services.get(SERVICE)
    if found is None:
        raise FilterFailed("there is no keeper to count with")
    return found
