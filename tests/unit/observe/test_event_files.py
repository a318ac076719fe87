"""Event files: written per hour, indexed, searched, removed."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from mailfront.base.ids import new_message_id
from mailfront.observe.event_files import EventFile, find, find_address, segments, tidy

HOUR_S = 3600.0
NOON_S = 1_767_268_800.0  # 2026-01-01T12:00:00Z


class Time:
    """A stand-in for the clock of event_files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = NOON_S
        monkeypatch.setattr(time, "time", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Time that the test moves."""
    return Time(monkeypatch)


def line(**fields: Any) -> bytes:
    """One event as the log writes it."""
    return orjson.dumps(fields) + b"\n"


def test_one_file_per_hour_and_process(tmp_path: Path, clock: Time) -> None:
    """The name holds the UTC hour and the process; a new hour begins a new file."""
    output = EventFile(tmp_path / "events", "worker-0")
    output.put(line(time="1"))
    clock.now_s += HOUR_S
    output.put(line(time="2"))
    output.close()
    assert [path.name for path in segments(tmp_path / "events")] == [
        "2026-01-01T12.worker-0.jsonl",
        "2026-01-01T13.worker-0.jsonl",
    ]


@pytest.mark.parametrize("indexed", [False, True])
def test_find_gives_all_events_of_an_id_in_order(tmp_path: Path, clock: Time, indexed: bool) -> None:
    """Events of several processes and hours come together by time, with and without an index."""
    wanted, others = new_message_id(NOON_S), [new_message_id(NOON_S + number) for number in range(50)]
    for process, times in (("worker-0", ("a", "d")), ("keeper", ("b", "c"))):
        for number, moment in enumerate(times):
            clock.now_s = NOON_S + number * HOUR_S
            output = EventFile(tmp_path, process)
            for other in others:
                output.put(line(time="x", event="message", id=other))
            output.put(line(time=moment, event="message", id=wanted))
            output.put(line(time=moment + "2", event="alarm", text=f'"id":"{wanted}"'))
            output.close()
    if indexed:
        assert tidy(tmp_path, NOON_S + 5 * HOUR_S) == (4, 0)
        assert len(list(tmp_path.glob("*.ids"))) == 4
    assert [event["time"] for event in find(tmp_path, wanted)] == ["a", "b", "c", "d"]
    assert len(find(tmp_path, others[7])) == 4
    assert find(tmp_path, new_message_id(NOON_S)) == []


def test_what_is_no_id_finds_nothing(tmp_path: Path, clock: Time) -> None:
    """Text from outside is checked before it becomes a search."""
    output = EventFile(tmp_path, "keeper")
    output.put(line(time="1", id="x.*"))
    output.close()
    assert find(tmp_path, ".*") == find(tmp_path, "x.*") == find(tmp_path / "absent", new_message_id(1)) == []


def test_find_address_knows_senders_and_recipients(tmp_path: Path, clock: Time) -> None:
    """An address is found in every role and case, and never as a part of another one."""
    output = EventFile(tmp_path, "worker-0")
    output.put(line(time="1", reverse_path="Ana@example.edu"))
    output.put(line(time="2", recipients=[{"address": "bo@example.edu"}, {"address": "ana@example.edu"}]))
    output.put(line(time="3", recipient="joana@example.edu"))
    output.put(line(time="4", reverse_path="x@example.edu", reply="550 ana@example.edu"))
    output.put(line(time="5", reverse_path='"q\\"x"@example.edu'))
    output.close()
    assert [event["time"] for event in find_address(tmp_path, "ana@EXAMPLE.edu")] == ["1", "2"]
    assert [event["time"] for event in find_address(tmp_path, '"q\\"x"@example.edu')] == ["5"]
    assert find_address(tmp_path, "a.a@example.edu") == []


def test_a_torn_line_costs_only_itself(tmp_path: Path, clock: Time) -> None:
    """After a crash in the middle of a line the next start ends it, and readers skip it."""
    wanted = new_message_id(NOON_S)
    path = tmp_path / "2026-01-01T12.worker-0.jsonl"
    path.write_bytes(line(time="1", id=wanted) + line(time="2", id=wanted)[:-9])
    assert len(find(tmp_path, wanted)) == 1
    output = EventFile(tmp_path, "worker-0")
    output.put(line(time="3", id=wanted))
    output.close()
    assert [event["time"] for event in find(tmp_path, wanted)] == ["1", "3"]
    tidy(tmp_path, NOON_S + 2 * HOUR_S)
    assert [event["time"] for event in find(tmp_path, wanted)] == ["1", "3"]


def test_old_segments_go_first_by_age_then_by_size(tmp_path: Path, clock: Time) -> None:
    """Retention removes from the oldest, with the index, and never touches the current hour."""
    output = EventFile(tmp_path, "keeper")
    for hour in range(10):
        clock.now_s = NOON_S + hour * HOUR_S
        output.put(line(time=str(hour), id=new_message_id(NOON_S), text="x" * 1000))
    output.close()
    now_s = NOON_S + 9.5 * HOUR_S
    assert tidy(tmp_path, now_s) == (9, 0)
    assert tidy(tmp_path, now_s, max_age_s=6 * HOUR_S) == (0, 3)
    assert len(segments(tmp_path)) == 7
    assert tidy(tmp_path, now_s, max_bytes=3500) == (0, 4)
    assert tidy(tmp_path, now_s, max_bytes=0) == (0, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["2026-01-01T21.keeper.jsonl"]


def test_a_full_disk_stops_nobody_and_a_mended_one_is_used_again(
    tmp_path: Path, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that cannot be written are counted; writing goes on when it is possible again."""
    output = EventFile(tmp_path, "worker-0")
    real_write: Callable[[int, bytes], int] = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    output.put(line(time="1"))
    output.put(line(time="2"))
    assert output.dropped_count == 2
    monkeypatch.setattr(os, "write", real_write)
    output.put(line(time="3"))
    output.close()
    (path,) = segments(tmp_path)
    assert path.read_bytes() == line(time="3")


def test_an_empty_segment_is_searched_and_indexed(tmp_path: Path, clock: Time) -> None:
    """A file without lines is no trouble."""
    (tmp_path / "2026-01-01T01.worker-0.jsonl").write_bytes(b"")
    assert find(tmp_path, new_message_id(NOON_S)) == []
    assert tidy(tmp_path, NOON_S) == (1, 0)
    assert find(tmp_path, new_message_id(NOON_S)) == []
