"""What grows, step by step: each function measures one step and returns its figures by name. Used by `growth`."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mailfront.cluster.hashing import Node, bucket_of, plan_assignment, ranking
from mailfront.mail.names import MailboxKey, NodeId
from tests.perf.accounting import memory_bytes
from tests.perf.lab import Lab
from tests.perf.load import generated, held, messages
from tests.perf.systems import DOMAIN, USERS_COUNT, Mailfront, mailbox
from tests.support.mailfront_server import ROOT

Figures = dict[str, float]
MIB = 2**20


def message_size(lab: Lab, size_bytes: int) -> Figures:
    """Time and CPU for each MiB, and the most memory that was seen while the messages went through."""
    system = lab.system("mailfront")
    count = max(6, min(400, 100 * MIB // size_bytes))
    with _peak(system.pids) as peak:
        sample = messages(system, count=count, size_bytes=size_bytes)
    mib = count * size_bytes / MIB
    return {
        "seconds_per_mib": sample.seconds / mib,
        "cpu_ms_per_mib": (sample.cpu_s or 0.0) * 1000 / mib,
        "memory_mib": peak[0] / MIB,
    }


def queue_rows(lab: Lab, rows: int) -> Figures:
    """What the scheduler and the views of the queue cost with so many rows."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.queue_scale", str(rows), str(lab.directory)],
        cwd=ROOT, capture_output=True, text=True, timeout=1800, check=True,
    )  # fmt: skip
    wanted = {
        "claim_us": r"^claim, per message.*?([\d,.]+) us",
        "settle_us": r"^settle, per message.*?([\d,.]+) us",
        "list_ms": r"^list --limit 50: .*?([\d,.]+) ms",
        "load_s": r"^loading the index at start *([\d,.]+) s",
        "database_mib": r"^size of the database *([\d,.]+) MiB",
    }
    found = {name: re.search(pattern, done.stdout, re.MULTILINE) for name, pattern in wanted.items()}
    return {name: float(match[1].replace(",", "")) for name, match in found.items() if match is not None}


_USERS_SCRIPT = """
import asyncio, json, sys, time
from pathlib import Path
from mailfront.directory.settings import StaticSettings
from mailfront.directory.static import StaticDirectory
from mailfront.mail.address import Address
begun = time.perf_counter()
directory = StaticDirectory(StaticSettings(kind="static", file=Path(sys.argv[1])))
load_s = time.perf_counter() - begun
count = int(sys.argv[2])
async def look_up():
    begun = time.perf_counter()
    for number in range(20000):
        await directory.recipient(Address(f"{number * 7919 % count}user", "example.edu"))
    return (time.perf_counter() - begun) / 20000 * 1e6
look_up_us = asyncio.run(look_up())
pss = sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Pss:"))
print(json.dumps({"load_s": load_s, "look_up_us": look_up_us, "memory_mib": pss / 1024}))
"""


def users(lab: Lab, count: int) -> Figures:
    """A directory with so many users in memory: reading it, one look-up, memory of one process."""
    file = lab.directory / f"users-{count}.toml"
    with file.open("w") as output:
        for number in range(count):
            output.write(f'[[user]]\naddress = "{mailbox(number)}@{DOMAIN}"\nmailbox = "{mailbox(number)}"\n')
    try:
        done = subprocess.run(
            [sys.executable, "-c", _USERS_SCRIPT, str(file), str(count)],
            cwd=ROOT, capture_output=True, text=True, timeout=1800, check=True,
        )  # fmt: skip
    finally:
        file.unlink()
    figures: Figures = json.loads(done.stdout)
    return figures


def nodes(lab: Lab, count: int) -> Figures:
    """Placement over so many nodes: the plan, one ranking, and how evenly 55,000 mailboxes spread."""
    members = [Node(NodeId(f"store{number}")) for number in range(count)]
    begun_s = time.perf_counter()
    owners = plan_assignment(members, "example")
    plan_s = time.perf_counter() - begun_s
    begun_s = time.perf_counter()
    for bucket in range(500):
        list(ranking(bucket, members, "example"))
    ranking_us = (time.perf_counter() - begun_s) / 500 * 1e6
    load = dict.fromkeys(owners, 0)
    for number in range(55_000):
        load[owners[bucket_of(MailboxKey(f"{mailbox(number)}@{DOMAIN}"), "example")]] += 1
    return {"plan_s": plan_s, "ranking_us": ranking_us, "fullest_to_mean": max(load.values()) / (55_000 / count)}


def connections(lab: Lab, count: int) -> Figures:
    """So many idle IMAP sessions: memory for each, and what a login costs while they stand."""
    spec = {"kind": "idle", "count": count, "parallel": 50, "users": 1000, "role": "imap"}
    sample = held(lab.system("mailfront-imap"), spec, {})
    return {"each_kib": sample.extra["each_kib"], "login_cpu_ms": sample.cpu_ms or 0.0}


def stalled_uploads(lab: Lab, count: int) -> Figures:
    """Uploads of 50 MB that stopped after 200 KB: memory of all processes."""
    spec = {"kind": "stall", "count": count, "parallel": 20, "size": 200_000}
    sample = held(lab.system("mailfront-large-spool"), spec, {})
    return {"memory_mib": sample.extra["memory_mib"], "each_kib": sample.extra["each_kib"]}


def bad_node(lab: Lab, fault: str) -> Figures:
    """Three nodes, one of which is well, hangs or is dead: messages a second for the other two and how long each takes,
    while mail for the bad one goes on coming."""
    system = lab.system("mailfront")
    assert isinstance(system, Mailfront)
    sink = lab.sinks.lmtp[0]
    if fault == "hangs":
        sink.process.hang()
    elif fault == "dead":
        sink.stop()
    try:
        background = smtp_source_in_background(system, _somebody_at("store1"))
        try:
            others = [_somebody_at(node) for node in ("store2", "store3")]
            spec = {"kind": "send", "count": 2000, "parallel": 20, "size": 30_000, "recipients": others}
            sample = generated(system, spec)
        finally:
            background.kill()
            background.wait()
    finally:
        if fault == "hangs":
            sink.process.resume()
        elif fault == "dead":
            sink.start()
    return {
        "others_per_s": sample.rate,
        "p50_ms": sample.extra["p50_s"] * 1000,
        "p99_ms": sample.extra["p99_s"] * 1000,
    }


def smtp_source_in_background(system: Mailfront, recipient: str) -> subprocess.Popen[bytes]:
    """A trickle of mail that ends when it is killed, or by itself after 2,000 messages."""
    host, port = system.endpoint()
    command = ["/usr/sbin/smtp-source", "-s", "4", "-m", "2000", "-w", "1", "-t", recipient, f"inet:{host}:{port}"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _somebody_at(node: str) -> str:
    owners = plan_assignment([Node(NodeId(f"store{n}")) for n in (1, 2, 3)], "example")
    for number in range(USERS_COUNT):
        address = f"{mailbox(number)}@{DOMAIN}"
        if owners[bucket_of(MailboxKey(address), "example")] == node:
            return address
    raise RuntimeError(f"nobody lives at {node}")


@contextmanager
def _peak(pids: Callable[[], list[int]]) -> Iterator[list[int]]:
    """The most memory that was seen while the block ran, looked at about ten times a second."""
    seen, ended = [memory_bytes(pids())], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            seen[0] = max(seen[0], memory_bytes(pids()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


Step = Callable[[Lab, Any], Figures]
