"""A copy of all directory entries on disk, for a start while no LDAP server answers.

One process of a front end writes it (`SnapshotStore.write`), all of them may read it, and only when they need to. The
file is replaced as a whole: written beside, fsynced, renamed, the folder fsynced. It ends with a line that counts its
entries, so that half a file is never believed; and it starts with the settings it was made for, so that a file of
another base or filter is not either. A copy with less than half the entries of the last one is not kept: a replica
that is being filled would otherwise make most users unknown.

JSON lines, UTF-8, mode 0600. About 250 bytes per entry on disk, about 1 KiB in memory once read.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mailfront.base.clock import Clock
from mailfront.base.errors import MailfrontError
from mailfront.directory.answers import Answer, ByDn, ByUid, Found, Member, NoSuch, Source
from mailfront.directory.canonical import canonical_dn
from mailfront.directory.entries import Entry, EntryReader
from mailfront.directory.filter_template import UID_PLACEHOLDERS, FilterTemplate
from mailfront.directory.settings import LdapSettings

FILE_NAME = "directory-snapshot.jsonl"
MAX_ENTRIES = 2_000_000
_FORMAT = 1


class SnapshotRefused(MailfrontError):
    """A snapshot that is not written, or cannot be used. The text says why."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    stamp: tuple[int, int, int]
    written_s: float
    index: dict[tuple[str, str], list[Entry]]
    by_dn: dict[str, Entry]


class SnapshotStore:
    """The snapshot of one directory. Event loop only; files are read and written in a thread."""

    def __init__(self, settings: LdapSettings, *, state_dir: Path, clock: Clock) -> None:
        self.path = state_dir / FILE_NAME
        self.problem = ""
        """Why the file on disk could not be used when it was needed; '' if it could."""
        self._clock = clock
        self._stale_s = settings.stale
        self._template = FilterTemplate(settings.recipient_filter)
        self._uid_template = FilterTemplate(settings.groups.uid_filter, UID_PLACEHOLDERS)
        self._reader = EntryReader(settings)
        self._made_for = {
            "base": settings.base,
            "filter": settings.recipient_filter,
            "uid_filter": settings.groups.uid_filter,
            "attributes": list(self._reader.wanted),
        }
        self._loaded: _Loaded | None = None
        self._loading = asyncio.Lock()

    async def look_up(self, asked: Member) -> Answer | None:
        """What the last snapshot says about a canonical address, or a member of a group, if it is no older than
        `directory.stale`; None if there is no such snapshot."""
        async with self._loading:
            loaded = await self._current()
        if loaded is None:
            return None
        age_s = max(0.0, self._clock.wall_s() - loaded.written_s)
        if age_s > self._stale_s:
            self.problem = f"{self.path}: the snapshot is older than directory.stale"
            return None
        answer = self._reader.answer(self._entries(loaded, asked), asked)
        if isinstance(answer, Found):
            return Found(answer.record, Source.SNAPSHOT, age_s)
        return NoSuch(Source.SNAPSHOT, age_s) if isinstance(answer, NoSuch) else answer

    def _entries(self, loaded: _Loaded, asked: Member) -> list[Entry]:
        if isinstance(asked, ByDn):
            entry = loaded.by_dn.get(canonical_dn(asked.dn))
            return [] if entry is None else [entry]
        template = self._uid_template if isinstance(asked, ByUid) else self._template
        found = {
            entry.dn: entry
            for key in template.keys(asked)
            for entry in loaded.index.get(key, ())
            if template.matches(entry.values, asked)
        }
        return list(found.values())

    def age_s(self) -> float | None:
        """How old the file on disk is; None if there is none that fits these settings."""
        try:
            with self.path.open("rb") as file:
                written_s = float(self._head(file.readline())["written_s"])
                return max(0.0, self._clock.wall_s() - written_s)
        except (OSError, SnapshotRefused):
            return None

    async def write(self, entries: list[Entry]) -> None:
        """Replace the file. Raises SnapshotRefused if the new copy is not credible, OSError if the disk is not."""
        await asyncio.to_thread(self._write, entries)

    async def _current(self) -> _Loaded | None:
        try:
            status = os.stat(self.path)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._loaded is None or self._loaded.stamp != stamp:
                self._loaded = await asyncio.to_thread(self._load, stamp)
        except FileNotFoundError:
            self.problem = f"{self.path}: there is no snapshot yet"
            return None
        except (OSError, SnapshotRefused) as error:
            self.problem = str(error)
            return None
        self.problem = ""
        return self._loaded

    def _load(self, stamp: tuple[int, int, int]) -> _Loaded:
        index: dict[tuple[str, str], list[Entry]] = {}
        by_dn: dict[str, Entry] = {}
        count = 0
        with self.path.open("rb") as file:
            head = self._head(file.readline())
            for line in file:
                item = self._item(line)
                if "end" in item:
                    break
                entry = Entry(item["dn"], {name: tuple(values) for name, values in item["values"].items()})
                count += 1
                by_dn[canonical_dn(entry.dn)] = entry
                for key in {*self._template.entry_keys(entry.values), *self._uid_template.entry_keys(entry.values)}:
                    index.setdefault(key, []).append(entry)
            else:
                raise SnapshotRefused(f"{self.path}: the file has no end; it is not used")
        if item["end"] != count:
            raise SnapshotRefused(f"{self.path}: {count} entries instead of {item['end']}; the file is not used")
        return _Loaded(stamp, head["written_s"], index, by_dn)

    def _head(self, line: bytes) -> dict[str, Any]:
        head = self._item(line)
        if head.get("format") != _FORMAT or not isinstance(head.get("written_s"), int | float):
            raise SnapshotRefused(f"{self.path}: not a snapshot of this version; it is not used")
        if head.get("made_for") != self._made_for:
            raise SnapshotRefused(f"{self.path}: made for another base, filter or attributes; it is not used")
        return head

    def _item(self, line: bytes) -> dict[str, Any]:
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise SnapshotRefused(f"{self.path}: damaged; it is not used") from error
        if not isinstance(item, dict):
            raise SnapshotRefused(f"{self.path}: damaged; it is not used")
        return item

    def _write(self, entries: list[Entry]) -> None:
        before = self._count()
        if not entries or len(entries) > MAX_ENTRIES:
            raise SnapshotRefused(f"the directory returned {len(entries)} entries; the snapshot is left as it is")
        if len(entries) * 2 < before:
            raise SnapshotRefused(
                f"the directory returned {len(entries)} entries, the last snapshot has {before}; it is left as it is. "
                f"If so many are really gone, remove {self.path}"
            )
        beside = self.path.with_suffix(f".{os.getpid()}.new")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(self._lines(entries))
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
        finally:
            beside.unlink(missing_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _lines(self, entries: list[Entry]) -> Iterator[bytes]:
        head = {
            "format": _FORMAT,
            "written_s": self._clock.wall_s(),
            "made_for": self._made_for,
            "count": len(entries),
        }
        yield orjson.dumps(head, option=orjson.OPT_APPEND_NEWLINE)
        for entry in entries:
            yield orjson.dumps({"dn": entry.dn, "values": entry.values}, option=orjson.OPT_APPEND_NEWLINE)
        yield orjson.dumps({"end": len(entries)}, option=orjson.OPT_APPEND_NEWLINE)

    def _count(self) -> int:
        """Entries of the file on disk; 0 if there is none that fits these settings."""
        try:
            with self.path.open("rb") as file:
                count = self._head(file.readline()).get("count")
                return count if isinstance(count, int) else 0
        except (OSError, SnapshotRefused):
            return 0
