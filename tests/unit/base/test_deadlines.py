"""Waiting for tasks with one timer for all of them."""

import asyncio
import contextlib

from mailfront.base.deadlines import Deadlines
from mailfront.base.tasks import spawn

SOON_S, FAR_S = 0.05, 600.0


def in_s(seconds: float) -> float:
    """That time from now, by the loop's clock."""
    return asyncio.get_running_loop().time() + seconds


async def test_a_task_that_ends_in_time_is_seen_at_once() -> None:
    """Also one that has ended before, and one that was cancelled: the wait says that it ended, not how."""
    deadlines, gate = Deadlines(), asyncio.Event()
    task = spawn(gate.wait(), name="waits")
    waiting = spawn(deadlines.wait(task, in_s(FAR_S)), name="deadline")
    await asyncio.sleep(0)
    gate.set()
    assert await waiting
    assert await deadlines.wait(task, in_s(-1.0))

    cancelled = spawn(asyncio.Event().wait(), name="cancelled")
    asyncio.get_running_loop().call_soon(cancelled.cancel)
    assert await deadlines.wait(cancelled, in_s(FAR_S))
    assert cancelled.cancelled()


async def test_each_wait_ends_at_its_own_deadline_whatever_the_order() -> None:
    """Those whose time is over are woken, earlier ones that came later first; the tasks go on."""
    deadlines, ended = Deadlines(), list[float]()
    task = spawn(asyncio.Event().wait(), name="for ever")

    async def wait(seconds: float) -> None:
        assert not await deadlines.wait(task, in_s(seconds))
        ended.append(seconds)

    waits = [spawn(wait(seconds), name="deadline") for seconds in (3 * SOON_S, SOON_S, 2 * SOON_S)]
    far = spawn(deadlines.wait(task, in_s(FAR_S)), name="far")
    async with asyncio.timeout(60.0):
        await asyncio.gather(*waits)
    assert ended == [SOON_S, 2 * SOON_S, 3 * SOON_S]
    assert not far.done()
    assert not task.done()
    task.cancel()
    assert await far


async def test_a_wait_that_is_cancelled_leaves_the_task_and_the_others() -> None:
    """The task is asked nothing, and nobody is woken too late or too early for it."""
    deadlines, gate = Deadlines(), asyncio.Event()
    task = spawn(gate.wait(), name="waits")
    gone = spawn(deadlines.wait(task, in_s(SOON_S)), name="gone")
    other = spawn(deadlines.wait(task, in_s(FAR_S)), name="other")
    await asyncio.sleep(0)
    gone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gone
    assert not await deadlines.wait(task, in_s(2 * SOON_S))  # the timer of the first one has fired meanwhile
    assert not task.done()
    gate.set()
    assert await other
