"""A queue that is fifty times longer is not fifty times slower. Ratios, so that the machine does not matter."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from mailfront.base.clock import SystemClock
from mailfront.mail.outcome import Blame, Deferred
from mailfront.mail.reply import reply
from mailfront.queue.queue import Queue
from mailfront.queue.views import QueueViews
from mailfront.store.engine import integrity_problems
from mailfront.store.queue_queries import Selector
from tests.support.queue_fill import fill_queue
from tests.support.queue_rows import NOTICES, RETRY_S, A, FakeHomes, open_store

_FEW, _MANY = 2_000, 100_000
_DOWN = Deferred(Blame.NODE, reply(451, "4.4.1", "away"), A)
_SELECTORS = (
    Selector(),
    Selector(states=("held",)),
    Selector(states=("due", "deferred")),
    Selector(recipients=("user62@example.edu",)),
    Selector(senders=("sender77@out27.example",)),
    Selector(nodes=(A,)),
)


@dataclass(frozen=True)
class _Costs:
    """CPU seconds, the best of several tries: claim and settle per message, and pages."""

    claim_s: float
    pages_s: list[float]
    asking_s: float


async def _best_of(tries: int, work: Callable[[], Awaitable[object]]) -> float:
    best_s = float("inf")
    for _ in range(tries):
        started_s = time.process_time()
        await work()
        best_s = min(best_s, time.process_time() - started_s)
    return best_s


async def _measure(queue: Queue) -> _Costs:
    views = QueueViews(queue.store, FakeHomes())

    async def claim_and_settle() -> None:
        for _ in range(5):
            claimed = await queue.claim(A, limit=5, owner="me")
            assert len(claimed) == 5
            for one in claimed:
                await queue.settle(one.message.id, {one.recipients[0].number: _DOWN})

    async def ask() -> None:
        for _ in range(100):
            queue.pending.has_due(A, 0.0)

    pages_s = [await _best_of(5, lambda s=s: views.list_rows(s, limit=50)) for s in _SELECTORS]  # type: ignore[misc]
    return _Costs(await _best_of(4, claim_and_settle), pages_s, await _best_of(3, ask))


async def test_cost_stays_flat_while_the_queue_grows(tmp_path: Path) -> None:
    """Claiming, settling, asking what is due and turning pages cost about the same with 2,000 and 100,000 rows."""
    store = open_store(tmp_path, SystemClock())
    try:
        queue = Queue(store, FakeHomes(), retry_s=RETRY_S, notices=NOTICES, alarm=lambda name, text: None)
        await fill_queue(store, _FEW, due_s=3600.0)
        await queue.load()
        few = await _measure(queue)
        await fill_queue(store, _MANY - _FEW, start=_FEW, due_s=3600.0)
        await queue.load()
        many = await _measure(queue)
        assert many.claim_s < 3.0 * few.claim_s
        assert many.asking_s < 3.0 * few.asking_s
        for selector, before_s, after_s in zip(_SELECTORS, few.pages_s, many.pages_s, strict=True):
            assert after_s < 4.0 * before_s + 0.005, selector
        stats = await QueueViews(store, FakeHomes()).stats()
        assert (stats.total, stats.states["held"]) == (_MANY, _MANY // 1000)
        assert sum(shape.total for shape in stats.by_domain.values()) == _MANY
        assert await store.read(lambda connection: integrity_problems(connection, 5)) == []
    finally:
        await store.close()
