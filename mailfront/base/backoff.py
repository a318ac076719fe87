"""How long to wait before the next try. Pure."""

import random


def exponential_s(failures_count: int, *, first_s: float, most_s: float) -> float:
    """First wait `first_s`, doubled per further failure, never above `most_s`; no jitter."""
    return min(most_s, first_s * 2.0 ** min(max(failures_count - 1, 0), 32))


def jittered_s(delay_s: float, spread: float = 0.2) -> float:
    """Move a delay by up to +-`spread` of itself, so that many waiters do not wake together."""
    return delay_s * random.uniform(1.0 - spread, 1.0 + spread)
