"""Clients that smtp-source cannot play: TLS with resumption, idle crowds, logins, downloads, floods, stalled uploads.

    python -m tests.perf.generator SPEC        SPEC is JSON: {"kind": ..., "host": ..., "port": ..., ...}

Runs in a process of its own, so its CPU is nobody's; the same code loads every system. Prints one JSON object when its
work is done. `idle` and `stall` print {"ready": n} when all stand, and hold until their standard input ends. Connects
to loopback addresses only, is bounded by `count`, and ends by itself after `limit_s`.
"""

import asyncio
import json
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any

import uvloop

from tests.perf.flood import mail_in_flood, message, one_by_one, percentile, refusals, storm
from tests.perf.systems import DOMAIN, USERS_COUNT, mailbox

Spec = dict[str, Any]
LIMIT_S = 240.0
STEP_S = 60.0


def secure_messages(spec: Spec) -> Spec:
    """`count` messages, each over a connection of its own: EHLO, STARTTLS, EHLO, one message, QUIT. Every thread
    resumes the TLS session that it got last, if `resume`."""
    body, left, lock = message(spec["size"]), iter(range(spec["count"])), threading.Lock()
    resumed, failures = [0], list[str]()
    context = ssl.create_default_context(cafile=spec["ca"])

    def client() -> None:
        session: ssl.SSLSession | None = None
        while True:
            with lock:
                number = next(left, None)
            if number is None or failures:
                return
            try:
                session, was_resumed = _secure_message(spec, context, session, number, body)
                with lock:
                    resumed[0] += was_resumed
            except (OSError, RuntimeError) as error:
                failures.append(str(error))

    threads = [threading.Thread(target=client) for _ in range(spec["parallel"])]
    started_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(failures[0])
    return {"seconds": time.monotonic() - started_s, "count": spec["count"], "resumed_count": resumed[0]}


def _secure_message(
    spec: Spec, context: ssl.SSLContext, session: ssl.SSLSession | None, number: int, body: bytes
) -> tuple[ssl.SSLSession | None, bool]:
    plain = socket.create_connection((spec["host"], spec["port"]), timeout=STEP_S)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        _reply(plain, b"220")
        _say(plain, b"EHLO load.example.org\r\n", b"250")
        _say(plain, b"STARTTLS\r\n", b"220")
        with context.wrap_socket(
            plain, server_hostname="localhost", session=session if spec["resume"] else None
        ) as tls:
            _say(tls, b"EHLO load.example.org\r\n", b"250")
            _say(tls, b"MAIL FROM:<load@example.org>\r\n", b"250")
            _say(tls, b"RCPT TO:<%s@%s>\r\n" % (mailbox(number % USERS_COUNT).encode(), DOMAIN.encode()), b"250")
            _say(tls, b"DATA\r\n", b"354")
            _say(tls, body, b"250")
            ticket, was_resumed = tls.session, bool(tls.session_reused)
            _say(tls, b"QUIT\r\n", b"221")
        return ticket, was_resumed
    finally:
        plain.close()


def _say(stream: socket.socket, data: bytes, wanted: bytes) -> None:
    stream.sendall(data)
    _reply(stream, wanted)


def _reply(stream: socket.socket, wanted: bytes) -> None:
    text = b""
    while not _is_whole(text):
        piece = stream.recv(4096)
        if not piece:
            raise RuntimeError(f"closed after {text!r}")
        text += piece
    if not text.startswith(wanted):
        raise RuntimeError(f"wanted {wanted!r}, got {text!r}")


def _is_whole(text: bytes) -> bool:
    return (
        text.endswith(b"\r\n") and text[text.rfind(b"\r\n", 0, -2) + 2 if text.count(b"\r\n") > 1 else 0 :][3:4] == b" "
    )


