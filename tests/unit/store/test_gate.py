"""The queue gate: when it is open, and what it says when it is not."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailfront.base.clock import ManualClock
from mailfront.store.gate import QueueGate

_MIB = 1024 * 1024


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def _disk(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    found = SimpleNamespace(f_bavail=free_bytes // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: found)


def _gate(clock: ManualClock, *, max_bytes: int | None = None) -> QueueGate:
    return QueueGate(Path("/queue"), clock, free_space_bytes=10 * _MIB, max_bytes=max_bytes)


def test_room_is_twice_the_message_and_the_limit(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message needs twice its size, and the disk its limit."""
    _disk(monkeypatch, 100 * _MIB)
    gate = _gate(clock)
    assert gate.is_open(49 * _MIB)
    assert not gate.is_open(50 * _MIB)
    assert gate.room_bytes == 50 * _MIB - 1
    assert gate.is_open(gate.room_bytes)
    assert gate.reason == ""


def test_a_disk_below_the_limit_shuts_it_for_all(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names the place and the room."""
    _disk(monkeypatch, 9 * _MIB)
    gate = _gate(clock)
    assert not gate.is_open()
    assert gate.reason == "only 9MiB free in /queue"
    assert gate.room_bytes == 0


def test_the_disk_is_looked_at_twice_a_second(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """In between the last look counts; a file system that does not answer counts as full."""
    _disk(monkeypatch, 100 * _MIB)
    gate = _gate(clock)
    assert gate.is_open()

    def broken(path: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(os, "statvfs", broken)
    assert gate.is_open()
    clock.advance(0.5)
    assert not gate.is_open()


def test_a_failed_commit_shuts_it_until_one_succeeds(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the database's own."""
    _disk(monkeypatch, 100 * _MIB)
    gate = _gate(clock)
    gate.commit_failed("disk I/O error")
    assert (gate.is_open(), gate.reason, gate.room_bytes) == (False, "disk I/O error", 0)
    gate.commit_succeeded()
    assert gate.is_open()


def test_the_database_has_a_size_limit(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """`queue.max_bytes` counts what is used, not the file."""
    _disk(monkeypatch, 100 * _MIB)
    gate = _gate(clock, max_bytes=20 * _MIB)
    gate.database_used(15 * _MIB)
    assert gate.is_open(5 * _MIB)
    assert not gate.is_open(5 * _MIB + 1)
    assert gate.room_bytes == 5 * _MIB
    gate.database_used(21 * _MIB)
    assert "queue.max_bytes is 20MiB" in gate.reason
    assert gate.room_bytes == 0
