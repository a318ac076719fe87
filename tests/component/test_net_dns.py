"""The resolver against a name server on loopback: what is found, what is certainly absent, and what nobody can say."""

import asyncio
from collections.abc import Iterator

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.tasks import spawn
from mailfront.net.dns import ABSENT, Found, Resolver, Trouble
from mailfront.net.dns_settings import parse_name_server
from tests.support.dns_server import FAILS, SILENT, DnsServer

RECORDS = {
    "a.test": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"], "MX": ["10 MX.a.test"]},
    "txt.test": {"TXT": [["v=spf1 ", "-all"], "other"]},
    "alias.test": {"CNAME": ["a.test"]},
    "long.test": {"TXT": ["x" * 3000]},
    "fails.test": FAILS,
    "silent.test": SILENT,
    "1.2.0.192.in-addr.arpa": {"PTR": ["Host.a.test"]},
}


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    with DnsServer(dict(RECORDS)) as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def resolver(server: DnsServer, clock: ManualClock) -> Resolver:
    return Resolver([server.address], timeout_s=1.0, clock=clock)


async def test_records_of_each_type_are_found(resolver: Resolver) -> None:
    """Addresses, MX and PTR in lower case, TXT joined, CNAMEs followed, long answers over TCP."""
    found = await resolver.lookup("a.test", "A")
    assert isinstance(found, Found)
    assert sorted(map(str, found.records)) == ["192.0.2.1", "192.0.2.2"]
    assert await resolver.lookup("a.test", "AAAA") == Found(("2001:db8::1",))
    assert await resolver.lookup("a.test", "MX") == Found(((10, "mx.a.test"),))
    text = await resolver.lookup("txt.test", "TXT")
    assert isinstance(text, Found)
    assert set(text.records) == {b"v=spf1 -all", b"other"}
    assert await resolver.lookup("alias.test", "AAAA") == Found(("2001:db8::1",))
    assert await resolver.lookup("1.2.0.192.in-addr.arpa", "PTR") == Found(("host.a.test",))
    assert await resolver.lookup("long.test", "TXT") == Found((b"x" * 3000,))


async def test_absence_is_told_from_trouble(resolver: Resolver) -> None:
    """No such name and no such type are absent; a failure and a silence of the server are trouble."""
    assert await resolver.lookup("nobody.test", "A") == ABSENT
    assert await resolver.lookup("txt.test", "A") == ABSENT
    assert isinstance(await resolver.lookup("fails.test", "A"), Trouble)
    assert isinstance(await resolver.lookup("silent.test", "A"), Trouble)


@pytest.mark.parametrize("name", ["a" * 64 + ".test", ".".join(["abcdefgh"] * 40), "a..test", "", "ü" * 70 + ".test"])
async def test_names_that_cannot_be_are_absent(resolver: Resolver, name: str) -> None:
    """Over-long labels and names, empty labels: no query, no trouble."""
    assert await resolver.lookup(name, "A") in (ABSENT, Found(()))


async def test_answers_are_kept_and_concurrent_questions_are_one(
    server: DnsServer, resolver: Resolver, clock: ManualClock
) -> None:
    """Ten questions at once are one query; within its time the answer comes from the cache, later the server is
    asked again."""
    server.records["once.test"] = {"A": ["192.0.2.7"]}
    answers = await asyncio.gather(*(resolver.lookup("once.test", "A") for _ in range(10)))
    assert set(answers) == {Found(("192.0.2.7",))}
    await resolver.lookup("once.test", "A")
    assert server.asked.count(("once.test", "A")) == 1
    assert resolver.cached("once.test", "A") == Found(("192.0.2.7",))
    clock.advance(3601)
    assert resolver.cached("once.test", "A") is None
    await resolver.lookup("once.test", "A")
    assert server.asked.count(("once.test", "A")) == 2


async def test_a_caller_that_leaves_does_not_disturb_the_others(resolver: Resolver) -> None:
    """One of two who wait for the same name is cancelled; the other gets its answer."""
    first = spawn(resolver.lookup("fails.test", "TXT"), name="test")
    second = spawn(resolver.lookup("fails.test", "TXT"), name="test")
    await asyncio.sleep(0)
    first.cancel()
    assert isinstance(await second, Trouble)
    await resolver.close()


def test_name_servers_are_addresses() -> None:
    """An address with or without a port; names and nonsense are none."""
    assert parse_name_server("192.0.2.53") == ("192.0.2.53", 53)
    assert parse_name_server("192.0.2.53:5353") == ("192.0.2.53", 5353)
    assert parse_name_server("2001:db8::53") == ("2001:db8::53", 53)
    assert parse_name_server("[2001:db8::53]:5353") == ("2001:db8::53", 5353)
    for wrong in ("", "dns.example.org", "192.0.2.53:0", "192.0.2.53:x", "[2001:db8::53", 5):
        with pytest.raises(ValueError, match="name server"):
            parse_name_server(wrong)
