"""The counters: limits that refill evenly, triplets that come again, and ends that come by themselves."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.filters.counting import tallies
from mailfront.filters.counting.asks import GreyAsk, RateAsk
from mailfront.filters.counting.tallies import Tallies
from mailfront.store.tally_rows import TallyRow

NOW_S = 1_700_000_000.0
RATE = RateAsk(key="r", count=10, per_s=3600.0)
GREY = GreyAsk(triplet="t", network="n", delay_s=300.0, window_s=3600.0, keep_s=86400.0, learn_count=2)


def take(table: Tallies, ask: RateAsk = RATE, now_s: float = NOW_S) -> float:
    return table.take_rates([ask], now_s)[0]


def test_a_limit_gives_its_count_at_once_and_then_evenly() -> None:
    """Ten at once, the eleventh after a tenth of the time, and all ten again after all of it."""
    table = Tallies()
    assert [take(table) for _ in range(10)] == [0.0] * 10
    assert round(take(table)) == 360
    assert take(table, now_s=NOW_S + 361) == 0.0
    assert take(table, now_s=NOW_S + 362) > 0
    assert [take(table, now_s=NOW_S + 361 + 3601) for _ in range(10)] == [0.0] * 10


def test_what_is_refused_costs_nothing() -> None:
    """Of two limits that are asked together both or none are taken."""
    table, other = Tallies(), replace(RATE, key="other")
    for _ in range(10):
        take(table)
    waits_s = table.take_rates([RATE, other], NOW_S)
    assert waits_s[0] > 0
    assert waits_s[1] == 0
    assert [take(table, other) for _ in range(10)] == [0.0] * 10


def test_a_lowered_limit_holds_no_longer_than_its_own_time() -> None:
    """What was counted by the day under an old configuration does not hold a limit by the minute for a day."""
    table = Tallies()
    for _ in range(10):
        take(table, replace(RATE, per_s=86400.0))
    assert take(table, replace(RATE, per_s=60.0)) <= 60


@given(st.lists(st.floats(0, 100), max_size=60))
def test_no_more_than_the_limit_in_any_time(pauses_s: list[float]) -> None:
    """Whatever the rhythm, twice the limit is never passed within its time, and time alone refills it."""
    table, ask, now_s, taken = Tallies(), RateAsk(key="r", count=5, per_s=100.0), NOW_S, list[float]()
    for pause_s in pauses_s:
        now_s += pause_s
        if take(table, ask, now_s) == 0:
            taken.append(now_s)
    for at_s in taken:
        assert len([each for each in taken if at_s <= each < at_s + 100]) <= 10
    assert take(table, ask, now_s + 100) == 0


def test_a_triplet_passes_when_it_comes_again() -> None:
    """Not at first, not before its delay, then yes, and from then on for as long as it is used."""
    table = Tallies()
    assert table.grey(GREY, NOW_S) == 300
    assert table.grey(GREY, NOW_S + 100) == 200
    assert table.grey(GREY, NOW_S + 300) == 0
    assert table.grey(GREY, NOW_S + 80_000) == 0
    assert table.grey(GREY, NOW_S + 150_000) == 0
    assert table.grey(GREY, NOW_S + 150_000 + 86_401) > 0


def test_a_triplet_that_comes_too_late_is_new() -> None:
    """After its window it is as if it was never seen."""
    table = Tallies()
    table.grey(GREY, NOW_S)
    assert table.grey(GREY, NOW_S + 3601) == 300


def test_a_network_is_learnt() -> None:
    """When two triplets came through, a third passes at once; with 0 networks are not learnt."""
    for learn_count, passes in ((2, True), (0, False)):
        table, ask = Tallies(), replace(GREY, learn_count=learn_count, network="n" if learn_count else "")
        for triplet in ("a", "b"):
            table.grey(replace(ask, triplet=triplet), NOW_S)
            table.grey(replace(ask, triplet=triplet), NOW_S + 301)
        assert (table.grey(replace(ask, triplet="c"), NOW_S + 302) == 0) is passes


def test_only_what_has_changed_is_written_and_survives() -> None:
    """A second table made of the rows that were taken decides the same."""
    table = Tallies()
    table.grey(GREY, NOW_S)
    for _ in range(10):
        take(table)
    rows = table.take_changed(100)
    assert {row.key for row in rows} == {"t", "r"}
    assert table.take_changed(100) == []
    again = Tallies(rows)
    assert again.grey(GREY, NOW_S + 300) == 0
    assert take(again) > 0


def test_what_could_not_be_written_is_taken_again() -> None:
    """Given back, with what has become of it since."""
    table = Tallies()
    table.grey(GREY, NOW_S)
    rows = table.take_changed(100)
    table.give_back(rows)
    table.grey(GREY, NOW_S + 300)
    assert {row.key: row.count for row in table.take_changed(100)} == {"t": 1, "n": 1}


def test_ended_keys_go_and_excess_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose time is over; beyond the most, those that would end first."""
    table = Tallies([TallyRow(str(number), NOW_S, 0, NOW_S + number) for number in range(10)])
    assert table.drop_ended(NOW_S + 4) == []
    assert len(table) == 5
    monkeypatch.setattr(tallies, "MOST_KEYS", 2)
    assert table.is_crowded
    assert table.drop_ended(NOW_S + 4) == ["5", "6", "7"]
    assert len(table) == 2
    assert not table.is_crowded
