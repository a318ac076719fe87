"""Time as a value that can be passed in: monotonic seconds to wait by, wall-clock seconds to record by."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where a part of mailfront gets its time."""

    def monotonic_s(self) -> float:
        """Seconds that only go forward; for deadlines and intervals inside one process."""
        ...

    def wall_s(self) -> float:
        """Seconds since 1970 (UTC); for records that outlive the process."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def wall_s(self) -> float:
        """See `Clock`."""
        return time.time()


class ManualClock:
    """A clock for tests and simulations: it moves only when told."""

    def __init__(self, wall_s: float = 1_700_000_000.0) -> None:
        self._wall_s = wall_s
        self._monotonic_s = 1000.0

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return self._monotonic_s

    def wall_s(self) -> float:
        """See `Clock`."""
        return self._wall_s

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._wall_s += seconds
        self._monotonic_s += seconds
