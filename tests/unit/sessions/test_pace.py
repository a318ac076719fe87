"""How fast sessions come to and leave a node."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mailfront.sessions.pace import (
    AT_ONCE_COUNT,
    DOUBLES_EVERY_S,
    FULL_RATE_PER_S,
    LoginRate,
    Partings,
    allowed_per_s,
    spread_s,
)


def test_a_few_ends_are_passed_on_at_once() -> None:
    """A session that a node ends alone is no death of the node."""
    partings = Partings()
    assert [partings.delay_s(10.0 * number, 1000) for number in range(5)] == [0.0] * 5
    assert [partings.delay_s(100.0, 1000 - number) for number in range(AT_ONCE_COUNT)] == [0.0] * AT_ONCE_COUNT


@given(st.integers(50, 5000))
def test_a_nodes_death_is_spread_over_its_window(sessions: int) -> None:
    """At least five seconds; not more than 200 a second on average; nobody is kept longer than the window."""
    partings = Partings()
    delays = [partings.delay_s(7.0, sessions - number) for number in range(sessions)]
    window_s = spread_s(sessions)
    assert window_s == max(5.0, sessions / 200.0)
    assert all(0.0 <= delay <= window_s for delay in delays)
    assert sum(delay == 0.0 for delay in delays) <= AT_ONCE_COUNT
    assert max(delays) > window_s / 2


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_the_rate_of_a_returned_node_only_rises(one: float, other: float) -> None:
    """From a tenth, twice as much every five seconds, to the full rate."""
    early, late = sorted((one, other))
    assert FULL_RATE_PER_S / 10 <= allowed_per_s(early) <= allowed_per_s(late) <= FULL_RATE_PER_S
    assert allowed_per_s(0.0) == FULL_RATE_PER_S / 10
    assert allowed_per_s(DOUBLES_EVERY_S) == FULL_RATE_PER_S / 5
    assert allowed_per_s(4 * DOUBLES_EVERY_S) == FULL_RATE_PER_S


@given(st.lists(st.floats(0, 0.5), min_size=2, max_size=200))
def test_logins_at_a_returned_node_keep_their_distance(gaps: list[float]) -> None:
    """However they come, two slots are never closer than the rate allows; and each gets one, in its order."""
    rate, now_s = LoginRate(), 100.0
    rate.returned(now_s)
    slots = []
    for gap in gaps:
        now_s += gap
        slot_s = rate.reserve(now_s, now_s + 1e6)
        assert slot_s is not None
        assert slot_s >= now_s
        slots.append(slot_s)
    for before, after in pairwise(slots):
        assert after - before >= 1.0 / FULL_RATE_PER_S - 1e-9 or after >= 100.0 + 4 * DOUBLES_EVERY_S


def test_who_cannot_wait_so_long_takes_no_slot() -> None:
    """A login that gives up leaves its place to others."""
    rate = LoginRate()
    rate.returned(0.0)
    assert rate.reserve(0.0, 1.0) == 0.0
    assert rate.reserve(0.0, 0.01) is None
    assert rate.reserve(0.0, 1.0) == 10.0 / FULL_RATE_PER_S
    assert LoginRate().reserve(5.0, 5.0) == 5.0
