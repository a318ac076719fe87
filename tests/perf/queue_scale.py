"""Measure the queue with very many rows: how long `list`, `stats` and `check` take, and what a claim costs.

    python -m tests.perf.queue_scale [ROWS] [DIRECTORY]

Also measures durable accepts per second, one at a time and in groups. Prints one line per figure.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from mailfront.base.clock import SystemClock
from mailfront.base.ids import new_message_id
from mailfront.mail.body import MemoryBody
from mailfront.mail.outcome import Blame, Deferred
from mailfront.mail.reply import reply
from mailfront.queue.check import check_queue
from mailfront.queue.queue import Queue
from mailfront.queue.rows import QueuedMessage
from mailfront.queue.views import QueueViews
from mailfront.store.queue_queries import Selector
from mailfront.store.writer import Store
from tests.support.queue_fill import fill_queue
from tests.support.queue_rows import NOTICES, RETRY_S, A, B, C, FakeHomes, open_store, queued_recipient

_CLOCK = SystemClock()
_HOMES = FakeHomes(nodes=(A, B, C))
_DOWN = Deferred(Blame.NODE, reply(451, "4.4.1", "away"), A)


def _say(what: str, value: str) -> None:
    print(f"{what:<58}{value:>20}", flush=True)


async def _accepts(queue: Queue, at_once: int, count: int) -> None:
    body = MemoryBody(os.urandom(30_000))
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            now_s = _CLOCK.wall_s()
            message = QueuedMessage(
                id=new_message_id(now_s),
                reverse_path="a@b.example",
                arrived_s=now_s,
                expires_s=now_s + 1e6,
                size_bytes=0,
            )
            await queue.accept(message, body, [queued_recipient(0, "ana", left % 4096, now_s + 1e6)])

    started_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    rate = count / (time.perf_counter() - started_s)
    cpu_us = (time.process_time() - cpu_s) / count * 1e6
    _say(f"accepts of 30 KB, {at_once} at once", f"{rate:,.0f}/s, {cpu_us:.0f} us CPU")


async def _claims(queue: Queue, rounds: int) -> None:
    count, claim_s, settle_s = 0, 0.0, 0.0
    worst_s = 0.0
    for _ in range(rounds):
        for node in (A, B, C):
            started_s = time.perf_counter()
            claimed = await queue.claim(node, limit=10, owner="me")
            took_s = time.perf_counter() - started_s
            claim_s, worst_s, count = claim_s + took_s, max(worst_s, took_s), count + len(claimed)
            started_s = time.perf_counter()
            await asyncio.gather(*(queue.settle(one.message.id, {0: _DOWN}) for one in claimed))
            settle_s += time.perf_counter() - started_s
    _say(f"claim, per message ({count} messages, 10 per claim)", f"{claim_s / count * 1e6:,.0f} us")
    _say("slowest claim of 10", f"{worst_s * 1e3:.1f} ms")
    _say("settle, per message (10 at once)", f"{settle_s / count * 1e6:,.0f} us")
    started_s = time.perf_counter()
    for _ in range(100):
        queue.pending.has_due(A, 0.0)
    _say("asking whether a node has anything due", f"{(time.perf_counter() - started_s) * 1e4:.0f} us")


async def _views(store: Store) -> None:
    views = QueueViews(store, _HOMES)
    for name, selector in (
        ("list --limit 50", Selector()),
        ("list --limit 50 --state held", Selector(states=("held",))),
        ("list --limit 50 --state deferred", Selector(states=("deferred",))),
        ("list --limit 50 --recipient (one)", Selector(recipients=("user77@example.edu",))),
        ("list --limit 50 --sender (one)", Selector(senders=("sender77@out27.example",))),
        ("list --limit 50 --sender @domain", Selector(senders=("@out27.example",))),
        ("list --limit 50 --node a", Selector(nodes=(A,))),
        ("list --limit 50 --older 4d --state held", Selector(older_s=4 * 86400.0, states=("held",))),
        ("list --limit 50 --recipient (nobody)", Selector(recipients=("nobody@example.edu",))),
        ("list --limit 50 --older 30d (nothing)", Selector(older_s=30 * 86400.0)),
    ):
        started_s = time.perf_counter()
        page = await views.list_rows(selector, limit=50)
        _say(f"{name}: {len(page.rows)} rows", f"{(time.perf_counter() - started_s) * 1e3:.1f} ms")
    for _ in range(2):
        started_s = time.perf_counter()
        stats = await views.stats()
        _say(f"stats: {stats.total:,} rows", f"{time.perf_counter() - started_s:.2f} s")
    pinned = FakeHomes(nodes=(A, B, C), pins={(77, queued_recipient(0, "user77", 77).mailbox_key): B})
    started_s = time.perf_counter()
    await QueueViews(store, pinned).stats()
    _say("stats, with pinned mailboxes", f"{time.perf_counter() - started_s:.2f} s")
    started_s = time.perf_counter()
    await check_queue(views._store)
    _say("check", f"{time.perf_counter() - started_s:.2f} s")


async def main() -> None:
    """See the module."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as directory:
        store = open_store(Path(directory), _CLOCK)
        queue = Queue(store, _HOMES, retry_s=RETRY_S, notices=NOTICES, alarm=lambda name, text: None)
        for at_once in (1, 5, 20, 50):
            await _accepts(queue, at_once, 2000)
        started_s = time.perf_counter()
        await fill_queue(store, rows)
        _say(f"filling {rows:,} rows", f"{time.perf_counter() - started_s:.0f} s")
        size_bytes = sum(path.stat().st_size for path in Path(directory).iterdir())
        _say("size of the database", f"{size_bytes / 2**20:,.0f} MiB")
        started_s = time.perf_counter()
        await queue.load()
        _say("loading the index at start", f"{time.perf_counter() - started_s:.2f} s")
        await _views(store)
        await _claims(queue, 100)
        await _accepts(queue, 20, 2000)
        await store.close()


if __name__ == "__main__":
    uvloop.run(main())
