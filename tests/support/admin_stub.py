"""An admin server with answers as data, in a thread of its own, for tests of the command line.

    with AdminStub(tmp_path, {"node.list": [...], "queue.delete": AdminError("no")}) as stub:
        result = stub.run("node", "list", "--json")
    stub.calls   what was asked, in order: (verb, arguments, uid)

An answer is a value, an AdminError to fail with, or a function of the Call.
"""

import asyncio
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from click.testing import CliRunner, Result

from mailfront.admin.errors import AdminError
from mailfront.admin.socket import AdminServer, Call, Handler
from mailfront.cli.main import cli

CONFIG = """
[server]
hostname = "mx1.example.edu"
runtime_dir = "run"
state_dir = "."
"""
START_WITHIN_S = 60.0


def write_config(folder: Path) -> Path:
    """A configuration file with `[server]` only: enough for commands that talk to the server."""
    path = folder / "mailfront.toml"
    path.write_text(CONFIG)
    (folder / "run").mkdir(exist_ok=True)
    return path


def invoke(config: Path, *arguments: str, stdin: str | None = None) -> Result:
    """Run the command line in this process, `-c` after the verb. Standard output is no terminal."""
    return CliRunner().invoke(cli, [*arguments, "-c", str(config)], input=stdin, prog_name="mailfront")


class AdminStub:
    """See the module. A context manager."""

    def __init__(self, folder: Path, answers: Mapping[str, Any]) -> None:
        self.config = write_config(folder)
        self.calls: list[tuple[str, dict[str, Any], int]] = []
        self._path = folder / "run" / "admin.sock"
        self._answers = answers
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._end = asyncio.Event()

    def run(self, *arguments: str) -> Result:
        """Run the command line against this server."""
        return invoke(self.config, *arguments)

    def __enter__(self) -> "AdminStub":
        self._thread.start()
        assert self._ready.wait(START_WITHIN_S)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(START_WITHIN_S)
        assert not self._thread.is_alive()
        self._loop.close()

    async def _serve(self) -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self._path))
        listening.listen()
        server = AdminServer({verb: self._handler(answer) for verb, answer in self._answers.items()})
        server.start(listening)
        self._ready.set()
        await self._end.wait()
        await server.close()
        self._path.unlink()

    def _handler(self, answer: Any) -> Handler:
        async def handle(call: Call) -> Any:
            self.calls.append((call.verb, call.arguments, call.uid))
            given = answer
            if isinstance(given, AdminError):
                raise given
            if callable(given):
                given = given(call)
            return await given if asyncio.iscoroutine(given) else given

        return handle
