"""The event files: every canonical line kept for a while, and found again by message id or address.

`EventFile` is one process' writer. It appends to `DIR/<UTC hour>.<process>.jsonl` (`2026-03-01T14.worker-0.jsonl`)
and begins the next file when the hour changes. No fsync: a power failure may lose the last seconds; a killed process
loses at most its last 100 ms. A line that was cut short is ended at the next start, and readers skip it. Writing
never raises: when the disk is full, lines are counted as dropped and mail goes on.

The keeper calls `tidy` now and then, in a thread: it writes the id index of segments whose hour is over
(`.ids`: sorted records of a 16-byte id and an 8-byte offset, little-endian) and removes the oldest segments beyond
`max_age_s` and `max_bytes`. An index is written under another name and then renamed, so it is whole or absent; without
one a segment is searched from end to end.
"""

import mmap
import os
import re
import time
from bisect import bisect_left
from calendar import timegm
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from mailfront.base.ids import is_message_id
from mailfront.observe.lines import LineOutput

MAX_TOTAL_BYTES = 2 * 1024**3
MAX_AGE_S = 7 * 86400.0
CLOSED_AFTER_S = 120.0
"""A segment counts as closed this long after its hour ended; the last turn of a loop is written long before."""
MAX_FOUND = 10_000
GATHER_S = 0.1

_SEGMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d)\.([a-z0-9-]+)\.jsonl")
_ID = re.compile(rb'"id":"([0-9a-z]{16})"')
_RECORD_BYTES = 24


