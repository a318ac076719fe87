"""How fast sessions come to and leave a node. Pure: time in, time or a verdict out.

`Partings`: a node that dies ends all its sessions in one moment; if their clients were all told in that moment, all
would come back in it. A few unexpected ends per second are passed on at once, further ones over the next
max(5 s, sessions / 200 s), at random.

`LoginRate`: a node that has returned gets a tenth of the full rate of logins, and twice as many every 5 s, until it has
the full rate.
"""

import random

AT_ONCE_COUNT = 10
LEAST_SPREAD_S = 5.0
PARTINGS_PER_S = 200.0

FULL_RATE_PER_S = 200.0
FIRST_SHARE = 0.1
DOUBLES_EVERY_S = 5.0


def spread_s(sessions_count: int) -> float:
    """Over how many seconds so many clients are let go."""
    return max(LEAST_SPREAD_S, sessions_count / PARTINGS_PER_S)


class Partings:
    """Unexpected ends of one node's sessions."""

    __slots__ = ("_count", "_largest_count", "_second")

    def __init__(self) -> None:
        self._second = -1.0
        self._count = 0
        self._largest_count = 0

    def delay_s(self, now_s: float, sessions_count: int) -> float:
        """How long this client is kept before it is told. `sessions_count`: the node's sessions now, this one too."""
        if now_s - self._second >= 1.0:
            self._second, self._count, self._largest_count = now_s, 0, sessions_count
        self._count += 1
        self._largest_count = max(self._largest_count, sessions_count)
        if self._count <= AT_ONCE_COUNT:
            return 0.0
        return random.uniform(0.0, spread_s(self._largest_count))


def allowed_per_s(since_return_s: float, full_per_s: float = FULL_RATE_PER_S) -> float:
    """The rate of logins that a node gets so long after its return."""
    steps = max(0.0, since_return_s) // DOUBLES_EVERY_S
    return full_per_s if steps > 16 else min(full_per_s, full_per_s * FIRST_SHARE * 2.0**steps)


class LoginRate:
    """Logins at one node. Without a limit, except for a while after the node's return."""

    __slots__ = ("_next_s", "_returned_s")

    def __init__(self) -> None:
        self._returned_s = -1e9
        self._next_s = 0.0

    def returned(self, now_s: float) -> None:
        """The node can be used again."""
        self._returned_s = self._next_s = now_s

    def reserve(self, now_s: float, until_s: float) -> float | None:
        """The moment at which the next login may go to the node; None if that is after `until_s` (nothing is then
        reserved)."""
        rate = allowed_per_s(now_s - self._returned_s)
        if rate >= FULL_RATE_PER_S:
            return now_s
        slot_s = max(now_s, self._next_s)
        if slot_s > until_s:
            return None
        self._next_s = slot_s + 1.0 / rate
        return slot_s
