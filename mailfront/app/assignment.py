"""What a child process is told by the supervisor: one JSON document in a memory file, handed over by descriptor.

The document holds the text of the configuration in force (not its path alone: a child that is restarted after somebody
edited the file must run what is in force), its place among the workers, and the numbers of inherited descriptors.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

ASSIGNMENT_FD_VARIABLE = "MAILFRONT_ASSIGNMENT_FD"
READY = b"ready\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One child's orders.

    `listeners` are pairs: index of the `[[listen]]` section, inherited listening socket. `ready_fd`: write `READY`
    there when serving, or one line of reason before giving up; close it when nobody is taken in any more.
    `lifeline_fd`: end of file there means that the
    supervisor is gone; drain and exit. `table_fd`: the shared connection table of listeners that take mail;
    `sessions_table_fd`: of those that people log in to. `failures_fd`: failed logins.
    `admin_fd`: the bound admin socket (keeper only, else -1).
    """

    config_path: str
    config_text: str
    index: int
    listeners: tuple[tuple[int, int], ...]
    ready_fd: int
    lifeline_fd: int
    table_fd: int
    sessions_table_fd: int
    failures_fd: int
    admin_fd: int = -1

    @property
    def path(self) -> Path:
        """Where the configuration came from, for messages and for resolving nothing else."""
        return Path(self.config_path)

    def to_memory_file(self) -> int:
        """Write the document; returns an inheritable descriptor that the caller closes after the child has started."""
        fd = os.memfd_create("mailfront-assignment", 0)
        os.write(fd, orjson.dumps(asdict(self)))
        os.lseek(fd, 0, os.SEEK_SET)
        return fd


def read_assignment() -> Assignment:
    """Read this process's orders. Raises KeyError if it was not started by a supervisor."""
    fd = int(os.environ[ASSIGNMENT_FD_VARIABLE])
    with os.fdopen(fd, "rb") as file:
        document = orjson.loads(file.read())
    document["listeners"] = tuple((section, socket_fd) for section, socket_fd in document["listeners"])
    return Assignment(**document)


class ReadyLine:
    """What a child says to the supervisor: one line, that it serves or why it cannot, and the end of file when it takes
    nobody in any more. The first word counts."""

    def __init__(self, assignment: Assignment) -> None:
        self._fd: int | None = assignment.ready_fd
        self._has_served = False

    def serving(self) -> None:
        """This process serves."""
        if self._fd is not None:
            os.write(self._fd, READY)
            self._has_served = True

    def failed(self, problem: str) -> None:
        """This process cannot start; the supervisor shows the reason. Nothing happens if it has served already."""
        if self._fd is not None and not self._has_served:
            os.write(self._fd, problem.encode()[:4000] + b"\n")
        self.takes_nobody_in()

    def takes_nobody_in(self) -> None:
        """Whoever connects from now on meets another process. The end of the process says the same."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
