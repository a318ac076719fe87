"""`/metrics` and `/healthz` on a real socket, inside a loop that has other things to do."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mailfront.admin import http
from mailfront.admin.http import HttpServer, application
from mailfront.observe.health import State


class Page:
    """A served page and what it will say."""

    def __init__(self) -> None:
        self.state = State.OK
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.server = HttpServer(application(lambda: b"mailfront_x 1\n", self.health))
        self.port: int = self.listening.getsockname()[1]

    def health(self) -> tuple[State, dict[str, Any]]:
        """See `application`."""
        return self.state, {"state": self.state.value, "reasons": []}

    async def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers, body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split(" ")[1]), headers, body


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page that says all is well."""
    served = Page()
    served.server.start([served.listening])
    yield served
    await served.server.close()


async def test_metrics_are_shown_as_prometheus_wants_them(page: Page) -> None:
    """The type names the text format."""
    status, headers, body = await page.get("/metrics")
    assert (status, body) == (200, b"mailfront_x 1\n")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(("state", "expected"), [(State.OK, 200), (State.DEGRADED, 200), (State.FAILED, 503)])
async def test_healthz_fails_only_when_mail_cannot_be_taken(page: Page, state: State, expected: int) -> None:
    """A balancer takes a failed front end out and leaves a degraded one in; the reasons are in the body."""
    page.state = state
    status, _, body = await page.get("/healthz")
    assert status == expected
    assert json.loads(body)["state"] == state.value


@pytest.mark.parametrize("path", ["/", "/queue", "/metrics/../etc/passwd", "/healthz/"])
async def test_there_is_nothing_else(page: Page, path: str) -> None:
    """No page, no directory, no redirect to anywhere."""
    assert (await page.get(path))[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nothing_can_be_changed(page: Page, method: str) -> None:
    """Reading only."""
    assert (await page.get("/metrics", method))[0] == 405
    assert (await page.get("/healthz", method))[0] == 405


@pytest.mark.parametrize(
    "sent", [b"", b"GET /heal", b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"]
)
async def test_a_connection_ends(page: Page, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """A client that never finishes its request does not hold one of the few connections."""
    monkeypatch.setattr(http, "_LONGEST_CONNECTION_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
    writer.write(sent)
    async with asyncio.timeout(3):
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
    writer.close()


async def test_the_signals_of_the_process_stay_its_own(page: Page) -> None:
    """The server in the loop does not take SIGTERM and SIGINT."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    await page.get("/healthz")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_closing_frees_the_port() -> None:
    """After `close` somebody else may listen there."""
    served = Page()
    served.server.start([served.listening])
    await served.get("/healthz")
    await served.server.close()
    socket.create_server(("127.0.0.1", served.port)).close()
