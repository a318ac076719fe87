"""Answers kept in memory in front of a slow source, and what to say when the source is away.

A found record is fresh for `cache` seconds, "no such" and an unclear entry for `negative` seconds. While a copy is
fresh nobody is asked, and the look-up does not yield to the event loop. One look-up per address at a time: who asks
for the same address meanwhile waits for the same answer. A caller that is cancelled takes nothing from the others.

When no server answers, a record no older than `stale` still counts, first the copy in memory, then the snapshot.
"No such address" is never said from either: the address gets `CannotSay`. Nothing here survives the process.

Sizes are bounded: the oldest copy makes room. Each refresh moves a copy to the young end, so what is in use stays.
Addresses that do not exist have a table of their own, so that guessing names drives no record out.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mailfront.base.clock import Clock
from mailfront.base.errors import Unavailable
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.directory.answers import (
    ALARM_UNREACHABLE,
    Answer,
    ByDn,
    CannotSay,
    DirectoryRecord,
    Found,
    Member,
    NoSuch,
    Source,
)
from mailfront.directory.canonical import (
    can_exist,
    canonical_address,
    canonical_dn,
    canonical_text,
    lookup_key,
    split_detail,
)
from mailfront.directory.counters import DirectoryCounters
from mailfront.directory.settings import LdapSettings
from mailfront.mail.address import Address

MAX_FLIGHTS = 1000


class Asked(Protocol):
    """A directory that takes its time."""

    async def look_up(self, asked: Member) -> Found | NoSuch | CannotSay:
        """Ask about exactly this (canonical) address or name. Raises Unavailable if no server can answer."""
        ...


class Remembered(Protocol):
    """A copy of the whole directory."""

    async def look_up(self, asked: Member) -> Answer | None:
        """What the copy says, with its age; None if there is no usable copy."""
        ...


@dataclass(slots=True)
class _Record:
    record: DirectoryRecord
    learned_s: float
    fresh_until_s: float


@dataclass(slots=True)
class _Other:
    answer: NoSuch | CannotSay
    learned_s: float


class AnswerTable:
    """The cache. One per process; event loop only."""

    def __init__(
        self,
        source: Asked,
        snapshot: Remembered | None,
        *,
        settings: LdapSettings,
        clock: Clock,
        counters: DirectoryCounters,
    ) -> None:
        self._source = source
        self._snapshot = snapshot
        self._counters = counters
        self._monotonic_s: Callable[[], float] = clock.monotonic_s
        self._cache_s = settings.cache
        self._negative_s = settings.negative
        self._stale_s = settings.stale
        self._records_max = settings.cache_entries
        self._others_max = settings.cache_entries // 5
        self._records: dict[str, _Record] = {}
        self._others: dict[str, _Other] = {}
        self._flights: dict[str, asyncio.Task[Answer]] = {}
        self._away = ""

    async def recipient(self, address: Address) -> Answer:
        """Who is this address? Tried as it stands, then without `+detail`. Cancellation is safe."""
        kept = self._records.get(lookup_key(address))
        if kept is not None:
            now_s = self._monotonic_s()
            if now_s < kept.fresh_until_s:
                self._counters.hits += 1
                return Found(kept.record, Source.CACHE, now_s - kept.learned_s)
        answer = await self._resolve(address)
        if isinstance(answer, CannotSay):
            self._counters.unanswered += 1
        return answer

    async def member(self, member: Member) -> Answer:
        """Who is it that a group names? An address is looked up as `recipient` does. Cancellation is safe."""
        if isinstance(member, Address):
            return await self.recipient(member)
        # No address has a line end in it.
        key = f"dn\n{canonical_dn(member.dn)}" if isinstance(member, ByDn) else f"uid\n{canonical_text(member.uid)}"
        answer = self._unless_old(await self._ask_for(key, member))
        if isinstance(answer, CannotSay):
            self._counters.unanswered += 1
        return answer

    async def close(self) -> None:
        """End the look-ups under way; who waits for one is cancelled."""
        await cancel_and_wait(*self._flights.values())

    async def _resolve(self, address: Address) -> Answer:
        answer = await self._ask(address)
        if not isinstance(answer, NoSuch):
            return answer
        base, detail = split_detail(address)
        if base is not address:
            plain = await self._ask(base)
            if isinstance(plain, Found):
                return Found(plain.record, plain.source, plain.age_s, detail)
            if isinstance(plain, CannotSay):
                return plain
            answer = plain if answer.source not in {Source.STALE, Source.SNAPSHOT} else answer
        return self._unless_old(answer)

    def _unless_old(self, answer: Answer) -> Answer:
        """An old copy may know who exists. Who does not exist only a server can say."""
        if isinstance(answer, NoSuch) and answer.source in {Source.STALE, Source.SNAPSHOT}:
            return CannotSay(f"it is not among the last known, and {self._away}", ALARM_UNREACHABLE)
        return answer

    async def _ask(self, address: Address) -> Answer:
        """Answer for exactly this spelling. `NoSuch` from STALE or SNAPSHOT only means: not known there."""
        if not can_exist(address):
            return NoSuch(Source.CACHE)
        return await self._ask_for(lookup_key(address), address)

    async def _ask_for(self, key: str, asked: Member) -> Answer:
        now_s = self._monotonic_s()
        kept = self._records.get(key)
        if kept is not None and now_s < kept.fresh_until_s:
            self._counters.hits += 1
            return Found(kept.record, Source.CACHE, now_s - kept.learned_s)
        other = self._others.get(key)
        if other is not None and now_s < other.learned_s + self._negative_s:
            self._counters.hits += 1
            return NoSuch(Source.CACHE, now_s - other.learned_s) if isinstance(other.answer, NoSuch) else other.answer
        flight = self._flights.get(key)
        if flight is not None:
            self._counters.joined += 1
        elif len(self._flights) >= MAX_FLIGHTS:
            return CannotSay(f"{MAX_FLIGHTS} directory look-ups are under way", ALARM_UNREACHABLE)
        else:
            asked = canonical_address(asked) if isinstance(asked, Address) else asked
            flight = spawn(self._fly(key, asked), name="directory-lookup")
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return await asyncio.shield(flight)

    async def _fly(self, key: str, asked: Member) -> Answer:
        try:
            answer = await self._source.look_up(asked)
        except Unavailable as error:
            self._away = str(error)
            return await self._without_source(key, asked)
        now_s = self._monotonic_s()
        self._records.pop(key, None)
        self._others.pop(key, None)
        if isinstance(answer, Found):
            _make_room(self._records, self._records_max)
            self._records[key] = _Record(answer.record, now_s, now_s + self._cache_s)
        else:
            _make_room(self._others, self._others_max)
            self._others[key] = _Other(answer, now_s)
        return answer

    async def _without_source(self, key: str, asked: Member) -> Answer:
        now_s = self._monotonic_s()
        kept = self._records.get(key)
        if kept is not None and now_s - kept.learned_s <= self._stale_s:
            self._counters.stale += 1
            return Found(kept.record, Source.STALE, now_s - kept.learned_s)
        other = self._others.get(key)
        if other is not None and now_s - other.learned_s > self._stale_s:
            other = None
        if other is not None and isinstance(other.answer, CannotSay):
            return other.answer
        answer = await self._snapshot.look_up(asked) if self._snapshot is not None else None
        if isinstance(answer, Found):
            self._counters.snapshot += 1
            return answer
        if answer is None and other is not None:
            return NoSuch(Source.STALE)
        return CannotSay(self._away, ALARM_UNREACHABLE) if answer is None else answer


def _make_room(table: dict[str, _Record] | dict[str, _Other], most: int) -> None:
    while len(table) >= most:
        del table[next(iter(table))]
