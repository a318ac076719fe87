"""What tests of the edge need: an intake that records and answers as told, and a running server to talk to."""

import asyncio
import contextlib
import functools
import inspect
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mailfront.base.ids import MessageId, new_message_id
from mailfront.edge.port import Screening
from mailfront.edge.server import EdgeServer
from mailfront.edge.settings import LimitsSettings
from mailfront.filters.contract import Finding
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.reply import Reply, reply
from mailfront.mail.request import MailRequest
from mailfront.net.body import BodyBudget
from mailfront.net.connections import Refusal, RefusedFor
from mailfront.net.settings import ListenSettings
from mailfront.net.tls import ServerTls

RCPT_OK = reply(250, "2.1.5", "Ok")

_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on asyncio's own event loop and on uvloop."""

    def run(*args: Any, loop_name: str, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=_LOOPS[loop_name]) as runner:
            runner.run(test(*args, **kwargs))

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]
    signature = inspect.signature(test)
    loop_name = inspect.Parameter("loop_name", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), loop_name]
    )
    parametrized: Callable[..., None] = pytest.mark.parametrize("loop_name", sorted(_LOOPS))(run)
    return parametrized


def limits(**values: Any) -> LimitsSettings:
    """Limits as tests want them: plain numbers, also smaller than a configuration may have."""
    return LimitsSettings().model_copy(update=values)


@dataclass
class Taken:
    """One message that was committed."""

    request: MailRequest
    recipients: list[tuple[Address, RecipientOptions]]
    body: bytes
    protocol: str
    per_recipient: bool


@dataclass
class FakeIntake:
    """Takes everything. Recipients that begin with `no` are refused, those with `later` deferred."""

    taken: list[Taken] = field(default_factory=list)
    begun: int = 0
    abandoned: int = 0
    answer: Callable[[], tuple[Reply, ...]] | None = None
    at_mail: Reply | None = None
    before_reply: Callable[[], Any] | None = None
    rcpt_gate: asyncio.Event | None = None
    screening: Screening | None = None
    earlier: list[tuple[Finding, ...]] = field(default_factory=list)

    def begin(self, request: MailRequest, earlier: tuple[Finding, ...] = ()) -> "FakeTransaction | Reply":
        self.begun += 1
        self.earlier.append(earlier)
        return self.at_mail or FakeTransaction(self, request)


class FakeTransaction:
    asks_at_mail = False

    def __init__(self, intake: FakeIntake, request: MailRequest) -> None:
        self.id: MessageId = new_message_id(1_700_000_000.0)
        self._intake = intake
        self._request = request
        self._recipients: list[tuple[Address, RecipientOptions]] = []

    async def mail(self) -> Reply | None:
        raise AssertionError("it did not ask for this")

    async def rcpt(self, address: Address, options: RecipientOptions) -> Reply:
        if self._intake.rcpt_gate is not None:
            await self._intake.rcpt_gate.wait()
        if address.local.startswith("crash"):
            raise RuntimeError("secret internals")
        if address.local.startswith("no"):
            return reply(550, "5.1.1", f"<{address}> unknown")
        if address.local.startswith("later"):
            return reply(451, "4.4.3", f"<{address}> try later")
        self._recipients.append((address, options))
        return RCPT_OK

    async def commit(self, body: BodyRef, *, protocol: str, per_recipient: bool) -> tuple[Reply, ...]:
        if self._intake.before_reply is not None:
            await self._intake.before_reply()
        taken = Taken(self._request, self._recipients, b"".join(body.pieces()), protocol, per_recipient)
        self._intake.taken.append(taken)
        if self._intake.answer is not None:
            return self._intake.answer()
        ok = reply(250, "2.0.0", f"{self.id} delivered")
        return (ok,) * (len(self._recipients) if per_recipient else 1)

    def abandon(self) -> None:
        self._intake.abandoned += 1


