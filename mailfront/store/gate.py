"""The queue gate: may we promise to keep another message now?

Asked before a fan-out to more than one mailbox. Open means: the last commit succeeded, the disk has more room than
twice the message and than `limits.free_space`, and the database is below `queue.max_bytes`. Cheap: free space is
looked at twice a second at most. Read and changed from any thread; every change is one assignment.
"""

import os
from pathlib import Path

from mailfront.base.clock import Clock
from mailfront.base.units import show_size

_LOOK_EVERY_S = 0.5


class QueueGate:
    """Open or shut, and why. Owned by the store; everybody else only asks."""

    def __init__(self, directory: Path, clock: Clock, *, free_space_bytes: int, max_bytes: int | None) -> None:
        self._directory = directory
        self._clock = clock
        self._free_space_bytes = free_space_bytes
        self._max_bytes = max_bytes
        self._failure = ""
        self._used_bytes = 0
        self._free_bytes = 0
        self._looked_s = float("-inf")

    def is_open(self, size_bytes: int = 0) -> bool:
        """Whether a message of this size may be queued."""
        return not self.reason_for(size_bytes)

    def reason_for(self, size_bytes: int = 0) -> str:
        """Why the gate is shut for a message of this size, for people; '' when it is open."""
        if self._failure:
            return self._failure
        free_bytes = self._free()
        if free_bytes <= max(self._free_space_bytes, 2 * size_bytes):
            return f"only {show_size(free_bytes)} free in {self._directory}"
        if self._max_bytes is not None and self._used_bytes + size_bytes > self._max_bytes:
            return f"the queue holds {show_size(self._used_bytes)} and queue.max_bytes is {show_size(self._max_bytes)}"
        return ""

    @property
    def room_bytes(self) -> int:
        """The largest message for which the gate is open; 0 when it is shut."""
        if self.reason_for(0):
            return 0
        room_bytes = max(0, self._free() // 2 - 1)
        return room_bytes if self._max_bytes is None else min(room_bytes, self._max_bytes - self._used_bytes)

    @property
    def reason(self) -> str:
        """Why the gate is shut for every message; '' when it is open."""
        return self.reason_for(0)

    def commit_failed(self, reason: str) -> None:
        """Shut it until a commit succeeds."""
        self._failure = reason

    def commit_succeeded(self) -> None:
        """The last commit is on disk."""
        self._failure = ""

    def database_used(self, used_bytes: int) -> None:
        """Note how many bytes of the database hold data."""
        self._used_bytes = used_bytes

    def _free(self) -> int:
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= _LOOK_EVERY_S:
            try:
                found = os.statvfs(self._directory)
                self._free_bytes = found.f_bavail * found.f_frsize
            except OSError:
                self._free_bytes = 0
            self._looked_s = now_s
        return self._free_bytes
