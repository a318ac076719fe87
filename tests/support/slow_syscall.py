"""Stop a process inside one system call, by strace: before it is carried out, or after that and before it returns.

with stopped_at(pid, "fdatasync,fsync", "after") as stop:
    ... do what makes it call ...
    stop.wait()        a thread is inside the call now, and stays there for a while
    os.kill(pid, signal.SIGKILL)
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.support.processes import wait_until

DELAY_S = 30
_LOOKS = 5


class Stop:
    """One traced process."""

    def __init__(self, pid: int, tracer: "subprocess.Popen[bytes]") -> None:
        self._pid = pid
        self._tracer = tracer

    def kill9(self) -> None:
        """SIGKILL the process where it is."""
        os.kill(self._pid, signal.SIGKILL)
        # The dead are shown to their tracer first, and this one sleeps.
        self._tracer.kill()

    def wait(self, timeout_s: float = 60.0) -> None:
        """Wait until a thread stays in the call. Raises TimeoutError."""
        in_a_row = 0

        def stays() -> bool:
            nonlocal in_a_row
            in_a_row = in_a_row + 1 if "t" in _thread_states(self._pid) else 0
            return in_a_row >= _LOOKS

        wait_until(stays, timeout_s, f"a stop of process {self._pid}")


@contextmanager
def stopped_at(pid: int, calls: str, when: Literal["before", "after"], *, nth: int = 1) -> Iterator[Stop]:
    """Delay every one of these system calls of a process and its threads, of each thread from its `nth` on."""
    side = "delay_enter" if when == "before" else "delay_exit"
    as_root = [] if os.getuid() == 0 else ["sudo", "-n"]
    command = ["strace", "-f", "-q", "-p", str(pid), "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:{side}={DELAY_S}s:when={nth}+", "-o", "/dev/null"]
    tracer = subprocess.Popen([*as_root, *command], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: _is_traced(pid), 10.0, f"strace at process {pid}")
        yield Stop(pid, tracer)
    finally:
        tracer.kill()
        tracer.communicate(timeout=10.0)


def _is_traced(pid: int) -> bool:
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir())


def _thread_states(pid: int) -> set[str]:
    states: set[str] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            states.add((task / "stat").read_text().rpartition(") ")[2][0])
        except OSError:
            continue  # it has just ended
    return states