class Talk:
    """One client's connection: send a line, wait for the line that answers it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, spec: Spec, *, tls: ssl.SSLContext | None = None) -> "Talk":
        """Connect."""
        opening = asyncio.open_connection(
            spec["host"],
            spec["port"],
            limit=1 << 20,
            ssl=tls,
            server_hostname="localhost" if tls is not None else None,
        )
        return cls(*await asyncio.wait_for(opening, STEP_S))

    async def line(self) -> bytes:
        """The next line; empty at the end."""
        return await asyncio.wait_for(self.reader.readline(), STEP_S)

    async def ask(self, data: bytes, prefix: bytes) -> bytes:
        """Send, and read lines until one begins with `prefix`. Raises RuntimeError if none does."""
        self.writer.write(data)
        last = b""
        while line := await self.line():
            if line.startswith(prefix):
                return line
            last = line
        raise RuntimeError(f"{data[:60]!r} was answered {last!r}")

    def close(self) -> None:
        """Close at once."""
        self.writer.transport.abort()


async def logins(spec: Spec) -> Spec:
    """`count` times IMAP: connect, LOGIN, LOGOUT. `users` mailboxes in turn."""
    taken = iter(range(spec["count"]))
    times: list[float] = []

    async def client() -> None:
        for number in taken:
            begun_s = time.monotonic()
            talk = await Talk.open(spec)
            await talk.line()
            user = mailbox(number % spec["users"])
            await talk.ask(f"a LOGIN {user}{spec.get('suffix', '')} secret\r\n".encode(), b"a OK")
            await talk.ask(b"b LOGOUT\r\n", b"b OK")
            talk.close()
            times.append(time.monotonic() - begun_s)

    seconds = await _together(client, spec["parallel"])
    return {"seconds": seconds, "count": len(times), "p99_s": percentile(times, 0.99)}


async def send(spec: Spec) -> Spec:
    """`count` messages of `size` bytes, each over a connection of its own, for `recipients` in turn."""
    taken = iter(range(spec["count"]))
    times: list[float] = []
    body = message(spec["size"])

    async def client() -> None:
        for number in taken:
            begun_s = time.monotonic()
            talk = await Talk.open(spec)
            await talk.line()
            await talk.ask(b"EHLO load.example.org\r\n", b"250 ")
            await talk.ask(b"MAIL FROM:<load@example.org>\r\n", b"250")
            recipient = spec["recipients"][number % len(spec["recipients"])]
            await talk.ask(f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
            await talk.ask(b"DATA\r\n", b"354")
            await talk.ask(body, b"250")
            times.append(time.monotonic() - begun_s)
            talk.close()

    seconds = await _together(client, spec["parallel"])
    return {"seconds": seconds, "count": len(times), "p50_s": percentile(times, 0.5), "p99_s": percentile(times, 0.99)}


async def download(spec: Spec) -> Spec:
    """One IMAP session that fetches `count` messages of the sink (1 MiB each)."""
    talk = await Talk.open(spec)
    await talk.line()
    await talk.ask(f"a LOGIN {mailbox(1)}{spec.get('suffix', '')} secret\r\n".encode(), b"a OK")
    begun_s, received_bytes = time.monotonic(), 0
    for _ in range(spec["count"]):
        talk.writer.write(b"c FETCH 1 BODY[]\r\n")
        head = await talk.line()
        literal_bytes = int(head.rpartition(b"{")[2].partition(b"}")[0])
        while literal_bytes:
            data = await asyncio.wait_for(talk.reader.read(min(literal_bytes, 1 << 18)), STEP_S)
            literal_bytes -= len(data)
            received_bytes += len(data)
        await talk.ask(b"", b"c OK")
    seconds = time.monotonic() - begun_s
    talk.close()
    return {"seconds": seconds, "count": received_bytes // 1048576}


async def idle(spec: Spec) -> Spec:
    """`count` IMAP sessions that are logged in and then say nothing."""
    held: list[Talk] = []
    context = ssl.create_default_context(cafile=spec["ca"]) if spec.get("ca") else None
    taken = iter(range(spec["count"]))

    async def client() -> None:
        for number in taken:
            talk = await Talk.open(spec, tls=context)
            held.append(talk)
            await talk.line()
            user = mailbox(number % spec["users"])
            await talk.ask(f"a LOGIN {user}{spec.get('suffix', '')} secret\r\n".encode(), b"a OK")

    seconds = await _together(client, spec["parallel"])
    await _hold(len(held))
    for talk in held:
        talk.close()
    return {"seconds": seconds, "count": len(held)}


async def stall(spec: Spec) -> Spec:
    """`count` uploads of 50 MB each (as MAIL says) that stop after `size` bytes."""
    held: list[Talk] = []
    taken = iter(range(spec["count"]))
    part = message(spec["size"])[:-3]

    async def client() -> None:
        for number in taken:
            talk = await Talk.open(spec)
            held.append(talk)
            await talk.line()
            await talk.ask(b"EHLO stall.example.org\r\n", b"250 ")
            await talk.ask(b"MAIL FROM:<stall@example.org> SIZE=50000000\r\n", b"250")
            await talk.ask(f"RCPT TO:<{mailbox(number % USERS_COUNT)}@{DOMAIN}>\r\n".encode(), b"250")
            await talk.ask(b"DATA\r\n", b"354")
            talk.writer.write(part)
            await talk.writer.drain()

    seconds = await _together(client, spec["parallel"])
    await _hold(len(held))
    for talk in held:
        talk.close()
    return {"seconds": seconds, "count": len(held)}


async def _together(client: Callable[[], Coroutine[Any, Any, None]], parallel: int) -> float:
    begun_s = time.monotonic()
    await asyncio.gather(*(client() for _ in range(parallel)))
    return time.monotonic() - begun_s


async def _hold(count: int) -> None:
    """Say that all stand, then wait for the end of standard input."""
    print(json.dumps({"ready": count}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


_KINDS = {
    "send": send,
    "logins": logins,
    "download": download,
    "idle": idle,
    "stall": stall,
    "one-by-one": one_by_one,
    "refusals": refusals,
    "storm": storm,
    "mail-in-flood": mail_in_flood,
}


def main() -> int:
    """Do what the specification says. Returns the exit status."""
    spec: Spec = json.loads(sys.argv[1])
    if not ip_address(spec["host"]).is_loopback:
        raise SystemExit(f"{spec['host']} is not a loopback address")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run() -> Spec:
        async with asyncio.timeout(spec.get("limit_s", LIMIT_S)):
            return await _KINDS[spec["kind"]](spec)

    result = secure_messages(spec) if spec["kind"] == "secure" else uvloop.run(run())
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
