"""SPF: the whole test suite of RFC 7208, over a real name server on loopback; and what is ours around the library."""

from collections.abc import Iterator
from typing import Any

import pytest

from mailfront.base.clock import SystemClock
from mailfront.filters.auth.spf import check_spf
from mailfront.net.dns import Resolver
from tests.support.dns_server import FAILS, SILENT, DnsServer, closed_port
from tests.support.spf_suite import scenarios, zone


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    with DnsServer() as running:
        yield running


async def check(server: DnsServer | str, *, timeout_s: float = 20.0, **asked: str) -> Any:
    address = server if isinstance(server, str) else server.address
    resolver = Resolver([address], timeout_s=5.0, clock=SystemClock())
    found = await check_spf(resolver, receiver="mx.example.test", timeout_s=timeout_s, **asked)
    await resolver.close()
    return found


@pytest.mark.parametrize("number", range(16))
async def test_the_rfc_7208_suite(server: DnsServer, number: int) -> None:
    """Every test of this scenario gives a result that the suite allows, and its explanation where it names one."""
    scenario = scenarios()[number]
    server.records = zone(scenario["zonedata"])
    wrong = []
    for name, test in scenario["tests"].items():
        found = await check(server, ip=test["host"], sender=test.get("mailfrom") or "", helo=test["helo"])
        allowed = test["result"] if isinstance(test["result"], list) else [test["result"]]
        if found.result not in allowed:
            wrong.append(f"{scenario['description']}, {name}: {found} not in {allowed}")
        explanation = test.get("explanation", "DEFAULT")
        if explanation != "DEFAULT" and found.result == "fail" and found.explanation != explanation:
            wrong.append(f"{name}: {found.explanation!r} is not {explanation!r}")
    assert not wrong


def test_the_suite_is_whole() -> None:
    """No scenario and no test got lost on the way."""
    found = scenarios()
    assert (len(found), sum(len(each["tests"]) for each in found)) == (16, 203)


async def test_dns_trouble_is_temperror(server: DnsServer) -> None:
    """A name server that fails, is silent, or is not there: temperror, within the time."""
    server.records = {"fails.test": FAILS, "silent.test": SILENT}
    asked: dict[str, Any] = {"ip": "192.0.2.1", "helo": "client.test"}
    assert (await check(server, sender="a@fails.test", **asked)).result == "temperror"
    assert (await check(server, sender="a@silent.test", timeout_s=0.3, **asked)).result == "temperror"
    assert (await check(closed_port(), sender="a@fails.test", timeout_s=0.3, **asked)).result == "temperror"


async def test_endless_policies_are_permerror(server: DnsServer) -> None:
    """A record that would take seconds to evaluate, at the domain itself and behind an include."""
    long = "v=spf1 " + "ip4:203.0.113.5 " * 4000 + "-all"
    server.records = {"long.test": {"TXT": [long]}, "outer.test": {"TXT": ["v=spf1 include:long.test -all"]}}
    for domain in ("long.test", "outer.test"):
        found = await check(server, ip="192.0.2.1", sender=f"a@{domain}", helo="client.test")
        assert (found.result, found.reason) == ("permerror", "a record of more than 4096 bytes")


async def test_a_null_reverse_path_is_checked_by_helo(server: DnsServer) -> None:
    """Where there is no sender, HELO's domain is asked."""
    server.records = {"client.test": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]}}
    found = await check(server, ip="192.0.2.1", sender="", helo="client.test")
    assert (found.result, found.identity, found.domain) == ("pass", "helo", "client.test")


@pytest.mark.parametrize("helo", ["", "[192.0.2.1]", "localhost", "a b", "x" * 300, "-.-", "\x00.test", "ü.test"])
async def test_what_is_no_domain_has_no_policy(server: DnsServer, helo: str) -> None:
    """Anything that a client may say in HELO gives a result, and no exception."""
    assert (await check(server, ip="192.0.2.1", sender="", helo=helo)).result == "none"
