"""The filter `dnsbl`, but it asks about addresses of this host, too: all clients of a benchmark are on loopback."""

from typing import Any, ClassVar

from mailfront.filters.contract import Filter, FilterContext, Kind
from mailfront.filters.dnsbl import KIND as DNSBL
from mailfront.filters.dnsbl.filter import DnsblFilter
from mailfront.net.networks import Network


class LocalDnsbl(DnsblFilter):
    """See the module."""

    not_asked: ClassVar[tuple[Network, ...]] = ()


def _make(settings: Any, context: FilterContext) -> Filter:
    return LocalDnsbl(settings, context)


KIND = Kind(
    summary="The filter dnsbl for clients on loopback.",
    settings=DNSBL.settings,
    stages=DNSBL.stages,
    make=_make,
    concurrency=DNSBL.concurrency,
)
