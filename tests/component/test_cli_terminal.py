"""Long work on a terminal shows how far it has come; on a pipe it does not."""

import asyncio
import os
import pty
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from mailfront.admin.socket import Call
from mailfront.admin.wire import Progress
from tests.support.admin_stub import AdminStub
from tests.support.processes import wait_until

WITHIN_S = 60.0
DONE = {"verb": "hold", "dry_run": False, "matched": 4000, "changed": 4000, "skipped": 0, "changed_rows": [],
        "skipped_rows": []}  # fmt: skip


def slow_hold(seen: threading.Event) -> Any:
    """A verb that is half done until somebody has seen it."""

    async def hold(call: Call) -> Any:
        call.progress(Progress(1000, 4000, "recipients"))
        await asyncio.to_thread(seen.wait, WITHIN_S)
        return DONE

    return hold


def test_bulk_work_on_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    """A quarter of the recipients: the bar says so while the server still works, and goes away at the end."""
    seen = threading.Event()
    leader, follower = pty.openpty()
    shown = bytearray()

    def is_shown(text: bytes) -> bool:
        while select.select([leader], [], [], 0.05)[0]:
            shown.extend(os.read(leader, 4096))
        return text in shown

    with AdminStub(tmp_path, {"queue.hold": slow_hold(seen)}) as stub:
        command = [sys.executable, "-m", "mailfront", "queue", "hold", "--everything", "-c", str(stub.config)]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
        working = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, env=environment)
        try:
            wait_until(lambda: is_shown(b" 25%"), WITHIN_S, "a bar")
            assert b"recipients" in shown
            seen.set()
            output, _ = working.communicate(timeout=WITHIN_S)
        finally:
            seen.set()
            working.kill()
            working.wait(WITHIN_S)
            os.close(follower)
            os.close(leader)
    assert output.decode().startswith("4000 of 4000 matching recipients held")


def test_bulk_work_on_a_pipe_shows_no_bar(tmp_path: Path) -> None:
    """Nothing but the answer, and nothing on standard error."""
    seen = threading.Event()
    seen.set()
    with AdminStub(tmp_path, {"queue.hold": slow_hold(seen)}) as stub:
        result = stub.run("queue", "hold", "--everything")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "recipients held" in result.stdout
