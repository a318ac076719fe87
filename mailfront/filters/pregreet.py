"""Kind `pregreet`: does the client wait to be greeted? A mail server does; many bots talk at once.

A client that is not known here waits `wait` for its greeting, once: it is then known for `remember`, and so are the
others of its network. One that talks before is refused, and for `penalty` it is refused at once; one that leaves before
its time is over stays a stranger. The wait holds a timer and nothing else; at most `waiting` clients wait at a time in
a worker, and whoever comes then is greeted without a test.

What is known is kept per worker, bounded, and forgotten at a restart: a person's server then waits once more.
"""

from collections import OrderedDict

from pydantic import Field

from mailfront.base.settings import DurationS, Settings
from mailfront.filters.client_network import client_network
from mailfront.filters.contract import Answer, Connection, EarlyTalk, Filter, FilterContext, Kind, Stage
from mailfront.mail.verdict import CONTINUE, Verdict
from mailfront.net.networks import Networks, is_listed

MOST_REMEMBERED = 50_000
_MOST_OF_IT = 0.95
_TALKED = Verdict.reject("wait for the greeting before you talk", code=554, enhanced="5.5.1", reason="early talker")


class PregreetSettings(Settings):
    """How long strangers wait, and for how long they are known afterwards."""

    wait: DurationS = Field(default=3.0, gt=0, le=60)
    """How long a client that is not known waits for its greeting. Keep it well below the filter's `timeout`."""
    remember: DurationS = Field(default=7 * 86400.0, gt=0)
    """For how long a client that has waited is greeted at once, and all others of its /24 (IPv4) or /64 (IPv6)."""
    penalty: DurationS = Field(default=600.0, ge=0)
    """For how long a client that has talked too early is refused at once."""
    waiting: int = Field(default=1000, ge=1, le=100_000)
    """How many clients may wait at a time in each worker; more are greeted without a test."""
    exempt: Networks = ()
    """Clients that never wait."""


class PregreetFilter(Filter):
    """See the module."""

    def __init__(self, settings: PregreetSettings, context: FilterContext) -> None:
        self._settings = settings
        self._clock = context.clock
        self._waiting_count = 0
        self._known: OrderedDict[str, float] = OrderedDict()
        self._talkers: OrderedDict[str, float] = OrderedDict()

    def connect(self, connection: Connection) -> Answer:
        """See `Filter`. At once for a client that is known."""
        ip, early, now_s = connection.client.ip, connection.early, self._clock.monotonic_s()
        if not ip or early is None or is_listed(ip, self._settings.exempt):
            return CONTINUE
        if self._talkers.get(ip, 0.0) > now_s:
            return _TALKED
        if self._known.get(client_network(ip), 0.0) > now_s or self._waiting_count >= self._settings.waiting:
            return CONTINUE
        return self._wait(ip, early)

    async def _wait(self, ip: str, early: EarlyTalk) -> Verdict:
        settings = self._settings
        began_s = self._clock.monotonic_s()
        self._waiting_count += 1
        try:
            has_talked = await early.talks_within(settings.wait)
        finally:
            self._waiting_count -= 1
        now_s = self._clock.monotonic_s()
        if has_talked:
            _remember(self._talkers, ip, now_s + settings.penalty)
            return _TALKED
        if now_s - began_s >= settings.wait * _MOST_OF_IT:
            _remember(self._known, client_network(ip), now_s + settings.remember)
        return CONTINUE


def _remember(where: OrderedDict[str, float], key: str, until_s: float) -> None:
    where[key] = until_s
    where.move_to_end(key)
    if len(where) > MOST_REMEMBERED:
        where.popitem(last=False)


KIND = Kind(
    summary="Refuses clients that talk before they are greeted, which bots do.",
    settings=PregreetSettings,
    stages=frozenset({Stage.CONNECT}),
    make=PregreetFilter,
    concurrency=10_000,
)