@dataclass
class FakeAdmission:
    """Counts; refuses everything while `refuse` is set."""

    refuse: RefusedFor | None = None
    open: dict[str, int] = field(default_factory=dict)

    def admit(self, ip: str) -> Refusal | None:
        if self.refuse is not None:
            return Refusal(self.refuse, 7, 7)
        self.open[ip] = self.open.get(ip, 0) + 1
        return None

    def release(self, ip: str) -> None:
        self.open[ip] -= 1


@dataclass
class Edge:
    """A running server with everything that a test may want to look at."""

    server: EdgeServer
    intake: FakeIntake
    admission: FakeAdmission
    budget: BodyBudget
    events: list[dict[str, Any]]
    address: Any

    @property
    def port(self) -> int:
        port: int = self.address[1]
        return port

    async def ended(self, count: int = 1) -> dict[str, Any]:
        """Wait until `count` connections have ended. Returns the last one's event."""
        async with asyncio.timeout(10):
            while len(self.events) < count:
                await asyncio.sleep(0.005)
        return self.events[-1]


@contextlib.asynccontextmanager
async def running_edge(
    spool_dir: Path,
    *,
    limits: LimitsSettings | None = None,
    tls: ServerTls | None = None,
    intake: FakeIntake | None = None,
    listening: socket.socket | None = None,
    memory_bytes: int = 64 * 1024 * 1024,
    disk_bytes: int = 64 * 1024 * 1024,
    tls_mode: str = "off",
    **listen: Any,
) -> AsyncIterator[Edge]:
    """Run a listener on loopback (or on `listening`) while the block runs."""
    if listening is None:
        listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    listen = {"role": "smtp", "address": "127.0.0.1:2525", "tls": tls_mode} | listen
    intake = intake or FakeIntake()
    admission = FakeAdmission()
    budget = BodyBudget(memory_bytes=memory_bytes, disk_bytes=disk_bytes, spool_dir=spool_dir)
    events: list[dict[str, Any]] = []
    server = EdgeServer(
        ListenSettings.model_validate(listen),
        [listening],
        hostname="mx.test",
        intake=intake,
        admission=admission,
        budget=budget,
        limits=limits,
        tls=tls,
        emit=lambda event, **fields: events.append({"event": event, **fields}),
    )
    await server.start()
    edge = Edge(server, intake, admission, budget, events, address)
    try:
        yield edge
    finally:
        async with asyncio.timeout(10):
            await server.drain(0.0)


class Client:
    """Speaks raw bytes to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> bytes:
        """One whole reply, all its lines."""
        lines = b""
        async with asyncio.timeout(10):
            while True:
                line = await self.reader.readline()
                lines += line
                if line[3:4] != b"-":
                    return lines

    async def ask(self, line: str | bytes) -> bytes:
        """Send one command line and read its reply."""
        await self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.reply()

    async def rest(self) -> bytes:
        """Everything until the server closes; then close too."""
        async with asyncio.timeout(10):
            data = await self.reader.read()
        self.writer.close()
        return data

    async def hello(self, word: str = "EHLO") -> bytes:
        """Read the greeting and say hello."""
        await self.reply()
        return await self.ask(f"{word} client.test")

    async def envelope(self, *recipients: str, sender: str = "a@client.test") -> None:
        """MAIL and RCPT, all accepted."""
        assert (await self.ask(f"MAIL FROM:<{sender}>")).startswith(b"250")
        for recipient in recipients or ("b@mx.test",):
            assert (await self.ask(f"RCPT TO:<{recipient}>")).startswith(b"250")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(edge: Edge, **options: Any) -> AsyncIterator[Client]:
    """A client of a running edge."""
    if isinstance(edge.address, str):
        reader, writer = await asyncio.open_unix_connection(edge.address)
    else:
        reader, writer = await asyncio.open_connection(*edge.address[:2], **options)
    client = Client(reader, writer)
    try:
        yield client
    finally:
        await client.close()
