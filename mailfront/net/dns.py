"""DNS look-ups for filters: asynchronous, cached, bounded in time. The only place that knows dnspython.

`Resolver(servers, ...)` asks the given name servers, or without any those of /etc/resolv.conf. `lookup` has three
answers, which are values and not exceptions: `Found`, `Absent` (the name or the type does not exist: that is known) and
`Trouble` (nobody could say; never taken for `Absent`). CNAMEs are followed by the server.

The cache is per process and bounded: `Found` for its TTL (at least 5 s, at most an hour), `Absent` for the TTL of its
SOA (at most 15 minutes), `Trouble` for 5 s, so that a name server that hangs costs one wait and not one per message.
Look-ups of one name at the same time are one query. At most `MOST_QUERIES` queries are under way; more are `Trouble`.

Cancellation of one caller does not disturb the others.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import dns.rrset
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.txtbase import TXTBase

from mailfront.base.clock import Clock
from mailfront.base.printable import printable
from mailfront.base.tasks import spawn
from mailfront.net.dns_settings import parse_name_server
from mailfront.observe import metrics

RecordType = Literal["A", "AAAA", "MX", "PTR", "TXT"]
Record = str | bytes | tuple[int, str]

MOST_CACHED = 50_000
MOST_QUERIES = 500
MOST_RECORDS = 100
_NO_NAMES = (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.name.IDNAException)
_SHORTEST_S, _LONGEST_S, _LONGEST_ABSENT_S, _TROUBLE_S = 5.0, 3600.0, 900.0, 5.0


@dataclass(frozen=True, slots=True)
class Found:
    """The records: addresses and PTR names as text (no final dot), TXT as bytes, its pieces joined, MX as preference
    and name. At least one, at most `MOST_RECORDS`."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such record, and that is certain."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Nobody could tell: a time-out, a server's failure, too many queries."""

    reason: str


DnsAnswer = Found | Absent | Trouble
ABSENT = Absent()


class Resolver:
    """See the module. One per set of servers and process, used inside one event loop."""

    def __init__(self, servers: Sequence[str], *, timeout_s: float, clock: Clock) -> None:
        """`servers`: `"192.0.2.53"`, `"192.0.2.53:5353"` or `"[2001:db8::53]:53"`; none: /etc/resolv.conf. `timeout_s`
        is how long one look-up may take, with all its retries. Raises OSError if /etc/resolv.conf cannot be read."""
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=not servers)
        except dns.resolver.NoResolverConfiguration as error:
            raise OSError(f"no name servers: {error}; name them in the filter's settings") from error
        if servers:
            self._resolver.nameservers = [dns.nameserver.Do53Nameserver(*parse_name_server(each)) for each in servers]
        self._resolver.cache = None
        self._resolver.lifetime = timeout_s
        self._resolver.timeout = timeout_s / 2
        self._resolver.use_edns(0, 0, 1232)
        self._clock = clock
        self._cache: OrderedDict[tuple[str, str], tuple[float, DnsAnswer]] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Task[DnsAnswer]] = {}

    def cached(self, name: str, record_type: RecordType) -> DnsAnswer | None:
        """What is known without asking; None: nothing."""
        found = self._cache.get((name, record_type))
        return found[1] if found is not None and found[0] > self._clock.monotonic_s() else None

    async def lookup(self, name: str, record_type: RecordType) -> DnsAnswer:
        """Look a name up. `name` is lower case, without a final dot; one that cannot exist is `Absent`."""
        key = (name, record_type)
        found = self._cache.get(key)
        if found is not None and found[0] > self._clock.monotonic_s():
            metrics.DNS_LOOKUPS.inc("cached")
            return found[1]
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= MOST_QUERIES:
                metrics.DNS_LOOKUPS.inc("trouble")
                return Trouble("too many DNS queries at once")
            task = spawn(self._ask(key), name=f"dns {record_type}")
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._asking.values()):
            task.cancel()

    async def _ask(self, key: tuple[str, str]) -> DnsAnswer:
        name, record_type = key
        answer: DnsAnswer
        lifetime_s = _TROUBLE_S
        try:
            result = await self._resolver.resolve(
                _name(name), record_type, raise_on_no_answer=False, search=False, lifetime=self._resolver.lifetime
            )
        except dns.resolver.NXDOMAIN as error:
            answer, lifetime_s = ABSENT, _negative_ttl_s(error)
        except (dns.exception.DNSException, OSError, ValueError, UnicodeError) as error:
            if isinstance(error, dns.exception.SyntaxError | ValueError) or _is_no_name(error):
                answer, lifetime_s = ABSENT, _LONGEST_ABSENT_S
            else:
                answer = Trouble(printable(f"{record_type} {name}: {error}", 200))
        else:
            records = _records(result.rrset)
            answer = Found(records) if records else ABSENT
            longest_s = _LONGEST_S if records else _LONGEST_ABSENT_S
            lifetime_s = min(max(result.expiration - time.time(), _SHORTEST_S), longest_s)
        metrics.DNS_LOOKUPS.inc("trouble" if isinstance(answer, Trouble) else "asked")
        self._remember(key, answer, lifetime_s)
        return answer

    def _remember(self, key: tuple[str, str], answer: DnsAnswer, lifetime_s: float) -> None:
        cache = self._cache
        cache[key] = (self._clock.monotonic_s() + lifetime_s, answer)
        cache.move_to_end(key)
        if len(cache) > MOST_CACHED:
            cache.popitem(last=False)


def _name(name: str) -> dns.name.Name:
    if name.isascii():
        # Not as text: in names that others make up, backslashes and quotes mean nothing.
        return dns.name.Name([*(label.encode() for label in name.split(".")), b""])
    return dns.name.from_text(name)


def _is_no_name(error: Exception) -> bool:
    """Labels over 63 bytes, names over 255, empty labels: nobody can have such a name."""
    return isinstance(
        error, dns.name.LabelTooLong | dns.name.NameTooLong | dns.name.EmptyLabel | dns.name.IDNAException
    )


def _negative_ttl_s(error: dns.resolver.NXDOMAIN) -> float:
    for response in error.kwargs.get("responses", {}).values():
        for rrset in response.authority:
            if rrset.rdtype == dns.rdatatype.SOA:
                return float(min(max(min(rrset.ttl, rrset[0].minimum), _SHORTEST_S), _LONGEST_ABSENT_S))
    return _SHORTEST_S


def _records(rrset: dns.rrset.RRset | None) -> tuple[Record, ...]:
    records: list[Record] = []
    for each in list(rrset or ())[:MOST_RECORDS]:
        match each:
            case TXTBase():
                records.append(b"".join(each.strings))
            case MX():
                records.append((each.preference, each.exchange.to_text(omit_final_dot=True).lower()))
            case PTR():
                records.append(each.target.to_text(omit_final_dot=True).lower())
            case _:
                records.append(each.to_text())
    return tuple(records)
