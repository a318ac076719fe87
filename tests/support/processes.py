"""Servers as subprocesses: started, watched, hung, killed and surely ended.

Order of calls: `ManagedProcess(...)`, `launch()`, `wait_for_greeting(...)`,
then `hang()`, `resume()`, `kill9()` or `stop()`. `launch()` and waiting are two
calls so that several servers can start at the same time.

Every server is the leader of its own session; what it forks is found through
/proc and ends with it. `run_directory()` holds the files of this test process;
after a failure they stay until the next run. A test process that was killed
leaves servers behind: the next one ends them (`sweep_abandoned_runs`).
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

Endpoint = tuple[str, int] | Path

LOG_TAIL_LINES = 30
_RUN_PREFIX = "mailfront-run-"
_run: tuple[Path, int] | None = None


class ServerDidNotStart(Exception):
    """A server ended early or gave no greeting in time; the text has the end of its log."""


def wait_until(condition: Callable[[], T], timeout_s: float, what: str, interval_s: float = 0.02) -> T:
    """Call `condition` until it returns something true, and return that.

    Raises TimeoutError naming `what` after `timeout_s` seconds.
    """
    end = time.monotonic() + timeout_s
    while True:
        if result := condition():
            return result
        if time.monotonic() >= end:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(interval_s)


def run_directory() -> Path:
    """Return the folder of this test process; made at the first call, removed by `remove_run_directory`."""
    global _run
    if _run is None:
        sweep_abandoned_runs()
        path = Path(tempfile.mkdtemp(prefix=_RUN_PREFIX))
        # Servers drop to other users and must be able to walk in.
        path.chmod(0o755)
        descriptor = os.open(path / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _run = (path, descriptor)
    return _run[0]


def new_directory(name: str) -> Path:
    """Return a fresh folder below the run directory, open to other users."""
    path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=run_directory()))
    path.chmod(0o755)
    return path


def remove_run_directory() -> None:
    """Remove all files of this test process. Call it when every server has stopped."""
    global _run
    if _run is not None:
        shutil.rmtree(_run[0], ignore_errors=True)
        os.close(_run[1])
        _run = None


def sweep_abandoned_runs() -> None:
    """End the servers, and remove the files, of test processes that no longer exist."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_RUN_PREFIX}*/owner.lock"):
        if lock.stat().st_uid != os.getuid():
            continue
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for pid_file in lock.parent.glob("*.session"):
                _kill_sessions({int(pid_file.stem)}, below=lock.parent)
            shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:
            pass  # its owner lives
        finally:
            os.close(descriptor)


class ManagedProcess:
    """One server process and everything that it starts."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        name: str,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.name = name
        self.log_path = log_path
        self._environment = environment
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The pid of the server's first process; it is also the id of its session."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process; returns at once, before the server answers."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._cwd,
                env=None if self._environment is None else {**os.environ, **self._environment},
            )
        (run_directory() / f"{self._process.pid}.session").touch()
        _running.add(self)

    def members(self) -> list[int]:
        """Return the pids of the server and of all its descendants that are alive."""
        return _session_and_descendants(self.pid)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's first process only."""
        os.kill(self.pid, number)

    def hang(self) -> None:
        """SIGSTOP every process: connections are accepted by the kernel, and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT every process."""
        self._signal_all(signal.SIGCONT)

    def kill9(self) -> None:
        """SIGKILL every process at once, as a power cut would."""
        if self._process is not None:
            # The first to die must not leave the others time for last words, such as a 421.
            self._signal_all(signal.SIGSTOP)
            _kill_sessions({self._process.pid})
            self._forget()

    def stop(self, timeout_s: float = 5.0, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Ask the server to end; kill what is left after `timeout_s`. Returns its exit status."""
        if self._process is None:
            return None
        process = self._process
        if process.poll() is None:
            self._signal_all(signal.SIGCONT)
            process.send_signal(number)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass
        _kill_sessions({process.pid})
        self._forget()
        return process.returncode

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """Return the end of the server's log, for an error message."""
        if not self.log_path.exists():
            return f"{self.log_path}: no log"
        text = self.log_path.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- end of {self.log_path}", *text])

    def wait_for(self, condition: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait for a condition while the server runs; its log is part of the error."""

        def reached() -> object:
            if not self.running:
                status = None if self._process is None else self._process.returncode
                raise ServerDidNotStart(f"{self.name} ended with status {status}\n{self.log_tail()}")
            return condition()

        try:
            wait_until(reached, timeout_s, what)
        except TimeoutError as error:
            self.stop(timeout_s=1.0)
            raise ServerDidNotStart(f"{self.name}: {error}\n{self.log_tail()}") from None
        except ServerDidNotStart:
            self.stop(timeout_s=0.5)
            raise

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self.members():
            _send(pid, number)

    def _forget(self) -> None:
        if self._process is not None:
            self._process.wait()
            (run_directory() / f"{self._process.pid}.session").unlink(missing_ok=True)
        _running.discard(self)


_running: set[ManagedProcess] = set()


@atexit.register
def _kill_the_rest() -> None:
    for process in list(_running):
        process.kill9()


def greeting(
    endpoint: Endpoint, *, timeout_s: float = 2.0, send: bytes = b"", tls: ssl.SSLContext | None = None
) -> bytes:
    """Connect, send `send`, and return the first bytes the server says; empty when it says none."""
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(connect(endpoint, timeout_s=timeout_s))
            if tls is not None:
                stream = stack.enter_context(tls.wrap_socket(stream, server_hostname="localhost"))
            if send:
                stream.sendall(send)
            return stream.recv(4096)
    except OSError:
        return b""


def connect(endpoint: Endpoint, *, timeout_s: float) -> socket.socket:
    """Return a connected socket to a (host, port) or to a UNIX socket's path."""
    if isinstance(endpoint, Path):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(endpoint))
        except OSError:
            connection.close()
            raise
        return connection
    return socket.create_connection(endpoint, timeout=timeout_s)


def _kill_sessions(sessions: set[int], below: Path | None = None) -> None:
    """SIGKILL sessions until none of their processes is left.

    With `below`, only when the session still has something to do with that
    folder: after a reboot another process may have the same id.
    """
    for session in sessions:
        for _ in range(50):
            pids = _session_and_descendants(session)
            if below is not None:
                pids = [pid for pid in pids if _mentions(pid, below)]
            if not pids:
                break
            for pid in pids:
                _send(pid, signal.SIGKILL)
            time.sleep(0.005)


def _mentions(pid: int, folder: Path) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        directory = os.readlink(f"/proc/{pid}/cwd")
        descriptors = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(str(folder) in text for text in (command.decode(errors="replace"), directory, *descriptors))


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone; or started by sudo, which passes SIGTERM on and kills what it started


def _session_and_descendants(root: int) -> list[int]:
    """Pids (zombies excepted) whose session is `root`, or that descend from it."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry.name}/stat").read_text()
        except OSError:
            continue
        # The command name is in parentheses and may contain anything.
        state, parent, _group, session = stat.rpartition(") ")[2].split()[:4]
        if state in "ZX":
            continue
        pid = int(entry.name)
        parents[pid] = int(parent)
        if int(session) == root or pid == root:
            found.add(pid)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)
