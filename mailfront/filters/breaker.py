"""A circuit breaker: stop calling what does not answer, and find out when it does again. Pure; time is passed in.

closed: all calls go through. After `TRIP_COUNT` failures without a success in between it opens: nothing goes through.
When its time has passed (1 s, doubled with each vain probe up to 30 s) it is half open: one call, the probe, goes
through; its success closes the breaker, its failure opens it again. A probe whose caller was cancelled lets the next
call be the probe.
"""

from collections.abc import Callable
from enum import Enum

TRIP_COUNT = 3
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


class BreakerState(Enum):
    """See the module."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """See the module. `changed(breaker)` is called at each change between closed and not closed."""

    def __init__(self, name: str, changed: Callable[["Breaker"], None] = lambda _: None) -> None:
        self.name = name
        self.reason = ""
        self._changed = changed
        self._failures_count = 0
        self._pause_s = 0.0
        self._opens_again_s = 0.0
        self._is_probing = False

    def state(self, now_s: float) -> BreakerState:
        """How it is. `now_s`: monotonic."""
        if not self._pause_s:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._is_probing or now_s >= self._opens_again_s else BreakerState.OPEN

    @property
    def is_closed(self) -> bool:
        """Whether all calls go through."""
        return not self._pause_s

    def may_call(self, now_s: float) -> bool:
        """Whether a call may be made now. If so, exactly one of `succeeded`, `failed`, `cancelled` must follow."""
        if not self._pause_s:
            return True
        if self._is_probing or now_s < self._opens_again_s:
            return False
        self._is_probing = True
        return True

    def succeeded(self) -> None:
        """The call was answered."""
        was_closed = self.is_closed
        self._failures_count = 0
        self._pause_s = 0.0
        self._is_probing = False
        self.reason = ""
        if not was_closed:
            self._changed(self)

    def failed(self, now_s: float, reason: str) -> None:
        """The call was not answered, or with nonsense."""
        self.reason = reason
        self._failures_count += 1
        if self._pause_s:
            if self._is_probing:
                self._is_probing = False
                self._open(min(self._pause_s * 2, LONGEST_PAUSE_S), now_s)
        elif self._failures_count >= TRIP_COUNT:
            self._open(FIRST_PAUSE_S, now_s)
            self._changed(self)

    def cancelled(self) -> None:
        """The call was given up for a reason that says nothing about the other side."""
        self._is_probing = False

    def _open(self, pause_s: float, now_s: float) -> None:
        self._pause_s = pause_s
        self._opens_again_s = now_s + pause_s
