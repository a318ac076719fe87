"""The store's promise under violence: what was acknowledged is there, and what cannot be kept is not acknowledged."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from mailfront.base.clock import SystemClock
from mailfront.base.ids import MessageId, is_message_id
from mailfront.queue.check import check_queue
from mailfront.queue.stored_body import StoredBody
from mailfront.queue.views import QueueViews
from mailfront.store import message_rows
from mailfront.store.writer import Store
from tests.support.queue_rows import FakeHomes, open_store
from tests.support.queue_writer import body_of

_ROOT = Path(__file__).parents[2]
_ROUNDS = 6
_CALLS = "trace=pwrite64,fdatasync,fsync,write"


def _command(directory: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tests.support.queue_writer", str(directory), *words]


async def _verify(directory: Path, acknowledged: list[str]) -> None:
    """Every acknowledged message is whole, with both recipients, and the database is sound."""
    store = open_store(directory, SystemClock())
    try:
        views = QueueViews(store, FakeHomes())
        for message_id in acknowledged:
            await _verify_one(store, views, MessageId(message_id))
        # What was written and not acknowledged may be there or not, but never half.
        assert (await check_queue(views._store)).problems == []
    finally:
        await store.close()


async def _verify_one(store: Store, views: QueueViews, message_id: MessageId) -> None:
    found = await views.show(message_id)
    assert found is not None, f"{message_id} was acknowledged and is gone"
    assert found.message is not None
    assert len(found.recipients) == 2
    body = b"".join(StoredBody(store, message_id, found.message.size_bytes).pieces())
    assert body == body_of(message_id, found.message.size_bytes)


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A writer is killed in the middle of its work, again and again; every acknowledged message is there afterwards."""
    acknowledged: list[str] = []
    for round_number in range(_ROUNDS):
        process = subprocess.Popen(_command(tmp_path, "keep"), cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            for _ in range(10 + 23 * round_number):
                acknowledged.append((await asyncio.to_thread(process.stdout.readline)).strip())
        finally:
            os.kill(process.pid, signal.SIGKILL)
            rest, _ = process.communicate()
        acknowledged += [line for line in rest.splitlines() if is_message_id(line)]
        await _verify(tmp_path, acknowledged)
    assert len(acknowledged) == len(set(acknowledged)) >= 10 * _ROUNDS
    assert all(is_message_id(line) for line in acknowledged)


async def test_orphans_of_a_killed_writer_are_only_unaccepted_bodies(tmp_path: Path) -> None:
    """Whatever a kill leaves behind under `incoming` was never acknowledged."""
    process = subprocess.Popen(_command(tmp_path, "keep"), cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [(await asyncio.to_thread(process.stdout.readline)).strip() for _ in range(40)]
    process.kill()
    rest, _ = process.communicate()
    acknowledged += [line for line in rest.splitlines() if is_message_id(line)]
    store = open_store(tmp_path, SystemClock())
    swept = await store.write(lambda c: message_rows.sweep_messages(c, message_rows.INCOMING, 9e12, 1000))
    assert not set(swept) & set(acknowledged)
    await store.close()
    await _verify(tmp_path, acknowledged)


def _check_full(process: "subprocess.CompletedProcess[str]") -> list[str]:
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    acknowledged = [line for line in lines if is_message_id(line)]
    words = [line for line in lines if line.startswith(("failed ", "gate ", "listed "))]
    assert words[0].startswith("failed the database does not answer")
    before = sum(is_message_id(line) for line in lines[: lines.index(words[0])])
    assert before >= 3
    listed = int(words[2].removeprefix("listed "))
    # A message whose commit failed may be found by nobody: exactly the acknowledged ones are listed.
    assert (words[1], listed, words[3]) == ("gate shut", 2 * before, "gate open")
    assert len(acknowledged) == before + 1
    return acknowledged


async def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    """Writes fail with StoreFailed, the gate shuts, reads go on, and it recovers by itself when there is room."""
    process = await asyncio.to_thread(
        subprocess.run, _command(tmp_path, "full", "500000"), cwd=_ROOT, capture_output=True, text=True, timeout=60
    )
    await _verify(tmp_path, _check_full(process))


async def test_a_full_file_system(tmp_path: Path) -> None:
    """The same on a real file system of one MiB that is full to the last byte (in a mount namespace of its own)."""
    small = tmp_path / "small"
    small.mkdir()
    copy = tmp_path / "copy"
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && shift && "$@" && cp -r "$COPY_FROM" "$COPY_TO"'
    process = await asyncio.to_thread(
        subprocess.run,
        ["unshare", "-Urm", "sh", "-c", script, "sh", str(small), *_command(small, "full", "0")],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COPY_FROM": str(small), "COPY_TO": str(copy)},
    )
    await _verify(copy, _check_full(process))


async def test_the_log_is_fsynced_before_an_acknowledgement(tmp_path: Path) -> None:
    """Seen from outside: between two acknowledgements the database's log was written and then fsynced."""
    trace = tmp_path / "trace"
    await asyncio.to_thread(
        subprocess.run,
        ["strace", "-f", "-y", "-o", str(trace), "-e", _CALLS, *_command(tmp_path, "few")],
        cwd=_ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    state, acknowledged = "idle", 0
    for line in trace.read_text(errors="replace").splitlines():
        if re.search(r"pwrite64\(\d+<[^>]*state\.db-wal>", line):
            state = "written"
        elif re.search(r"f(data)?sync\(\d+<[^>]*state\.db-wal>", line) and state == "written":
            state = "syncing" if "unfinished" in line else "synced"
        elif "sync resumed" in line and line.rstrip().endswith("= 0") and state == "syncing":
            state = "synced"
        elif re.search(r'write\(1<[^>]*>, "[0-9a-z]{16}\\n"', line):
            assert state == "synced", f"acknowledged while the log was {state}"
            state, acknowledged = "idle", acknowledged + 1
    assert acknowledged == 5
