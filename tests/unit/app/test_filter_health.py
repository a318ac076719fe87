"""`health` says which scanners are not called: what workers tell, and only as long as it is so."""

from typing import Any

from mailfront.app.filters import BreakerNews, FilterHealth
from mailfront.base.clock import ManualClock
from mailfront.filters.breaker import TRIP_COUNT, Breaker
from mailfront.observe.health import HealthTable, State


class NotedNews:
    """Notes what is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def tell(self, verb: str, about: str, payload: dict[str, Any]) -> None:
        assert verb == "filter_breaker"
        self.told.append((about, payload))


def trip(breaker: Breaker) -> None:
    for _ in range(TRIP_COUNT):
        breaker.failed(0.0, "connection refused")


def test_a_filter_is_in_trouble_until_every_worker_calls_its_hosts_again() -> None:
    """One condition per filter, with the hosts and what they said last."""
    health = HealthTable(ManualClock())
    filters = FilterHealth(health)
    filters.note("worker-0", "virus", "a:1", "connection refused")
    filters.note("worker-1", "virus", "a:1", "connection refused")
    condition = health.get("filter.virus")
    assert condition is not None
    assert (condition.state, condition.reason) == (State.DEGRADED, "a:1 is not called: connection refused")
    assert filters.open_hosts("virus") == {"a:1": "connection refused"}
    filters.note("worker-0", "virus", "a:1", None)
    assert health.get("filter.virus") == condition
    filters.note("worker-1", "virus", "a:1", None)
    assert filters.open_hosts("virus") == {}
    healed = health.get("filter.virus")
    assert healed is not None
    assert healed.state is State.OK


def test_what_a_worker_knew_goes_with_it() -> None:
    """A worker that was killed cannot tell that a scanner answers again."""
    health = HealthTable(ManualClock())
    filters = FilterHealth(health)
    filters.note("worker-0", "virus", "a:1", "connection refused")
    filters.forget("worker-0")
    condition = health.get("filter.virus")
    assert condition is not None
    assert condition.state is State.OK


def test_each_change_is_told_and_a_new_keeper_hears_all_again() -> None:
    """Open, closed and open again within seconds are three news; after a reconnect only what is open is told."""
    news = NotedNews()
    breakers = BreakerNews(news)  # type: ignore[arg-type]  # the part of KeeperNews that it uses
    one, other = (Breaker(host, lambda each: breakers.changed("virus", each)) for host in ("a:1", "b:2"))
    trip(one)
    one.succeeded()
    trip(one)
    trip(other)
    other.succeeded()
    assert [payload["is_open"] for _, payload in news.told] == [True, False, True, True, False]
    assert len({about for about, _ in news.told}) == 5
    news.told.clear()
    breakers.tell_all()
    assert [(payload["host"], payload["is_open"]) for _, payload in news.told] == [("a:1", True)]
