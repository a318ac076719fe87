"""One child process as the supervisor sees it: started, ready, ended, and how to end it.

A child is ready when it has written so to its pipe; a child that ends before that has failed to start and its reason
is kept. The end of file in that pipe says that it takes nobody in any more. A descriptor that the child needs is
inherited, never reopened by name.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace

from mailfront.app.assignment import ASSIGNMENT_FD_VARIABLE, READY, Assignment
from mailfront.base.errors import MailfrontError

ENDING_S = 2.0
RETIRE_SIGNAL = signal.SIGUSR1
"""Tells a worker to take nobody in any more and to end with its last session."""

LAST_WORDS_S = 1.0
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(1024 * 1024), "MALLOC_TRIM_THRESHOLD_": str(16 * 1024 * 1024)}
"""glibc gives a freed body back to the system at once, and the next one faults its pages in again: a tenth of the
cost of a message of 200 KB. Up to 16 MiB for each process stay for the next ones. Who sets these outside wins."""


class StartFailed(MailfrontError):
    """A child did not become ready. The text is its own reason, for the administrator."""


class Child:
    """A running keeper or worker."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, started_s: float, words: "_Words") -> None:
        self.name = name
        self.process = process
        self.started_s = started_s
        self._words = words

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    def terminate(self) -> None:
        """Ask it to drain and end."""
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)

    def retire(self) -> None:
        """Ask it to serve those who are there, nobody else, and to end after them."""
        if self.is_running:
            self.process.send_signal(RETIRE_SIGNAL)

    async def takes_nobody_in(self) -> None:
        """Wait until it has stopped to accept, as `retire` and `terminate` ask for, or has ended."""
        await self._words.ended.wait()

    async def ended(self, grace_s: float) -> None:
        """Wait until it has ended; after `grace_s` it is killed."""
        try:
            async with asyncio.timeout(grace_s):
                await self.process.wait()
        except TimeoutError:
            if self.is_running:
                self.process.kill()
            await self.process.wait()


async def start_child(
    name: str, module: str, assignment: Assignment, pass_fds: tuple[int, ...], lifeline_fd: int, ready_within_s: float
) -> Child:
    """Start `python -m module` and wait until it serves. Raises StartFailed with its reason; then it has ended."""
    ready_read, ready_write = os.pipe()
    orders = replace(assignment, ready_fd=ready_write, lifeline_fd=lifeline_fd)
    orders_fd = orders.to_memory_file()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # nothing is imported from the folder where somebody happened to start the server
            "-m",
            module,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(*pass_fds, orders_fd, ready_write, lifeline_fd),
            env={**_ALLOCATION, **os.environ, ASSIGNMENT_FD_VARIABLE: str(orders_fd)},
        )
    except OSError as error:
        os.close(ready_read)
        raise StartFailed(
            f"{name}: {sys.executable} cannot be run by uid {os.geteuid()}: {error.strerror}; install mailfront where "
            "server.user may read and execute it, such as /opt"
        ) from error
    finally:
        os.close(orders_fd)
        os.close(ready_write)
    words = _Words(ready_read)
    child = Child(name, process, asyncio.get_running_loop().time(), words)
    try:
        problem = await _problem(words, ready_within_s)
    except BaseException:
        process.kill()  # nobody would look after it
        raise
    if problem is None:
        return child
    # A kill on its heels would take the status away from a child that ends by itself without a word.
    await child.ended(0.0 if problem else ENDING_S)
    raise StartFailed(f"{name}: {problem or f'ended with status {process.returncode} before it was ready'}")


class _Words:
    """Reads a child's pipe to its end, and closes it then: at the latest when the process has ended."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self.first: asyncio.Future[bytes] = self._loop.create_future()
        self.ended = asyncio.Event()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def _read(self) -> None:
        words = os.read(self._fd, 8192)
        if not self.first.done():
            self.first.set_result(words)
        if not words:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self.ended.set()


async def _problem(words: _Words, within_s: float) -> str | None:
    """None when the child says it is ready; else its reason, or '' if it died without one."""
    try:
        async with asyncio.timeout(within_s):
            said = await asyncio.shield(words.first)
    except TimeoutError:
        return f"was not ready within {within_s:.0f} s"
    return None if said == READY else said.decode("utf-8", "replace").strip()


def watch_lifeline(fd: int, gone: Callable[[], None]) -> None:
    """Call `gone` once when the supervisor has ended, however it ended."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)

    def readable() -> None:
        loop.remove_reader(fd)
        gone()

    loop.add_reader(fd, readable)
