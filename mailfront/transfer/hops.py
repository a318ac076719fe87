"""Next hops as the queue runner sees them, and when one that does not work is tried again.

A storage node has a prober and a state of its own. A next hop (the smarthost, the look-up of addresses) has not: it is
known by what attempts there come to. After an attempt that failed because of the hop itself nothing is tried there for
a while, each time longer; the first that works ends that, and everything that waited because of the hop is due at once.
An administrator's `queue retry` does not wait for the end of a pause: he may have mended it.
"""

from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Protocol

from mailfront.base.backoff import exponential_s
from mailfront.mail.body import BodyRef
from mailfront.mail.outcome import Outcome
from mailfront.queue.rows import Claimed

SLOT_WAIT_S = 30.0
"""How long a claimed message waits for a free connection."""
FIRST_PAUSE_S = 5.0
MOST_PAUSE_S = 300.0


class NextHop(Protocol):
    """Something that takes claimed rows which are for no mailbox."""

    async def attempt(
        self, claimed: Claimed, body: BodyRef, before_dot: Callable[[], Awaitable[None]]
    ) -> Mapping[int, Outcome]:
        """Try the rows. Returns outcomes by recipient number; a row without one has been changed already.

        `before_dot` is to be called before anything is sent that cannot be taken back; it raises Unavailable to stop.
        """
        ...


class HopPause:
    """When one hop may be tried. Pure: time is an argument."""

    def __init__(self, first_s: float = FIRST_PAUSE_S) -> None:
        self._first_s = first_s
        self._failures_count = 0
        self._until_s = 0.0

    def may_try(self, now_s: float) -> bool:
        """Whether it is worth trying now."""
        return now_s >= self._until_s

    def left_s(self, now_s: float) -> float:
        """How long it is not to be tried yet; infinity if it may be."""
        return inf if self.may_try(now_s) else self._until_s - now_s

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed because of the hop."""
        return self._failures_count > 0

    def failed(self, now_s: float) -> None:
        """An attempt failed because of the hop. Attempts that began together count once."""
        if now_s < self._until_s:
            return
        self._failures_count += 1
        self._until_s = now_s + exponential_s(self._failures_count, first_s=self._first_s, most_s=MOST_PAUSE_S)

    def hurry(self) -> None:
        """Somebody wants it tried now: it may be, once; if that fails, the pauses go on where they were."""
        self._until_s = 0.0

    def worked(self) -> bool:
        """The hop did its part. Returns whether it had failed before."""
        was_failing, self._failures_count, self._until_s = self.is_failing, 0, 0.0
        return was_failing
