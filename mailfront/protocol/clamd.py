"""clamd's INSTREAM dialogue, without I/O (clamd(8)): what to send around a message, and what the answer means.

One scan per connection: `OPENING`, then each piece as `chunk(piece)`, then `CLOSING`; clamd answers one line that ends
in NUL and closes. It may answer before everything was sent: when the stream is longer than its `StreamMaxLength`.
"""

import re
from dataclasses import dataclass

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.printable import printable

OPENING = b"zINSTREAM\0"
CLOSING = b"\0\0\0\0"
_FOUND = re.compile(rb"stream: (.+) FOUND")


@dataclass(frozen=True, slots=True)
class Clean:
    """Nothing was found."""


@dataclass(frozen=True, slots=True)
class Infected:
    """A signature fits; `name` is its name, printable."""

    name: str


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The stream is longer than clamd's StreamMaxLength."""


@dataclass(frozen=True, slots=True)
class NotScanned:
    """clamd could not scan it; `reason` is its own word, printable."""

    reason: str


ClamdAnswer = Clean | Infected | TooLarge | NotScanned


def chunk_head(size_bytes: int) -> bytes:
    """What stands before a piece of that size."""
    return size_bytes.to_bytes(4, "big")


def read_answer(line: bytes) -> ClamdAnswer:
    """Read the answer, with or without its NUL. Raises RemoteProtocolError for an empty one."""
    text = line.rstrip(b"\0\r\n ")
    if not text:
        raise RemoteProtocolError("clamd closed the connection without an answer")
    if text == b"stream: OK":
        return Clean()
    if match := _FOUND.fullmatch(text):
        return Infected(printable(match[1], 120))
    if b"size limit exceeded" in text:
        return TooLarge()
    return NotScanned(printable(text, 200))
