"""The supervisor's slots: a child that serves, one that cannot, one that dies, and one that will not end."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailfront.app import child as child_module
from mailfront.app.assignment import Assignment
from mailfront.app.child import StartFailed, start_child
from mailfront.app.slot import Slot

MODULE = "tests.support.child_stub"


@pytest.fixture
async def lifeline() -> AsyncIterator[int]:
    """The read end of a pipe that nobody writes to."""
    read_end, write_end = os.pipe()
    yield read_end
    os.close(read_end)
    os.close(write_end)


def orders(behaviour: str) -> Assignment:
    return Assignment(
        config_path="x.toml",
        config_text=behaviour,
        index=0,
        listeners=(),
        ready_fd=-1,
        lifeline_fd=-1,
        table_fd=-1,
        sessions_table_fd=-1,
        failures_fd=-1,
    )


def slot(behaviour: str, lifeline_fd: int, changes: list[int | None]) -> Slot:
    made: Slot

    def changed() -> None:
        changes.append(made.pid)

    made = Slot("stub", MODULE, orders(behaviour), (), lifeline_fd, changed)
    return made


async def until(condition: object) -> None:
    """Wait until a callable is true, at most 20 s."""
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_child_that_is_killed_is_started_again(lifeline: int) -> None:
    """Another process takes the place, and the slot tells each change."""
    changes: list[int | None] = []
    place = slot("serve", lifeline, changes)
    await place.start()
    first = place.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: place.pid not in (None, first))
    assert place.restarts_count == 1
    assert changes[:1] == [first]
    assert changes[-1] == place.pid
    await place.stop(5.0)
    assert place.pid is None


async def test_a_child_that_refuses_says_why(lifeline: int) -> None:
    """Its own reason reaches the administrator, and nothing is restarted."""
    place = slot("refuse", lifeline, [])
    with pytest.raises(StartFailed, match="stub: the disk is on fire"):
        await place.start()
    assert place.pid is None


async def test_a_child_that_must_come_up_is_tried_until_it_does(lifeline: int, tmp_path: Path) -> None:
    """A keeper that is needed and cannot start now (a full disk, a lock) is not given up."""
    sign = tmp_path / "sign"
    place = slot(str(sign), lifeline, [])
    await place.start_sooner_or_later()
    await until(lambda: place.restarts_count > 0)
    assert place.pid is None
    sign.touch()
    await until(lambda: place.pid is not None)
    await place.stop(5.0)
    assert place.pid is None


async def test_a_child_that_dies_before_it_serves_has_failed(lifeline: int) -> None:
    """The status is all there is to tell."""
    place = slot("die", lifeline, [])
    with pytest.raises(StartFailed, match="ended with status 3"):
        await place.start()


async def test_a_child_that_says_nothing_is_ended(lifeline: int) -> None:
    """After the time to get ready it is killed."""
    with pytest.raises(StartFailed, match="not ready within"):
        await start_child("stub", MODULE, orders("mute"), (), lifeline, ready_within_s=3.0)


async def test_a_child_that_does_not_end_is_killed(lifeline: int) -> None:
    """SIGTERM first, SIGKILL after the grace."""
    place = slot("deaf", lifeline, [])
    await place.start()
    await place.stop(0.2)
    assert place.pid is None


async def test_children_end_with_their_supervisor() -> None:
    """When the other end of the lifeline closes, however that came about, the child ends by itself."""
    read_end, write_end = os.pipe()
    child = await start_child("stub", MODULE, orders("serve"), (), read_end, ready_within_s=20.0)
    os.close(read_end)
    os.close(write_end)
    async with asyncio.timeout(10):
        assert await child.process.wait() == 0


async def test_a_lifeline_tells_once() -> None:
    """`watch_lifeline` calls back when the write end is gone."""
    read_end, write_end = os.pipe()
    gone = asyncio.Event()
    child_module.watch_lifeline(read_end, gone.set)
    os.close(write_end)
    async with asyncio.timeout(5):
        await gone.wait()
    os.close(read_end)
