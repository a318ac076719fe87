"""Kind `pregreet`: strangers wait once, talkers are refused, and a crowd is not made to wait."""

import asyncio
from collections.abc import Awaitable

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.tasks import spawn
from mailfront.filters.contract import Connection
from mailfront.filters.pregreet import PregreetFilter, PregreetSettings
from mailfront.mail.client import ClientInfo
from mailfront.mail.verdict import Action, Verdict
from tests.support.filter_kinds import context


class Client:
    """A client that talks, waits, or leaves; the clock moves by what it takes."""

    def __init__(self, clock: ManualClock, *, talks: bool = False, leaves_after_s: float | None = None) -> None:
        self._clock = clock
        self._talks = talks
        self._leaves_after_s = leaves_after_s
        self.asked_count = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def talks_within(self, seconds: float) -> bool:
        self.asked_count += 1
        await self.may_end.wait()
        self._clock.advance(seconds if self._leaves_after_s is None else self._leaves_after_s)
        return self._talks


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def made(clock: ManualClock, **settings: object) -> PregreetFilter:
    return PregreetFilter(PregreetSettings.model_validate(settings), context(clock=clock))


async def ask(filter_: PregreetFilter, client: Client | None, ip: str = "192.0.2.1") -> Verdict:
    answer = filter_.connect(Connection(client=ClientInfo(ip=ip, port=1), early=client))
    return answer if isinstance(answer, Verdict) else await answer


async def test_a_stranger_waits_once(clock: ManualClock) -> None:
    """The first time it waits, afterwards it and its neighbours are greeted at once, until they are forgotten."""
    filter_, client = made(clock, remember="1h"), Client(clock)
    assert (await ask(filter_, client)).action is Action.CONTINUE
    assert (await ask(filter_, client)).action is Action.CONTINUE
    assert (await ask(filter_, client, "192.0.2.200")).action is Action.CONTINUE
    assert client.asked_count == 1
    clock.advance(3601)
    await ask(filter_, client)
    assert client.asked_count == 2


async def test_a_talker_is_refused_and_remembered(clock: ManualClock) -> None:
    """At its first word, and at once when it comes again within the penalty; then it is tested anew."""
    filter_, talker = made(clock, penalty="10m"), Client(clock, talks=True)
    verdict = await ask(filter_, talker)
    assert (verdict.action, verdict.code) == (Action.REJECT, 554)
    assert (await ask(filter_, talker)).action is Action.REJECT
    assert talker.asked_count == 1
    clock.advance(601)
    assert (await ask(filter_, talker)).action is Action.REJECT
    assert talker.asked_count == 2


async def test_a_talkers_neighbour_is_not_refused(clock: ManualClock) -> None:
    """Only the address that talked is."""
    filter_ = made(clock)
    await ask(filter_, Client(clock, talks=True))
    assert (await ask(filter_, Client(clock), "192.0.2.9")).action is Action.CONTINUE


async def test_one_that_leaves_stays_a_stranger(clock: ManualClock) -> None:
    """A client that hangs up before its time is over has not waited."""
    filter_ = made(clock, wait="3s")
    await ask(filter_, Client(clock, leaves_after_s=1.0))
    again = Client(clock)
    await ask(filter_, again)
    assert again.asked_count == 1


async def test_a_crowd_is_greeted_without_a_test(clock: ManualClock) -> None:
    """When as many wait as may, the next one does not."""
    filter_, first, second = made(clock, waiting=1), Client(clock), Client(clock)
    first.may_end.clear()
    waiting: Awaitable[Verdict] = spawn(ask(filter_, first), name="test")
    while first.asked_count == 0:
        await asyncio.sleep(0)
    assert (await ask(filter_, second, "198.51.100.1")).action is Action.CONTINUE
    assert second.asked_count == 0
    first.may_end.set()
    assert (await waiting).action is Action.CONTINUE


async def test_exempt_clients_and_dry_runs_do_not_wait(clock: ManualClock) -> None:
    """A listed network, a client without an address, and a rehearsal without a client."""
    filter_, client = made(clock, exempt=["192.0.2.0/24"]), Client(clock)
    await ask(filter_, client)
    await ask(filter_, client, "")
    await ask(filter_, None, "198.51.100.1")
    assert client.asked_count == 0
