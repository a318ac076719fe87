"""What a process gives its filters, what it tells about them, and what the keeper makes of that.

A breaker that opens or closes is logged, counted in a gauge, and told to the keeper, whose `health` shows it.
"""

from mailfront.admin.filters import Breakers, FilterService
from mailfront.app.keeper_news import KeeperNews
from mailfront.base.clock import Clock
from mailfront.config.model import Configuration
from mailfront.directory.directory import Directory
from mailfront.filters.breaker import Breaker
from mailfront.filters.chain import Surroundings, build_chain
from mailfront.filters.counting.client import SERVICE, CounterClient
from mailfront.mail.address import parse_path
from mailfront.net.channel import Channel
from mailfront.observe import metrics
from mailfront.observe.health import HealthTable, State
from mailfront.observe.log import get

log = get("filters")


class BreakerNews:
    """Tells the keeper which of this worker's breakers are open; a keeper that is new hears of all of them again."""

    def __init__(self, news: KeeperNews) -> None:
        self._news = news
        self._open: dict[tuple[str, str], str] = {}
        self._told_count = 0

    def changed(self, name: str, breaker: Breaker) -> None:
        """A breaker of a filter opened or closed."""
        metrics.FILTERS_BREAKER_OPEN.set(not breaker.is_closed, name, breaker.name)
        if breaker.is_closed:
            self._open.pop((name, breaker.name), None)
            log.info("a scanner answers again", filter=name, host=breaker.name)
        else:
            self._open[name, breaker.name] = breaker.reason
            log.warning("a scanner does not answer", filter=name, host=breaker.name, reason=breaker.reason)
        self._tell(name, breaker.name)

    def tell_all(self) -> None:
        """The keeper may be another one than before."""
        for name, host in list(self._open):
            self._tell(name, host)

    def _tell(self, name: str, host: str) -> None:
        reason = self._open.get((name, host))
        payload = {"filter": name, "host": host, "is_open": reason is not None, "reason": reason or ""}
        # Numbered, because open, closed and open again within seconds is no repetition.
        self._told_count += 1
        self._news.tell("filter_breaker", str(self._told_count), payload)


def filter_surroundings(config: Configuration, clock: Clock, news: KeeperNews, keeper: Channel) -> Surroundings:
    """The surroundings of a worker's filters."""
    breakers = BreakerNews(news)
    keeper.on_connected(breakers.tell_all)
    return Surroundings(
        hostname=config.server.hostname,
        clock=clock,
        local_domains=frozenset(config.domains.local),
        services={SERVICE: CounterClient(keeper)},
        breaker_changed=breakers.changed,
    )


def keeper_filters(config: Configuration, breakers: Breakers, directory: Directory, clock: Clock) -> FilterService:
    """The service behind `filter list` and `filter test`."""
    surroundings = Surroundings(
        hostname=config.server.hostname, clock=clock, local_domains=frozenset(config.domains.local)
    )
    postmaster = parse_path(config.postmaster.address)
    assert postmaster is not None
    return FilterService(
        config.filter,
        lambda: build_chain(config.filter, surroundings),
        breakers,
        directory,
        clock,
        hostname=config.server.hostname,
        postmaster=postmaster,
        deadline_s=config.intake.deadline,
    )


class FilterHealth:
    """The conditions `filter.NAME` in the keeper's table: which scanners are not called, as the workers say."""

    def __init__(self, health: HealthTable) -> None:
        self._health = health
        self._open: dict[tuple[str, str, str], str] = {}

    def open_hosts(self, name: str) -> dict[str, str]:
        """The hosts of a filter that some worker does not call, and why."""
        return {host: reason for (filter_name, host, _), reason in self._open.items() if filter_name == name}

    def note(self, worker: str, name: str, host: str, reason: str | None) -> None:
        """A worker's breaker opened (`reason`: why), or closed (None)."""
        if reason is None:
            self._open.pop((name, host, worker), None)
        else:
            self._open[name, host, worker] = reason
        self._show(name)

    def forget(self, worker: str) -> None:
        """A worker is gone, and its breakers with it."""
        for key in [key for key in self._open if key[2] == worker]:
            del self._open[key]
            self._show(key[0])

    def _show(self, name: str) -> None:
        hosts = self.open_hosts(name)
        text = "; ".join(f"{host} is not called: {reason}" for host, reason in sorted(hosts.items()))
        self._health.set(f"filter.{name}", State.DEGRADED if hosts else State.OK, text)
