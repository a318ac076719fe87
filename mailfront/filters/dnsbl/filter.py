"""The filter of kind `dnsbl`: looks addresses up, adds weights, keeps what it knows. See the package."""

import asyncio
import ipaddress
from collections import OrderedDict
from typing import Any, ClassVar

from mailfront.filters.contract import Answer, Connection, Filter, FilterContext, FilterFailed
from mailfront.filters.dnsbl.settings import DnsblSettings
from mailfront.mail.verdict import CONTINUE, Verdict
from mailfront.net.dns import Found, Resolver
from mailfront.net.networks import Network, is_listed

MOST_REMEMBERED = 50_000
REMEMBERED_S = 60.0
_LISTED, _REFUSED = ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv4Network("127.255.0.0/16")
_NOT_ASKED = tuple(
    ipaddress.ip_network(each)
    for each in ("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
                 "100.64.0.0/10", "::/127", "fc00::/7", "fe80::/10")
)  # fmt: skip


class DnsblFilter(Filter):
    """See the module."""

    not_asked: ClassVar[tuple[Network, ...]] = _NOT_ASKED

    def __init__(self, settings: DnsblSettings, context: FilterContext) -> None:
        self._settings = settings
        self._clock = context.clock
        self._lists = [(each.zone.lower().rstrip("."), each.weight, each.answers) for each in settings.lists]
        self._timeout_s = min(settings.dns_timeout, context.timeout_s * 0.9)
        self._resolver: Resolver | None = None
        self._known: OrderedDict[str, tuple[float, Verdict]] = OrderedDict()

    async def start(self) -> None:
        """See `Filter`."""
        try:
            self._resolver = Resolver(self._settings.name_servers, timeout_s=self._timeout_s, clock=self._clock)
        except OSError as error:
            raise FilterFailed(str(error)) from error

    async def close(self) -> None:
        """See `Filter`."""
        if self._resolver is not None:
            await self._resolver.close()

    def connect(self, connection: Connection) -> Answer:
        """See `Filter`. At once if the address is known."""
        ip = connection.client.ip
        known = self._known.get(ip)
        if known is not None and known[0] > self._clock.monotonic_s():
            return known[1]
        if not ip or is_listed(ip, self.not_asked) or is_listed(ip, self._settings.exempt):
            return CONTINUE
        return self._ask(ip)

    async def _ask(self, ip: str) -> Verdict:
        resolver = self._resolver
        if resolver is None:
            raise FilterFailed("was not started")
        backwards = ipaddress.ip_address(ip).reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
        hits: list[tuple[str, int]] = []

        async def ask_one(zone: str, weight: int, answers: tuple[Network, ...]) -> None:
            found = await resolver.lookup(f"{backwards}.{zone}", "A")
            if isinstance(found, Found) and any(_counts(each, answers) for each in found.records):
                hits.append((zone, weight))

        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.gather(*(ask_one(*each) for each in self._lists))
        except TimeoutError:
            pass  # what came in time counts
        verdict = self._verdict(ip, hits)
        self._remember(ip, verdict)
        return verdict

    def _verdict(self, ip: str, hits: list[tuple[str, int]]) -> Verdict:
        if not hits:
            return CONTINUE
        score = sum(weight for _, weight in hits)
        zones = ", ".join(sorted(zone for zone, weight in hits if weight > 0))
        if score >= self._settings.reject_at:
            return Verdict.reject(f"{ip} is listed by {zones}", code=554, reason=f"score {score}: {zones}")
        return Verdict(score=float(score), reason=f"score {score}: {zones}")

    def _remember(self, ip: str, verdict: Verdict) -> None:
        known = self._known
        known[ip] = (self._clock.monotonic_s() + REMEMBERED_S, verdict)
        known.move_to_end(ip)
        if len(known) > MOST_REMEMBERED:
            known.popitem(last=False)


def _counts(record: Any, answers: tuple[Network, ...]) -> bool:
    """Whether an answer means that the address is listed."""
    try:
        address = ipaddress.IPv4Address(record)
    except ValueError:
        return False
    if address not in _LISTED or address in _REFUSED:
        return False
    return not answers or any(address in network for network in answers)
