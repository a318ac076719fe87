"""`queue export` without a server: memory stays flat however much is queued, and damage is named and left out."""

import asyncio
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

from sqlalchemy import text

from mailfront.admin.queue_exchange import show_exported
from mailfront.base.clock import SystemClock
from mailfront.mail.body import MemoryBody
from mailfront.queue.exports import ExportedMessage
from mailfront.queue.queue import Queue
from tests.support.admin_stub import AdminStub, invoke, write_config
from tests.support.queue_rows import (
    NOTICES,
    RETRY_S,
    FakeHomes,
    message_id,
    open_store,
    queued_message,
    queued_recipient,
)

BODY_BYTES = 8_000_000
ROOM_BYTES = 30_000_000
"""By how much two measurements may differ; 15 bodies more are 120 MB."""


def fill(folder: Path, sizes: list[int], *damage: str) -> None:
    """Queue one message of each size, then hurt the database."""

    async def run() -> None:
        store = open_store(folder, SystemClock())
        queue = Queue(store, FakeHomes(), retry_s=RETRY_S, notices=NOTICES, alarm=lambda *_: None)
        for number, size_bytes in enumerate(sizes):
            message = queued_message(number, store.clock.wall_s())
            await queue.accept(message, MemoryBody(b"x" * size_bytes), [queued_recipient(0, f"u{number}", number)])
        for statement in damage:
            await store.write(lambda connection, what=statement: connection.execute(text(what)))  # type: ignore[misc]
        await store.close()

    asyncio.run(run())


def peak_bytes(config: Path, target: Path) -> int:
    """The most memory that an export of everything needed."""
    program = (
        "import resource, sys\nfrom mailfront.cli.main import cli\n"
        "try:\n    cli(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    arguments = ["queue", "export", str(target), "--everything", "-c", str(config)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120.0)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1]) * 1024


def test_an_export_needs_one_message_of_memory(tmp_path: Path) -> None:
    """With 5 and with 20 large messages the same memory is enough."""
    peaks = []
    for count in (5, 20):
        folder = tmp_path / str(count)
        folder.mkdir()
        config, target = write_config(folder), folder / "all.tar"
        fill(folder, [BODY_BYTES] * count)
        peaks.append(peak_bytes(config, target))
        assert target.stat().st_size > BODY_BYTES * count
    assert peaks[1] < peaks[0] + ROOM_BYTES


def test_what_is_damaged_is_named_and_the_rest_is_written(tmp_path: Path) -> None:
    """A flipped byte, a missing piece, a row without a name: exit code 1, a line each, the whole ones in the file."""
    config = write_config(tmp_path)
    fill(
        tmp_path,
        [10, 10, 600_000, 10],
        f"UPDATE body_chunk SET data = X'00' WHERE message_id = '{message_id(0)}'",
        f"UPDATE recipient SET address = '' WHERE message_id = '{message_id(1)}'",
        f"DELETE FROM body_chunk WHERE number = 1 AND message_id = '{message_id(2)}'",
    )
    target = tmp_path / "rescued.tar"
    result = invoke(config, "queue", "export", str(target), "--everything", "--json")
    assert result.exit_code == 1
    done = json.loads(result.stdout)
    assert [problem.split(":")[0].split("/")[0] for problem in done["problems"]] == [
        message_id(1), message_id(0), message_id(2),
    ]  # fmt: skip
    with tarfile.open(target) as archive:
        names = archive.getnames()
    assert names == ["queue.json", f"{message_id(3)}.json", f"{message_id(3)}.eml", "end.json"]


def test_a_message_that_is_delivered_meanwhile_is_left_out(tmp_path: Path) -> None:
    """Its row was listed and its body is gone: no half message in the file, and no problem. A body that is gone while
    its row is still there is one."""
    row = queued_recipient(0, "ana", 3)
    exported = ExportedMessage(message=replace(queued_message(1, 0.0), size_bytes=5), recipients=(row,))
    answers = {
        "queue.export": {"messages": [show_exported(exported)], "rows_count": 1, "handed_off_count": 0, "total": 1,
                         "next": None, "damaged": []},
        "queue.piece": None,
    }  # fmt: skip
    for rows, expected in (([], (0, 1, 0)), ([{"id": message_id(1)}], (1, 0, 1))):
        folder = tmp_path / str(len(rows))
        folder.mkdir()
        target = folder / "queue.tar"
        with AdminStub(folder, {**answers, "queue.list": {"rows": rows, "next": None}}) as stub:
            result = stub.run("queue", "export", str(target), "--everything", "--json")
        done = json.loads(result.stdout)
        assert (result.exit_code, done["gone"], len(done["problems"])) == expected
        with tarfile.open(target) as archive:
            assert archive.getnames() == ["queue.json", "end.json"]


def test_a_target_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    """A folder that is not there: one line, exit code 1, and no half file."""
    config = write_config(tmp_path)
    fill(tmp_path, [10])
    result = invoke(config, "queue", "export", str(tmp_path / "no" / "x.tar"), "--everything")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert list(tmp_path.glob("**/*.part")) == []
