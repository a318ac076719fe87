"""Processes of the demo: started, watched, killed, and surely ended when the demo ends, however it ends.

The kernel sends each child a signal when the demo's process dies (PR_SET_PDEATHSIG), SIGKILL included. Each child leads
a session of its own, so Ctrl-C reaches the demo only, which then ends them in order. Linux only, as mailfront is.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HOST = "127.0.0.1"
_PR_SET_PDEATHSIG = 1
_LOOK_EVERY_S = 0.05
_libc = ctypes.CDLL(None, use_errno=True)


class ChildFailed(Exception):
    """A process did not start, or ended unasked. The text names its log."""


class PortReservation:
    """Keeps ports for processes that are yet to start, or were killed and will start again.

    A reserved port is bound and not listened on: connections to it are refused, nobody else gets it, and a child that
    sets SO_REUSEADDR, as servers do, may listen on it. The first demo on a machine gets the usual numbers.
    """

    def __init__(self) -> None:
        self._sockets = contextlib.ExitStack()
        mark = self._sockets.enter_context(socket.socket(socket.AF_UNIX))
        try:
            mark.bind("\0mailfront-demo")  # an abstract name: it is free again when this process ends
            self._is_first = True
        except OSError:
            self._is_first = False

    def port(self, usual: int) -> int:
        """Reserve `usual` if this demo may have it and it is free, else another port."""
        for number in (usual, 0) if self._is_first else (0,):
            sock = self._sockets.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((HOST, number))
            except OSError:
                continue
            port: int = sock.getsockname()[1]
            return port
        raise ChildFailed(f"no free port on {HOST}")

    def close(self) -> None:
        """Give all ports back."""
        self._sockets.close()


class Child:
    """One process, `python -m MODULE ...`, and what it starts. Its output goes to a log file."""

    def __init__(self, name: str, arguments: list[str], log_path: Path, *, at_our_death: signal.Signals) -> None:
        self.name = name
        self.log_path = log_path
        self._command = [sys.executable, "-m", *arguments]
        self._at_our_death = at_our_death
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; returns before it is ready."""
        parent = os.getpid()

        def before_exec() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(self._at_our_death))
            if os.getppid() != parent:  # the demo died before the line above
                os._exit(1)

        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=before_exec,
            )

    def wait_for_greeting(self, port: int, begin: bytes, timeout_s: float) -> None:
        """Wait until it greets. Raises ChildFailed."""
        self.wait_for(lambda: _greeting(port).startswith(begin), timeout_s, f"did not greet on port {port}")

    def wait_for(self, ready: Callable[[], bool], timeout_s: float, problem: str) -> None:
        """Wait for a condition while it runs. Raises ChildFailed, which says `problem`."""
        end_s = time.monotonic() + timeout_s
        while not ready():
            if not self.is_running:
                raise ChildFailed(f"{self.name} has ended; its log: {self.log_path}")
            if time.monotonic() > end_s:
                raise ChildFailed(f"{self.name} {problem} within {timeout_s:.0f} s; its log: {self.log_path}")
            time.sleep(_LOOK_EVERY_S)

    def kill(self) -> int | None:
        """SIGKILL, to it and to what it started, as if the machine had lost its power. Returns the exit status."""
        if self._process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        self._process = None
        return status

    def terminate(self) -> None:
        """Ask it to end in order; returns at once."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end and kill what is left then. Returns the exit status, None if it does not run."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        return self.kill()


def _greeting(port: int) -> bytes:
    try:
        with socket.create_connection((HOST, port), timeout=2.0) as connected:
            return connected.recv(512)
    except OSError:
        return b""
