"""Free TCP ports for test servers.

A port is taken below the kernel's ephemeral range (32768 on Linux): above it,
an outgoing connection could get the port of a server that is stopped for a
moment. A port is handed out once: a lock file, held until this process ends,
keeps it from other test processes (pytest-xdist workers, a second checkout).
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST_PORT = 12_000
LAST_PORT = 31_999

_locks: list[int] = []  # open until the process ends: closing would give the lock back


def free_port() -> int:
    """Return a port that nothing listens on and that nobody else was given.

    Raises RuntimeError when 2,000 attempts found none.
    """
    folder = Path(tempfile.gettempdir()) / f"mailfront-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for _ in range(2_000):
        port = random.randint(FIRST_PORT, LAST_PORT)
        descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        if _is_free(port):
            _locks.append(descriptor)
            return port
        os.close(descriptor)
    raise RuntimeError(f"no free port between {FIRST_PORT} and {LAST_PORT}")


def _is_free(port: int) -> bool:
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True
