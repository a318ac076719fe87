"""The kind `command`: a program of the site looks at each message.

One process per message. The message comes on its standard input as it arrived; the envelope is in its environment
(`MAILFRONT_ID`, `_CLIENT_IP`, `_HELO`, `_SENDER`, `_RECIPIENTS` with one address per line, `_PROTOCOL`); the answer is
a verdict as JSON on its standard output (`mailfront.filters.answers_json`), nothing at all meaning "continue". An exit
status other than 0, a signal, or more output than allowed are failures, and `on_error` applies; what it writes to
standard error goes to the log then.

Bounds: the time of the filter (the process group is killed when it is up, or when the answer is not wanted any more),
its memory, its output. It runs as the account of the server, without a shell, with `PATH`, `LANG` and the above as its
whole environment.
"""

import asyncio
import contextlib
import os
import resource
import signal
from typing import Annotated, Any

from pydantic import Field, field_validator

from mailfront.base.printable import printable
from mailfront.base.settings import Settings, SizeBytes
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.filters.answers_json import read_verdict
from mailfront.filters.contract import Filter, FilterContext, FilterFailed, Kind, Message, Stage
from mailfront.mail.body import BodyRef
from mailfront.mail.verdict import Verdict

MOST_STDERR_BYTES = 4096
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandSettings(Settings):
    """Which program, and its bounds."""

    command: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1, strict=False)
    """The program with its arguments: `["/usr/local/bin/check-mail", "--fast"]`. The first is an absolute path."""
    max_output: SizeBytes = Field(default=1024 * 1024, gt=0)
    """How much it may answer."""
    max_memory: SizeBytes = Field(default=512 * 1024 * 1024, gt=0)
    """How much address space each of its processes may have."""

    @field_validator("command")
    @classmethod
    def _has_absolute_path(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value[0].startswith("/"):
            raise ValueError(f"{value[0]!r} is no absolute path; nobody should have to guess which program runs")
        return value


class CommandFilter(Filter):
    """See the module."""

    def __init__(self, settings: CommandSettings, context: FilterContext) -> None:
        self._settings = settings
        self._name = context.name

    async def data(self, message: Message) -> Verdict:
        """See `Filter`."""
        settings = self._settings
        try:
            process = await asyncio.create_subprocess_exec(
                *settings.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(message),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise FilterFailed(f"{settings.command[0]} cannot be started: {error.strerror}") from error
        try:
            _limit(process.pid, settings.max_memory)
            output = await self._dialogue(process, message.body)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return read_verdict(output)

    async def _dialogue(self, process: asyncio.subprocess.Process, body: BodyRef) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        limit_bytes = self._settings.max_output
        feeding = spawn(_feed(process.stdin, body), name=f"feed {self._name}")
        complaining = spawn(_head(process.stderr, MOST_STDERR_BYTES), name=f"stderr of {self._name}")
        try:
            output = await _read(process.stdout, limit_bytes + 1)
            if len(output) > limit_bytes:
                raise FilterFailed(f"its answer is longer than {limit_bytes} bytes")
            status = await process.wait()
            if status != 0:
                words = printable((await complaining).strip(), 200)
                raise FilterFailed(f"exit status {status}: {words}" if words else f"exit status {status}")
            return output
        finally:
            await cancel_and_wait(feeding, complaining)


async def _feed(stdin: asyncio.StreamWriter, body: BodyRef) -> None:
    """Give it the message. A program that does not read to the end has made up its mind."""
    with contextlib.suppress(ConnectionError):
        for piece in body.pieces():
            stdin.write(piece)
            await stdin.drain()
        stdin.close()


async def _read(stream: asyncio.StreamReader, limit_bytes: int) -> bytes:
    """Everything up to the end of the stream, or `limit_bytes` of it."""
    data = b""
    while len(data) < limit_bytes and (piece := await stream.read(limit_bytes - len(data))):
        data += piece
    return data


async def _head(stream: asyncio.StreamReader, limit_bytes: int) -> bytes:
    """The first bytes; the rest is read all the same, so that the program does not wait for us."""
    data = b""
    while piece := await stream.read(64 * 1024):
        data += piece[: limit_bytes - len(data)]
    return data


def _limit(pid: int, memory_bytes: int) -> None:
    """Bound what the process may take. It has not been given the message yet."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _environment(message: Message) -> dict[str, str]:
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "MAILFRONT_ID": message.id,
        "MAILFRONT_CLIENT_IP": message.client.ip,
        "MAILFRONT_HELO": message.client.helo,
        "MAILFRONT_PROTOCOL": message.client.protocol,
        "MAILFRONT_SENDER": str(message.reverse_path or ""),
        "MAILFRONT_RECIPIENTS": "\n".join(str(each.address) for each in message.bound),
    }


def _make(settings: Any, context: FilterContext) -> Filter:
    return CommandFilter(settings, context)


KIND = Kind(
    summary="Gives each message to a program on its standard input and reads a verdict from its standard output.",
    settings=CommandSettings,
    stages=frozenset({Stage.DATA}),
    make=_make,
)
