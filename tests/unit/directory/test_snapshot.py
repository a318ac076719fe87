"""The copy on disk: complete or not used, replaced as a whole, never shrunk by half."""

from pathlib import Path
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.directory.answers import CannotSay, Found, NoSuch, Source
from mailfront.directory.entries import Entry
from mailfront.directory.settings import LdapSettings
from mailfront.directory.snapshot import SnapshotRefused, SnapshotStore
from mailfront.mail.address import Address

BASE: dict[str, Any] = {"kind": "ldap", "urls": ["ldap://x"], "base": "dc=x"}


def store(tmp_path: Path, clock: ManualClock, **changes: Any) -> SnapshotStore:
    """A store over the default filter."""
    return SnapshotStore(LdapSettings.model_validate(BASE | changes), state_dir=tmp_path, clock=clock)


def people(count: int) -> list[Entry]:
    """Entries u0, u1, ... with an alias each."""
    return [
        Entry(
            f"cn=u{number}",
            {
                "uid": (f"u{number}",),
                "mail": (f"U{number}@example.edu",),
                "mailalternateaddress": (f"alias{number}@example.edu",),
            },
        )
        for number in range(count)
    ]


async def test_what_is_written_is_found_by_another_process(tmp_path: Path) -> None:
    """Primary addresses and aliases are found with the age of the copy; others are not known there."""
    clock = ManualClock()
    await store(tmp_path, clock).write(people(10))
    clock.advance(120)
    reader = store(tmp_path, clock)
    for local in ("u3", "alias3"):
        answer = await reader.look_up(Address(local, "example.edu"))
        assert isinstance(answer, Found)
        assert (answer.record.mailbox, answer.source, answer.age_s) == ("u3", Source.SNAPSHOT, 120.0)
    assert isinstance(await reader.look_up(Address("nobody", "example.edu")), NoSuch)
    assert reader.age_s() == 120.0
    assert reader.problem == ""


async def test_a_newer_file_is_read_without_a_restart(tmp_path: Path) -> None:
    """The file is looked at each time it is needed."""
    clock = ManualClock()
    writer, reader = store(tmp_path, clock), store(tmp_path, clock)
    await writer.write(people(5))
    assert isinstance(await reader.look_up(Address("u7", "example.edu")), NoSuch)
    await writer.write(people(8))
    assert isinstance(await reader.look_up(Address("u7", "example.edu")), Found)


async def test_an_ambiguous_address_is_ambiguous_in_the_copy_too(tmp_path: Path) -> None:
    """Two entries with one address: never the first."""
    clock = ManualClock()
    twins = [
        Entry("cn=a", {"uid": ("a",), "mail": ("x@example.edu",)}),
        Entry("cn=b", {"uid": ("b",), "mail": ("b@example.edu",), "mailalternateaddress": ("X@example.edu",)}),
    ]
    await store(tmp_path, clock).write(twins)
    answer = await store(tmp_path, clock).look_up(Address("x", "example.edu"))
    assert isinstance(answer, CannotSay)
    assert answer.alarm == "directory.ambiguous"


async def test_no_file_is_no_answer(tmp_path: Path) -> None:
    """Without a snapshot nothing is said, and the reason is kept for `health`."""
    empty = store(tmp_path, ManualClock())
    assert await empty.look_up(Address("u1", "example.edu")) is None
    assert "no snapshot yet" in empty.problem
    assert empty.age_s() is None


async def test_a_copy_older_than_stale_is_not_used(tmp_path: Path) -> None:
    """`directory.stale` bounds the snapshot too."""
    clock = ManualClock()
    await store(tmp_path, clock).write(people(3))
    clock.advance(86401)
    old = store(tmp_path, clock)
    assert await old.look_up(Address("u1", "example.edu")) is None
    assert "older than directory.stale" in old.problem


@pytest.mark.parametrize(
    "changes",
    [{"base": "dc=y"}, {"recipient_filter": "(mail={address})"}, {"attributes": {"mailbox": "cn"}}],
)
async def test_a_copy_made_for_other_settings_is_not_used(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What the filter or the attributes mean now is not what was copied."""
    clock = ManualClock()
    await store(tmp_path, clock).write(people(3))
    other = store(tmp_path, clock, **changes)
    assert await other.look_up(Address("u1", "example.edu")) is None
    assert "another base, filter or attributes" in other.problem


async def test_a_damaged_file_is_not_used_wherever_it_is_cut(tmp_path: Path) -> None:
    """Any prefix of a snapshot, and one with a missing line, is refused with a reason, never believed."""
    clock = ManualClock()
    await store(tmp_path, clock).write(people(4))
    path = store(tmp_path, clock).path
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = [whole[:cut] for cut in range(0, len(whole) - 1, 7)] + [b"".join(lines[:2] + lines[3:])]
    for content in damaged:
        path.write_bytes(content)
        reader = store(tmp_path, clock)
        assert await reader.look_up(Address("u1", "example.edu")) is None
        assert str(path) in reader.problem


async def test_a_copy_that_lost_half_the_entries_is_not_kept(tmp_path: Path) -> None:
    """A replica that is being filled does not make users unknown; the last copy stays."""
    clock = ManualClock()
    writer = store(tmp_path, clock)
    await writer.write(people(10))
    for shrunk in (people(4), []):
        with pytest.raises(SnapshotRefused, match="left as it is"):
            await writer.write(shrunk)
    await writer.write(people(5))
    assert isinstance(await writer.look_up(Address("u4", "example.edu")), Found)


async def test_the_file_is_private_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    """Names of people are readable by mailfront only; a failed write leaves no trace."""
    writer = store(tmp_path, ManualClock())
    await writer.write(people(2))
    assert writer.path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [writer.path]


async def test_a_disk_that_cannot_be_written_is_an_error_and_the_old_copy_stays(tmp_path: Path) -> None:
    """The folder is gone: OSError, which the caller reports."""
    writer = store(tmp_path / "gone", ManualClock())
    with pytest.raises(OSError):
        await writer.write(people(2))
