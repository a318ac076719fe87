"""Loads of the generator: good mail that is timed, and a flood of clients that a DNS list knows.

Clients have addresses of their own in 127.0.0.0/8 (`listed_client`). The flood comes at a fixed rate, whatever the
system answers and however long it takes, as floods do. Good mail comes at a fixed rate, too, and its time counts from
the moment when it was due: a system that cannot keep up is seen to be late.
"""

import asyncio
import email.policy
import io
import json
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from email.message import EmailMessage
from typing import Any

from tests.perf.systems import DOMAIN, USERS_COUNT, mailbox

Spec = dict[str, Any]

LINE = b"All work and no play makes a mail server a dull process, line by line.\r\n"
GOOD_CLIENT = "127.200.0.1"
LISTED_COUNT = 1000
GOOD_PER_S = 100
TICK_S = 0.005
BUCKET_S = 0.25
SHORTEST_CALM_S, LONGEST_CALM_S = 2.0, 5.0
ANSWER_LIMIT_S = 30.0


def message(size_bytes: int) -> bytes:
    """A message of about this size, ready for the wire, with its final dot."""
    head = b"From: <load@example.org>\r\nTo: <somebody@example.edu>\r\nSubject: load\r\n\r\n"
    lines = max(1, (size_bytes - len(head)) // len(LINE))
    return head + LINE * lines + b".\r\n"


def work_for_scanners(text_bytes: int, archive_bytes: int) -> bytes:
    """A message whose text keeps a spam scanner busy, and whose zip file, small as it is, a virus scanner."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("report.txt", LINE * (archive_bytes // len(LINE)))
    mail = EmailMessage(policy=email.policy.SMTP)
    mail["From"], mail["To"], mail["Subject"] = "<load@example.org>", "<somebody@example.edu>", "load"
    mail.set_content(LINE.decode() * (text_bytes // len(LINE)))
    mail.add_attachment(packed.getvalue(), maintype="application", subtype="zip", filename="report.zip")
    return mail.as_bytes() + b".\r\n"


def listed_client(number: int) -> str:
    """The address of a client that the list knows. There are four million of them."""
    return f"127.{1 + (number >> 16 & 63)}.{number >> 8 & 255}.{number & 255}"


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of all values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class _Client:
    """A bare socket from a given address: cheaper than streams, and the flood's cost is the machine's."""

    def __init__(self, spec: Spec, source: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._target = spec["host"], spec["port"]
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.bind((source, 0))

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def connect(self) -> bytes:
        """Connect. Returns what is said first."""
        await self._loop.sock_connect(self._socket, self._target)
        return await self._loop.sock_recv(self._socket, 4096)

    async def ask(self, data: bytes, wanted: bytes) -> None:
        """Say something. Raises RuntimeError if the answer does not begin as wanted."""
        await self._loop.sock_sendall(self._socket, data)
        answer = await self._loop.sock_recv(self._socket, 4096)
        if not answer.startswith(wanted):
            raise RuntimeError(f"{data[:60]!r} was answered {answer!r}")


async def _refused(spec: Spec, source: str) -> bool:
    with suppress(OSError, TimeoutError), _Client(spec, source) as client:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            return (await client.connect())[:1] in (b"4", b"5")
    return False


async def _good(spec: Spec, number: int, body: bytes, due_s: float) -> float:
    """Send one message. Returns its seconds since it was due."""
    user = mailbox(number % USERS_COUNT)
    async with asyncio.timeout(ANSWER_LIMIT_S):
        with _Client(spec, GOOD_CLIENT) as client:
            greeting = await client.connect()
            if not greeting.startswith(b"220"):
                raise RuntimeError(f"a good client heard {greeting!r}")
            await client.ask(b"EHLO good.example.org\r\n", b"250")
            await client.ask(b"MAIL FROM:<good@example.org>\r\n", b"250")
            await client.ask(f"RCPT TO:<{user}@{DOMAIN}>\r\n".encode(), b"250")
            await client.ask(b"DATA\r\n", b"354")
            await client.ask(body, b"250")
            return time.monotonic() - due_s


async def _at_rate(count: int, per_s: float, start: Callable[[int, float], Coroutine[Any, Any, None]]) -> None:
    """Start `start(number, due)` at a fixed rate, however long each takes; wait for the last."""
    begun_s = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            due_s = begun_s + number / per_s
            while time.monotonic() < due_s:
                await asyncio.sleep(TICK_S)
            tasks.create_task(start(number, due_s))


async def refusals(spec: Spec) -> Spec:
    """`count` connections of `sources` clients from number `first` on, `parallel` at a time, as fast as they are
    refused. Raises RuntimeError if one is not."""
    left, refused_count = iter(range(spec["count"])), 0

    async def client() -> None:
        nonlocal refused_count
        for number in left:
            is_refused = await _refused(spec, listed_client(spec["first"] + number % spec["sources"]))
            refused_count += is_refused

    begun_s = time.monotonic()
    await asyncio.gather(*(client() for _ in range(spec["parallel"])))
    seconds = time.monotonic() - begun_s
    if refused_count != spec["count"]:
        raise RuntimeError(f"{spec['count'] - refused_count} of {spec['count']} listed clients were not refused")
    return {"seconds": seconds, "count": spec["count"]}


async def one_by_one(spec: Spec) -> Spec:
    """`count` good messages, each when the one before it was answered: how long one waits. `text` and `archive`: their
    sizes."""
    body, times = work_for_scanners(spec["text"], spec["archive"]), list[float]()
    begun_s = time.monotonic()
    for number in range(spec["count"]):
        times.append(await _good(spec, number, body, time.monotonic()))
    return {"seconds": time.monotonic() - begun_s, "count": len(times), "median_ms": percentile(times, 0.5) * 1000}


async def storm(spec: Spec) -> Spec:
    """`count` connections of `sources` listed clients at `per_s`, from the moment `at_s` of the machine's monotonic
    clock on. Returns when each one was due that was refused."""
    await asyncio.sleep(max(0.0, spec["at_s"] - time.monotonic()))
    refused: list[float] = []

    async def bad(number: int, due_s: float) -> None:
        if await _refused(spec, listed_client(spec["first"] + number % spec["sources"])):
            refused.append(due_s)

    await _at_rate(spec["count"], spec["per_s"], bad)
    return {"refused_at_s": refused}


async def mail_in_flood(spec: Spec) -> Spec:
    """Good mail before, during and after a storm, which is a process of its own: no client waits for another."""
    body = message(4000)
    storm_s = spec["count"] / spec["per_s"]
    calm_s = min(LONGEST_CALM_S, max(SHORTEST_CALM_S, storm_s / 2))
    begun_s = time.monotonic()
    times: list[tuple[float, float]] = []

    async def good(number: int, due_s: float) -> None:
        times.append((due_s - begun_s, await _good(spec, number, body, due_s)))

    other = json.dumps({**spec, "kind": "storm", "at_s": begun_s + calm_s})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.perf.generator", other, stdout=asyncio.subprocess.PIPE
    )
    (output, _), _ = await asyncio.gather(
        process.communicate(), _at_rate(round((2 * calm_s + storm_s) * GOOD_PER_S), GOOD_PER_S, good)
    )
    refused = [at_s - begun_s for at_s in json.loads(output)["refused_at_s"]]
    before = [took for at, took in times if at < calm_s]
    during = [took for at, took in times if calm_s <= at < calm_s + storm_s]
    return {
        "seconds": time.monotonic() - begun_s,
        "count": len(times),
        "refused_count": len(refused),
        "before_p50_ms": percentile(before, 0.5) * 1000,
        "before_p99_ms": percentile(before, 0.99) * 1000,
        "during_p50_ms": percentile(during, 0.5) * 1000,
        "during_p99_ms": percentile(during, 0.99) * 1000,
        "series": _series(times, refused),
    }


def _series(times: list[tuple[float, float]], refused: list[float]) -> dict[str, list[float]]:
    """What is drawn: per bucket of time the median and worst good message in ms, and the refused per second."""
    count = 1 + int(max(at for at, _ in times) / BUCKET_S)
    good: list[list[float]] = [[] for _ in range(count)]
    for at, took in times:
        good[int(at / BUCKET_S)].append(took * 1000)
    bad = [0.0] * count
    for at in refused:
        bad[min(count - 1, int(at / BUCKET_S))] += 1 / BUCKET_S
    return {
        "at_s": [round(number * BUCKET_S, 3) for number in range(count)],
        "median_ms": [round(percentile(each, 0.5), 3) for each in good],
        "worst_ms": [round(max(each, default=0.0), 3) for each in good],
        "refused_per_s": bad,
    }
