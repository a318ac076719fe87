"""Host names of nodes: asked now and then, kept while the name server is away."""

import asyncio
import socket
from typing import Any

import pytest

from mailfront.net import host_addresses
from mailfront.net.host_addresses import HostAddresses


class FakeResolver:
    """Stands in for the system's resolver: a name server cannot be made to fail on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.addresses = ["192.0.2.1", "192.0.2.2"]
        self.is_away = False
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.getaddrinfo)

    async def getaddrinfo(self, host: str, port: Any, **_: Any) -> list[Any]:
        """See the loop's."""
        self.asked.append(host)
        await asyncio.sleep(0)
        if self.is_away:
            raise socket.gaierror("Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.addresses]


async def test_an_address_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked."""
    resolver, hosts = FakeResolver(monkeypatch), HostAddresses()
    assert await hosts.of("192.0.2.9") == ("192.0.2.9",)
    assert await hosts.of("2001:db8::1") == ("2001:db8::1",)
    assert resolver.asked == []


async def test_a_name_is_asked_once_however_many_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same time and afterwards; one that gives up takes nothing from the others."""
    resolver, hosts = FakeResolver(monkeypatch), HostAddresses()
    found = await asyncio.gather(*(hosts.of("store1.example.edu") for _ in range(5)))
    assert set(found) == {("192.0.2.1", "192.0.2.2")}
    await hosts.of("store1.example.edu")
    assert resolver.asked == ["store1.example.edu"]


async def test_while_the_name_server_is_away_the_last_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again behind the scenes; nobody waits for that, and a new answer replaces the old one."""
    monkeypatch.setattr(host_addresses, "FRESH_S", 0.0)
    monkeypatch.setattr(host_addresses, "AGAIN_AFTER_S", 0.0)
    resolver, hosts = FakeResolver(monkeypatch), HostAddresses()
    first = await hosts.of("store1.example.edu")
    resolver.is_away = True
    for _ in range(3):
        assert await hosts.of("store1.example.edu") == first
        await asyncio.sleep(0.01)
    resolver.is_away, resolver.addresses = False, ["192.0.2.3"]
    async with asyncio.timeout(10):
        while await hosts.of("store1.example.edu") != ("192.0.2.3",):
            await asyncio.sleep(0)


async def test_a_name_that_was_never_known_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is asked about again by the next who wants it."""
    resolver, hosts = FakeResolver(monkeypatch), HostAddresses()
    resolver.is_away = True
    with pytest.raises(OSError, match="name resolution"):
        await hosts.of("store1.example.edu")
    resolver.is_away = False
    assert await hosts.of("store1.example.edu")
