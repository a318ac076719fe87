"""Message ids: one name for a message in the reply, the queue, the log, `trace` and the `Mailfront-Id` header.

An id is 16 characters of Crockford base32: 48 bits of wall-clock milliseconds, then 32 random bits. Ids sort by
time. Two front ends that accept a message in the same millisecond differ with probability 1 - 2**-32.
"""

import os
import re
from array import array
from typing import NewType

MessageId = NewType("MessageId", str)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_pool: list[int] = []
_SHAPE = re.compile(f"[{_ALPHABET}]{{16}}")


def new_message_id(wall_s: float) -> MessageId:
    """Make an id for a message that arrived at `wall_s` (seconds since 1970)."""
    bits = (int(wall_s * 1000) & (2**48 - 1)) << 32 | _random_bits()
    pairs = _PAIRS
    return MessageId("".join([pairs[bits >> shift & 1023] for shift in range(70, -10, -10)]))


def _random_bits() -> int:
    """32 random bits. The kernel is asked for 1,024 numbers at a time: a call per message would be a system call."""
    if not _pool:
        _pool.extend(array("I", os.urandom(4096)))
    return _pool.pop()


def is_message_id(text: str) -> bool:
    """Whether `text` has the shape of an id. Use it before a value from outside becomes part of a query or path."""
    return _SHAPE.fullmatch(text) is not None
