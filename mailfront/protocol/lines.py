"""Whole lines out of a byte stream, with a bound. Sans-IO; for the login dialogues of POP3 and ManageSieve.

A line ends in CRLF or a bare LF. What follows the lines that were taken stays here: `residue` asks for it when a
dialogue changes hands (TLS, relay), `take` gives so many bytes whatever they are.
"""

from mailfront.base.errors import RemoteProtocolError


class LineBuffer:
    """See the module. One per connection; an empty one holds no memory."""

    __slots__ = ("_buffer", "_limit_bytes", "_scanned", "_start")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = b""
        self._start = 0
        self._scanned = 0

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        rest = self._buffer[self._start :]
        self._buffer = rest + data if rest else data
        self._scanned -= self._start
        self._start = 0

    @property
    def residue(self) -> bytes:
        """What is left after what was taken."""
        return self._buffer[self._start :]

    def next_line(self) -> bytes | None:
        """The next line without its end, or None if more bytes are needed. Raises RemoteProtocolError beyond the
        limit."""
        end = self._buffer.find(b"\n", self._scanned)
        if (end if end >= 0 else len(self._buffer)) - self._start > self._limit_bytes:
            raise RemoteProtocolError(f"a line is longer than {self._limit_bytes} bytes")
        if end < 0:
            self._scanned = len(self._buffer)
            return None
        line = self._buffer[self._start : end].removesuffix(b"\r")
        self._start = self._scanned = end + 1
        return line

    def take(self, size_bytes: int) -> bytes | None:
        """The next `size_bytes` bytes, or None if there are not yet so many."""
        if len(self._buffer) - self._start < size_bytes:
            return None
        data = self._buffer[self._start : self._start + size_bytes]
        self._start = self._scanned = self._start + size_bytes
        return data
