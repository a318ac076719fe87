"""A process that fills a queue and says on standard output what was acknowledged. Run by the fault tests.

    python -m tests.support.queue_writer DIRECTORY keep        accept messages until killed, several at once
    python -m tests.support.queue_writer DIRECTORY few         accept five messages one after the other, then end
    python -m tests.support.queue_writer DIRECTORY full LIMIT  fill files of at most LIMIT bytes (0: the whole file
                                                               system) until it fails; then make room, and recover

Every line is one write(2): the id of an acknowledged message, or a word about the gate.
"""

import asyncio
import os
import random
import resource
import sys
from pathlib import Path

from mailfront.base.clock import SystemClock
from mailfront.base.ids import new_message_id
from mailfront.mail.body import MemoryBody
from mailfront.queue.queue import Queue
from mailfront.queue.rows import QueuedMessage
from mailfront.queue.views import QueueViews
from mailfront.store.errors import StoreFailed
from mailfront.store.queue_queries import Selector
from tests.support.queue_rows import NOTICES, RETRY_S, FakeHomes, open_store, queued_recipient

_CLOCK = SystemClock()
_SIZES = (100, 5_000, 30_000, 200_000, 300_000, 700_000)


def body_of(message_id: str, size_bytes: int) -> bytes:
    """Bytes that can be told from the id, so that the reader needs no list."""
    return random.Random(message_id).randbytes(size_bytes)


def say(line: str) -> None:
    """One line, one write, no buffer: it is said only after the commit returned."""
    os.write(1, line.encode() + b"\n")


async def accept(queue: Queue, size_bytes: int) -> str:
    """Accept one message with two recipients. Returns its id."""
    now_s = _CLOCK.wall_s()
    message_id = new_message_id(now_s)
    message = QueuedMessage(
        id=message_id, reverse_path="s@out.example", arrived_s=now_s, expires_s=now_s + 1e6, size_bytes=0
    )
    rows = [queued_recipient(0, "ana", 0, now_s + 1e6), queued_recipient(1, "bob", 1, now_s + 1e6)]
    await queue.accept(message, MemoryBody(body_of(message_id, size_bytes)), rows)
    return message_id


async def keep_accepting(queue: Queue) -> None:
    """Several messages at once, forever."""

    async def one_after_the_other(seed: int) -> None:
        sizes = random.Random(seed)
        while True:
            say(await accept(queue, sizes.choice(_SIZES)))

    await asyncio.gather(*(one_after_the_other(seed) for seed in range(8)))


async def fill(queue: Queue, directory: Path, limit_bytes: int) -> None:
    """Until the disk is full; then see that reads go on, make room, and see that writes do."""
    ballast = directory / "ballast"
    ballast.write_bytes(b"x" * 400_000)
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    try:
        while True:
            say(await accept(queue, 30_000))
    except StoreFailed as error:
        say(f"failed {error}")
    gate = queue.store.gate
    say(f"gate {'open' if gate.is_open() else 'shut'}")
    page = await QueueViews(queue.store, FakeHomes()).list_rows(Selector(), limit=10_000)
    say(f"listed {len(page.rows)}")
    ballast.unlink()
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(200):
        if gate.is_open():
            break
        await asyncio.sleep(0.05)
    say(f"gate {'open' if gate.is_open() else 'shut'}")
    say(await accept(queue, 1000))


async def main() -> None:
    """See the module."""
    directory, verb = Path(sys.argv[1]), sys.argv[2]
    store = open_store(directory, _CLOCK)
    queue = Queue(store, FakeHomes(), retry_s=RETRY_S, notices=NOTICES, alarm=lambda name, text: None)
    if verb == "keep":
        await keep_accepting(queue)
    elif verb == "few":
        for _ in range(5):
            say(await accept(queue, 2000))
    else:
        await fill(queue, directory, int(sys.argv[3]))
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())