class EventFile(LineOutput):
    """The event file of one process. Lines are put by `observe.log.emit`, gathered for 100 ms."""

    def __init__(self, directory: Path, process: str) -> None:
        """Make the folder if needed. Raises OSError if that cannot be done."""
        super().__init__(gather_s=GATHER_S)
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._directory = directory
        self._process = process
        self._fd = -1
        self._hour = -1

    def close(self) -> None:
        """Write what waits and close the file."""
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._hour = -1, -1

    def _write_waiting(self) -> None:
        data = b"".join(self._waiting)
        lines_count = len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        try:
            hour = int(time.time() // 3600)
            if hour != self._hour:
                self._open(hour)
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            # Disk full, folder gone: try a fresh file at the next line, so that a mended disk is used again.
            self.dropped_count += lines_count
            self._hour = -1

    def _open(self, hour: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        path = self._directory / f"{time.strftime('%Y-%m-%dT%H', time.gmtime(hour * 3600))}.{self._process}.jsonl"
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        size_bytes = os.fstat(self._fd).st_size
        if size_bytes and os.pread(self._fd, 1, size_bytes - 1) != b"\n":
            os.write(self._fd, b"\n")
        self._hour = hour


def find(directory: Path, message_id: str) -> list[dict[str, Any]]:
    """All events that carry a message id, in the order of time. Reads files; run it in a thread.

    A text that is no message id finds nothing. At most `MAX_FOUND` events.
    """
    if not is_message_id(message_id):
        return []
    events: list[dict[str, Any]] = []
    for path in segments(directory):
        events += _find_in(path, message_id.encode())
    return _in_order(event for event in events if event.get("id") == message_id)


def find_address(directory: Path, address: str) -> list[dict[str, Any]]:
    """All events that name an address as sender or recipient, in the order of time. Searches every segment.

    Case does not matter. Finds nothing where addresses are masked.
    """
    wanted = address.casefold()
    needle = re.compile(re.escape(orjson.dumps(address)[1:-1]), re.IGNORECASE)
    events = []
    for path in segments(directory):
        with _Mapped(path) as memory:
            for line in _lines_with(memory, needle):
                event = _parsed(line)
                if event is not None and wanted in _addresses(event):
                    events.append(event)
    return _in_order(events)


def find_value(directory: Path, field: str, value: str) -> list[dict[str, Any]]:
    """All events whose `field` is exactly `value`, in the order of time. Searches every segment."""
    needle = re.compile(re.escape(b'"' + field.encode() + b'":' + orjson.dumps(value)))
    events = []
    for path in segments(directory):
        with _Mapped(path) as memory:
            found = (_parsed(line) for line in _lines_with(memory, needle))
            events += [event for event in found if event is not None and event.get(field) == value]
    return _in_order(events)


def segments(directory: Path) -> list[Path]:
    """The event files, oldest first."""
    try:
        return sorted(path for path in directory.iterdir() if _SEGMENT.fullmatch(path.name))
    except FileNotFoundError:
        return []


def tidy(
    directory: Path, now_s: float, *, max_age_s: float = MAX_AGE_S, max_bytes: int = MAX_TOTAL_BYTES
) -> tuple[int, int]:
    """Index closed segments, remove old ones. Returns how many of each. Reads and writes files; run it in a thread.

    `now_s`: wall-clock seconds. Segments of the current hour are never touched.
    """
    closed = [path for path in segments(directory) if now_s > _hour_end_s(path) + CLOSED_AFTER_S]
    removed = _remove_old(directory, closed, now_s, max_age_s, max_bytes)
    indexed = 0
    for path in closed:
        if path.exists() and not _index_path(path).exists():
            _write_index(path)
            indexed += 1
    return indexed, removed


def _remove_old(directory: Path, closed: list[Path], now_s: float, max_age_s: float, max_bytes: int) -> int:
    total = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    removed = 0
    for path in closed:
        if total <= max_bytes and now_s - _hour_end_s(path) <= max_age_s:
            break
        for each in (path, _index_path(path)):
            if each.exists():
                total -= each.stat().st_size
                each.unlink()
        removed += 1
    return removed


def _hour_end_s(path: Path) -> float:
    match = _SEGMENT.fullmatch(path.name)
    assert match is not None
    try:
        return timegm(time.strptime(match[1], "%Y-%m-%dT%H")) + 3600.0
    except ValueError:  # Looks like a segment and is none: let the file's own time decide.
        return path.stat().st_mtime


def _index_path(path: Path) -> Path:
    return path.with_suffix(".ids")


def _write_index(path: Path) -> None:
    with _Mapped(path) as memory:
        records = sorted(
            match[1] + (memory.rfind(b"\n", 0, match.start()) + 1).to_bytes(8, "little")
            for match in _ID.finditer(memory)
        )
    fresh = path.with_suffix(".ids-new")
    fresh.write_bytes(b"".join(dict.fromkeys(records)))
    fresh.rename(_index_path(path))


def _find_in(path: Path, message_id: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    try:
        with _Mapped(path) as memory:
            for line in _lines_of_id(memory, path, message_id):
                event = _parsed(line)
                if event is not None:
                    found.append(event)
                if len(found) >= MAX_FOUND:
                    break
    except FileNotFoundError:  # Removed by `tidy` meanwhile.
        pass
    return found


def _lines_of_id(memory: "mmap.mmap | bytes", path: Path, message_id: bytes) -> Iterator[bytes]:
    try:
        with _Mapped(_index_path(path)) as index:
            offsets = list(_offsets(index, message_id))
    except FileNotFoundError:
        yield from _lines_with(memory, re.compile(b'"id":"' + message_id + b'"'))
        return
    for offset in offsets:
        end = memory.find(b"\n", offset)
        yield memory[offset : end if end >= 0 else len(memory)]


def _offsets(index: "mmap.mmap | bytes", message_id: bytes) -> Iterator[int]:
    count = len(index) // _RECORD_BYTES
    number = bisect_left(
        range(count), message_id, key=lambda each: index[each * _RECORD_BYTES : each * _RECORD_BYTES + 16]
    )
    while number < count:
        record = index[number * _RECORD_BYTES : (number + 1) * _RECORD_BYTES]
        if not record.startswith(message_id):
            return
        yield int.from_bytes(record[16:], "little")
        number += 1


def _lines_with(memory: "mmap.mmap | bytes", needle: re.Pattern[bytes]) -> Iterator[bytes]:
    """Each line that holds the needle, once."""
    position = 0
    while (match := needle.search(memory, position)) is not None:
        start = memory.rfind(b"\n", 0, match.start()) + 1
        end = memory.find(b"\n", match.end())
        position = end if end >= 0 else len(memory)
        yield memory[start:position]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = orjson.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _addresses(event: dict[str, Any]) -> set[str]:
    names = [event.get("reverse_path"), event.get("recipient"), event.get("address")]
    recipients = event.get("recipients")
    for each in recipients if isinstance(recipients, list) else []:
        names.append(each.get("address") if isinstance(each, dict) else each)
    return {name.casefold() for name in names if isinstance(name, str)}


def _in_order(events: "Iterator[dict[str, Any]] | list[dict[str, Any]]") -> list[dict[str, Any]]:
    return sorted(events, key=lambda event: str(event.get("time", "")))[:MAX_FOUND]


class _Mapped:
    """A file's bytes without reading them all; an empty file cannot be mapped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._memory: mmap.mmap | None = None

    def __enter__(self) -> "mmap.mmap | bytes":
        with self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return self._memory

    def __exit__(self, *_details: object) -> None:
        if self._memory is not None:
            self._memory.close()
