"""Named tasks that cannot be lost.

The event loop keeps only weak references to tasks, and an exception in a forgotten task is seen by nobody. `spawn`
keeps a reference until the task ends and hands an unexpected exception to the loop's exception handler, which logs it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Start a coroutine as a task of its own. Await it, cancel it, or let it run to its end."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": f"task {task.get_name()} failed", "exception": error, "task": task}
        )


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended. What they raise on the way out is not raised again."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
