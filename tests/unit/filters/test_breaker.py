"""A scanner that does not answer is not called any more, and is found again when it does."""

import pytest

from mailfront.base.clock import ManualClock
from mailfront.filters.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, TRIP_COUNT, Breaker, BreakerState
from mailfront.filters.failure import FilterFailed
from mailfront.filters.hosts import Hosts


def tripped(now_s: float = 0.0) -> Breaker:
    breaker = Breaker("a")
    for _ in range(TRIP_COUNT):
        assert breaker.may_call(now_s)
        breaker.failed(now_s, "refused")
    return breaker


def test_it_opens_after_some_failures_in_a_row() -> None:
    """One success in between and the count begins anew."""
    breaker = Breaker("a")
    for _ in range(TRIP_COUNT - 1):
        breaker.failed(0.0, "refused")
    breaker.succeeded()
    breaker.failed(0.0, "refused")
    assert breaker.is_closed
    assert not tripped().may_call(0.0)
    assert tripped().reason == "refused"


def test_half_open_lets_one_probe_through() -> None:
    """The second call has to wait for what the probe finds."""
    breaker = tripped()
    assert breaker.state(FIRST_PAUSE_S) is BreakerState.HALF_OPEN
    assert breaker.may_call(FIRST_PAUSE_S)
    assert not breaker.may_call(FIRST_PAUSE_S)
    breaker.succeeded()
    assert breaker.may_call(FIRST_PAUSE_S)


def test_a_vain_probe_doubles_the_pause_up_to_a_limit() -> None:
    """A host that stays dead is asked twice a minute."""
    breaker, now_s, pause_s = tripped(), 0.0, FIRST_PAUSE_S
    for _ in range(10):
        now_s += pause_s
        assert not breaker.may_call(now_s - 0.01)
        assert breaker.may_call(now_s)
        breaker.failed(now_s, "refused")
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def test_a_cancelled_probe_lets_the_next_call_be_the_probe() -> None:
    """A message that was refused by somebody else says nothing about the host."""
    breaker = tripped()
    assert breaker.may_call(FIRST_PAUSE_S)
    breaker.cancelled()
    assert breaker.may_call(FIRST_PAUSE_S)


def test_only_opening_and_closing_are_told() -> None:
    """Not each failure while it is open."""
    told: list[bool] = []
    breaker = Breaker("a", lambda each: told.append(each.is_closed))
    for _ in range(TRIP_COUNT + 2):
        breaker.failed(0.0, "refused")
    breaker.may_call(FIRST_PAUSE_S)
    breaker.failed(FIRST_PAUSE_S, "refused")
    breaker.succeeded()
    assert told == [False, True]


class Caller:
    """Calls hosts; those in `dead` refuse."""

    def __init__(self, *dead: str) -> None:
        self.dead = set(dead)
        self.called: list[str] = []

    async def __call__(self, address: str) -> str:
        self.called.append(address)
        if address in self.dead:
            raise ConnectionRefusedError("refused")
        return address


async def test_hosts_take_turns() -> None:
    """Each message goes to the next host."""
    hosts, caller = Hosts([Breaker("a"), Breaker("b")], ManualClock(), 1.0), Caller()
    for _ in range(4):
        await hosts.ask(caller)
    assert sorted(caller.called) == ["a", "a", "b", "b"]


async def test_a_dead_host_costs_no_message() -> None:
    """The next host answers; after some failures the dead one is not called any more."""
    hosts, caller = Hosts([Breaker("a"), Breaker("b")], ManualClock(), 1.0), Caller("a")
    for _ in range(20):
        assert await hosts.ask(caller) == "b"
    assert caller.called.count("a") == TRIP_COUNT


async def test_when_all_are_open_it_fails_at_once() -> None:
    """Nobody is called; the error names the hosts and what they said last."""
    clock = ManualClock()
    hosts, caller = Hosts([Breaker("a")], clock, 1.0), Caller("a")
    for _ in range(TRIP_COUNT):
        with pytest.raises(FilterFailed, match="a: refused"):
            await hosts.ask(caller)
    caller.called.clear()
    with pytest.raises(FilterFailed, match="not called"):
        await hosts.ask(caller)
    assert not caller.called
    clock.advance(FIRST_PAUSE_S)
    caller.dead.clear()
    assert await hosts.ask(caller) == "a"


async def test_a_message_that_a_scanner_cannot_read_is_not_its_fault() -> None:
    """FilterFailed goes to the caller and opens nothing: no sender can switch a scanner off with bad mail."""
    hosts = Hosts([Breaker("a")], ManualClock(), 1.0)

    async def cannot(_: str) -> str:
        raise FilterFailed("no such format")

    for _ in range(TRIP_COUNT + 1):
        with pytest.raises(FilterFailed, match="no such format"):
            await hosts.ask(cannot)
    assert hosts.breakers[0].is_closed
