"""A body on its way to the keeper: as the file that it is in, or as a copy."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailfront.mail.body import BodyRef, MemoryBody, PrefixedBody, RestOfBody
from mailfront.net.body import BodyBudget
from mailfront.queue import sent_body
from mailfront.queue.sent_body import SentBody, received_body

_DATA = bytes(range(256)) * 4096
_PREFIX = b"Received: x\r\n"


@pytest.fixture
async def in_file(tmp_path: Path) -> BodyRef:
    """A megabyte in a spool file."""
    writer = BodyBudget(memory_bytes=0, disk_bytes=10**7, spool_dir=tmp_path).open(len(_DATA))
    assert writer is not None
    writer.write(_DATA)
    await writer.spill()
    return writer.finish()


async def _through(body: BodyRef) -> tuple[bytes, int]:
    """What the keeper reads, and the inode that was sent."""
    sent = await SentBody.send(body)
    inode = os.fstat(sent.fd).st_ino
    received = received_body(os.dup(sent.fd), sent.wire)
    sent.close()
    sent.close()
    data = b"".join(received.pieces())
    assert received.size_bytes == len(data)
    assert received.head(40) == data[:40]
    return data, inode


@pytest.mark.parametrize("skip_bytes", [0, 1, 300_000, len(_DATA)])
@pytest.mark.parametrize("prefix", [b"", _PREFIX])
async def test_a_body_in_a_file_is_not_copied(in_file: BodyRef, prefix: bytes, skip_bytes: int) -> None:
    """The keeper gets the very file; what is in front of it and what is cut off it go beside."""
    whole: BodyRef = RestOfBody(in_file, skip_bytes) if skip_bytes else in_file
    data, inode = await _through(PrefixedBody(prefix, whole) if prefix else whole)
    assert data == prefix + _DATA[skip_bytes:]
    assert inode == os.fstat(in_file.fileno()).st_ino  # type: ignore[attr-defined]
    assert b"".join(in_file.pieces()) == _DATA


async def test_a_body_in_memory_is_copied_whole() -> None:
    """Prefix and rest of a body in memory become one small file."""
    data, _ = await _through(PrefixedBody(_PREFIX, RestOfBody(MemoryBody(_DATA[:1000]), 10)))
    assert data == _PREFIX + _DATA[10:1000]


async def test_a_prefix_that_is_too_long_is_copied_with_its_body(in_file: BodyRef) -> None:
    """A request has a size limit: such a body goes through memory."""
    prefix = b"X: y\r\n" * 60_000
    data, inode = await _through(PrefixedBody(prefix, in_file))
    assert data == prefix + _DATA
    assert inode != os.fstat(in_file.fileno()).st_ino  # type: ignore[attr-defined]


class _Slow:
    """A large body that says in which thread it was read, and waits to be told to go on."""

    size_bytes = sent_body._SMALL_BYTES + 1

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.go_on = threading.Event()

    def pieces(self) -> Iterator[bytes]:
        self.thread = threading.current_thread()
        self.go_on.wait(5.0)
        yield bytes(self.size_bytes)

    def head(self, limit_bytes: int) -> bytes:
        return bytes(limit_bytes)


async def test_a_large_copy_is_made_in_a_thread() -> None:
    """The loop goes on meanwhile."""
    body = _Slow()
    body.go_on.set()
    data, _ = await _through(body)
    assert len(data) == body.size_bytes
    assert body.thread is not threading.main_thread()


async def test_a_copy_that_nobody_waits_for_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that goes away leaves no descriptor behind."""
    closed = asyncio.Event()
    real = os.close

    def close(fd: int) -> None:
        real(fd)
        closed.set()

    body = _Slow()
    task = asyncio.ensure_future(SentBody.send(body))  # noqa: TID251
    async with asyncio.timeout(5.0):
        while body.thread is None:
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.setattr(os, "close", close)
    body.go_on.set()
    async with asyncio.timeout(5.0):
        await closed.wait()


def test_a_request_that_makes_no_sense() -> None:
    """More cut off than there is: refused."""
    with pytest.raises(ValueError, match="without its first 9"):
        received_body(os.memfd_create("x", os.MFD_CLOEXEC), {"size_bytes": 8, "skip_bytes": 9, "prefix": ""})
