"""When to try again, how much at once, and whose turn it is. Pure: time and randomness are arguments.

Retry: the configured waits, the last one repeating, each moved by up to a fifth, so that what failed together is not
tried together. Window: how many transactions a node gets at once; it grows by one per full window of successes and is
halved by each failure of the node. A node that returns begins with a tenth and doubles every five seconds. Turn: round
robin over the nodes that have something due.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailfront.mail.names import NodeId

FIRST_WINDOW = 2
SLOW_START_SHARE = 0.1
SLOW_START_STEP_S = 5.0
_JITTER = 0.2


def next_attempt_s(now_s: float, attempts_count: int, retry_s: Sequence[float], chance: float) -> float:
    """When to try again after `attempts_count` (at least 1) attempts. `chance` is a random number in 0..1."""
    wait_s = retry_s[min(max(attempts_count, 1), len(retry_s)) - 1]
    return now_s + wait_s * (1.0 + _JITTER * (2.0 * chance - 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How many transactions one node gets at once: `size`, in 1..`most`. `good_count`: successes since it changed."""

    most: int
    size: int = FIRST_WINDOW
    good_count: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.most:
            object.__setattr__(self, "size", min(max(self.size, 1), max(self.most, 1)))

    def succeeded(self) -> "Window":
        """A transaction was answered 2xx: one more slot after a full window of them."""
        if self.size >= self.most:
            return replace(self, good_count=0) if self.good_count else self
        if self.good_count + 1 >= self.size:
            return replace(self, size=self.size + 1, good_count=0)
        return replace(self, good_count=self.good_count + 1)

    def node_failed(self) -> "Window":
        """The node failed as a whole (not one mailbox): half as many."""
        return replace(self, size=max(1, self.size // 2), good_count=0)


def slow_start_limit(most: int, returned_s: float | None, now_s: float) -> int:
    """How many transactions a node may get that returned at `returned_s`: a tenth, doubled every five seconds, until
    `most`. None: it has not been away."""
    if returned_s is None:
        return most
    doublings = min(max(0.0, now_s - returned_s) // SLOW_START_STEP_S, 16.0)
    return max(1, min(most, int(most * SLOW_START_SHARE * 2.0**doublings)))


def queue_slots(window: Window, returned_s: float | None, now_s: float, *, in_use: int) -> int:
    """How many more transactions the queue may begin at a node now.

    New mail keeps half of the node's connections (of one connection, none: it waits a second and is queued).
    """
    share = max(1, window.most // 2)
    allowed = min(window.size, share, slow_start_limit(window.most, returned_s, now_s))
    return max(0, allowed - in_use)


def turns(nodes: Sequence[NodeId], last: NodeId | None) -> tuple[NodeId, ...]:
    """The nodes in the order in which they get their turn: the one after `last` first."""
    ordered = sorted(nodes)
    split = next((index for index, node in enumerate(ordered) if last is not None and node > last), 0)
    return tuple(ordered[split:] + ordered[:split])
