"""Kind `dnsbl`: is the client's address listed? Asked before the greeting, so before any look-up in a directory.

Each list has a weight; the weights of the lists that name the address are added, and `reject_at` decides. A list of
good addresses has a negative weight. Only answers in 127.0.0.0/8 count, and of those none in 127.255.0.0/16, by which
lists say that they do not serve this resolver. DNS trouble, and what is not answered in time, scores nothing.

What an address came to is kept for a minute, so a flood from one address costs a look-up in a dictionary; and the
answers are kept for their own time (see `mailfront.net.dns`). Addresses of private networks and of this host are never
looked up. Nothing here survives the process, and nothing needs to.
"""

from typing import Any

from mailfront.filters.contract import Filter, FilterContext, Kind, Stage
from mailfront.filters.dnsbl.settings import DnsblSettings

__all__ = ["KIND"]


def _make(settings: Any, context: FilterContext) -> Filter:
    # dnspython is for workers only.
    from mailfront.filters.dnsbl.filter import DnsblFilter

    return DnsblFilter(settings, context)


KIND = Kind(
    summary="Refuses clients that DNS lists name, before the greeting.",
    settings=DnsblSettings,
    stages=frozenset({Stage.CONNECT}),
    make=_make,
    concurrency=10_000,
)
