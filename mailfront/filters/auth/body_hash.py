"""The body hashes of DKIM and ARC (RFC 6376 section 3.4), piece by piece: a body in a file is never read whole.

Runs in a thread. Between pieces, and while it hashes, it lets the event loop run. Every step is linear in the size of
the body, whatever is in it.
"""

import hashlib
import re
from collections.abc import Iterable

_BLANKS = re.compile(rb"[ \t]+")
_SPACE = b" \t\r\n"


class BodyHasher:
    """The SHA-256 of one body under one canonicalisation; line ends in it are CRLF."""

    def __init__(self, *, relaxed: bool) -> None:
        self._relaxed = relaxed
        self._hash = hashlib.sha256()
        self._kept: list[bytes] = []
        self._is_empty = True

    def update(self, piece: bytes) -> None:
        """Take the next piece. White space at its end is kept until it is known whether the body ends there."""
        content = piece.rstrip(_SPACE)
        if not content:
            self._kept.append(piece)
            return
        if self._kept:
            self._kept.append(content)
            self._hash_text(b"".join(self._kept))
        else:
            self._hash_text(content)
        self._kept = [piece[len(content) :]]

    def digest(self) -> bytes:
        """The hash; nothing may follow."""
        rest = b"" if self._relaxed else b"".join(self._kept).rstrip(b"\r\n")
        if rest:
            self._hash_text(rest)
        if not self._is_empty or not self._relaxed:
            self._hash.update(b"\r\n")
        return self._hash.digest()

    def _hash_text(self, text: bytes) -> None:
        self._is_empty = False
        if self._relaxed:
            # First the runs, then the ends of lines: one expression for both would be quadratic.
            text = _BLANKS.sub(b" ", text).replace(b" \r\n", b"\r\n")
        self._hash.update(text)


def body_hash(pieces: Iterable[bytes], *, relaxed: bool) -> bytes:
    """The hash of a body in pieces."""
    hasher = BodyHasher(relaxed=relaxed)
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()
