"""Bodies in memory and in files, and the budget that they share."""

import asyncio
import os
from pathlib import Path

import pytest

from mailfront.net.body import BodyBudget, BodyRefused, BodyWriter, FileBody, body_from_fd


def budget(tmp_path: Path, memory_bytes: int = 200_000, disk_bytes: int = 1_000_000) -> BodyBudget:
    return BodyBudget(memory_bytes=memory_bytes, disk_bytes=disk_bytes, spool_dir=tmp_path)


async def write(writer: BodyWriter, *pieces: bytes) -> None:
    for piece in pieces:
        if writer.write(piece):
            await writer.spill()
    if writer.must_spill:
        await writer.spill()


def opened(budget: BodyBudget, size_bytes: int | None = None) -> BodyWriter:
    writer = budget.open(size_bytes)
    assert writer is not None
    return writer


async def test_a_small_body_stays_in_memory(tmp_path: Path) -> None:
    """It takes its size from the budget and gives it back when the last reference goes."""
    shared = budget(tmp_path)
    writer = opened(shared)
    await write(writer, b"ab", b"cd")
    body = writer.finish()
    assert not isinstance(body, FileBody)
    assert list(body.pieces()) == [b"abcd"]
    assert body.head(3) == b"abc"
    assert shared.memory_used_bytes == 4
    del body
    assert shared.memory_used_bytes == 0


@pytest.mark.parametrize("announced_bytes", [None, 300_000])
async def test_a_large_body_goes_to_a_file_without_a_name(tmp_path: Path, announced_bytes: int | None) -> None:
    """It can be read any number of times, and nothing is left in the directory."""
    shared = budget(tmp_path)
    writer = opened(shared, announced_bytes)
    data = os.urandom(300_000)
    await write(writer, *(data[at : at + 7000] for at in range(0, len(data), 7000)))
    body = writer.finish()
    assert isinstance(body, FileBody)
    assert os.listdir(tmp_path) == []
    assert b"".join(body.pieces()) == b"".join(body.pieces()) == data
    assert body.head(10) == data[:10]
    assert body.size_bytes == 300_000
    assert (shared.memory_used_bytes, shared.disk_used_bytes) == (0, 300_000)
    copy = body_from_fd(os.dup(body.fileno()), 300_000)
    del body, writer
    assert shared.disk_used_bytes == 0
    assert b"".join(copy.pieces()) == data


async def test_a_small_body_goes_to_a_file_when_memory_is_used_up(tmp_path: Path) -> None:
    """The memory budget bounds all bodies together; disk takes over."""
    shared = budget(tmp_path, memory_bytes=1000)
    first = opened(shared)
    await write(first, b"x" * 900)
    second = opened(shared)
    await write(second, b"y" * 900)
    body = second.finish()
    assert isinstance(body, FileBody)
    assert b"".join(body.pieces()) == b"y" * 900
    assert (shared.memory_used_bytes, shared.disk_used_bytes) == (900, 900)
    first.discard()
    first.discard()
    assert shared.memory_used_bytes == 0


async def test_announced_sizes_are_counted_ahead(tmp_path: Path) -> None:
    """Room is not promised twice; who does not announce is refused when it is full."""
    shared = budget(tmp_path, memory_bytes=1000, disk_bytes=300_000)
    large = opened(shared, 250_000)
    assert shared.open(250_000) is None
    small = opened(shared, 1000)
    silent = opened(shared)
    with pytest.raises(BodyRefused):
        await write(silent, b"x" * 100_000)
    for writer in (large, small, silent):
        writer.discard()
    assert (shared.memory_used_bytes, shared.disk_used_bytes) == (0, 0)


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """The reason names the directory and what to do."""
    writer = opened(budget(tmp_path / "absent", memory_bytes=0))
    with pytest.raises(BodyRefused, match=r"absent.*check space and owner"):
        await write(writer, b"x")


async def test_a_spill_that_is_cancelled_closes_the_file_in_its_own_time(tmp_path: Path) -> None:
    """Dropping a body while a thread writes it is harmless."""
    shared = budget(tmp_path, memory_bytes=0)
    writer = opened(shared)
    writer.write(b"x" * 500_000)
    task = asyncio.get_running_loop().create_task(writer.spill())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    writer.discard()
    assert shared.disk_used_bytes == 0


def test_a_file_that_ends_too_soon_is_noticed(tmp_path: Path) -> None:
    """A body is never silently shorter than it should be."""
    path = tmp_path / "body"
    path.write_bytes(b"abc")
    body = body_from_fd(os.open(path, os.O_RDONLY), 5)
    with pytest.raises(OSError, match="ended after 3"):
        list(body.pieces())
