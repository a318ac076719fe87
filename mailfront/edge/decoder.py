"""Where a message ends and what its lines are: DATA (RFC 5321 sections 4.1.1.4, 4.5.2) and BDAT (RFC 3030). Sans-IO.

End of data is CRLF.CRLF and nothing else, wherever the pieces are cut. What comes out always has CRLF line ends: a
bare LF ends a line and becomes CRLF, a bare CR becomes a space; or, if bare newlines are refused, `has_bare_newline`
tells and nothing more comes out. So nobody behind us can see an end of data that we did not see (SMTP smuggling).
Dots are un-stuffed in DATA, never in BDAT. Lines may be of any length.

No work is done per line. A decoder holds back at most 4 bytes between two pieces; the same bytes cut in any way give
the same output.
"""

import io
import re

from mailfront.protocol.dot_stuffing import find_line_dot

END_OF_DATA = b"\r\n.\r\n"
_DOT = b"\r\n."
_UNDECIDED = re.compile(rb"(?:\r?\n(?:\.\r?)?|\r)\Z")


def has_only_crlf(data: bytes) -> bool:
    """Whether every CR and LF in `data` is part of a CRLF."""
    # The newline decoder of the io module notes which line ends it met, in one pass in C: four times as fast as
    # counting CR, LF and CRLF.
    seen = io.IncrementalNewlineDecoder(None, False)
    seen.decode(data.decode("latin-1"), True)
    newlines = seen.newlines
    return newlines is None or newlines == "\r\n"


def with_crlf_only(data: bytes) -> bytes:
    """Make every bare LF a CRLF and every bare CR a space."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")


class DataDecoder:
    """Reads what follows DATA. Give it pieces until `is_done`; then `rest` holds what came after the end."""

    __slots__ = ("_at_start", "_held", "_normalize", "_seed_bytes", "has_bare_newline", "is_done", "rest")

    def __init__(self, *, normalize: bool) -> None:
        self._normalize = normalize
        self._at_start = True
        self._held = b""
        self._seed_bytes = 0
        self.has_bare_newline = False
        self.is_done = False
        self.rest = b""

    def receive(self, data: bytes) -> bytes:
        """Take the next piece (not empty). Returns the message bytes that are now certain; may be none."""
        if self._at_start:
            self._at_start = False
            if data[0] == 46:
                # The CRLF of the DATA command is the line end before a first dot.
                self._held, self._seed_bytes = b"\r\n", 2
        if self._held:
            data = self._held + data
        first_dot = find_line_dot(data, b"\r\n")
        end = data.find(END_OF_DATA, first_dot) if first_dot >= 0 else -1
        if end >= 0:
            self.is_done = True
            self.rest = data[end + 5 :]
            body = data[: end + 2]
        elif (held_bytes := _undecided_bytes(data)) > 0:
            self._held = data[-held_bytes:]
            body = data[:-held_bytes]
        else:
            self._held = b""
            body = data
        return self._decoded(body, stuffed=first_dot != end) if body else body

    def _decoded(self, body: bytes, *, stuffed: bool) -> bytes:
        if not has_only_crlf(body):
            self.has_bare_newline = True
            body = with_crlf_only(body)
            stuffed = True
        if self.has_bare_newline and not self._normalize:
            return b""
        if stuffed:
            body = body.replace(_DOT, b"\r\n")
        if self._seed_bytes:
            body = body[self._seed_bytes :]
            self._seed_bytes = 0
        return body


def _undecided_bytes(data: bytes) -> int:
    """How many bytes at the end could still be part of a line end, a stuffed dot or the end of data."""
    if data[-1] not in b"\r\n.":
        return 0
    match = _UNDECIDED.search(data, max(0, len(data) - 4))
    return len(data) - match.start() if match is not None else 0


class ChunkDecoder:
    """Reads the chunks of one message that comes by BDAT: line ends as in DATA, dots untouched."""

    __slots__ = ("_held", "_normalize", "has_bare_newline")

    def __init__(self, *, normalize: bool) -> None:
        self._normalize = normalize
        self._held = b""
        self.has_bare_newline = False

    def receive(self, data: bytes) -> bytes:
        """Take the next piece (not empty). Returns the message bytes that are now certain; may be none."""
        if self._held:
            data = self._held + data
            self._held = b""
        if data[-1] == 13:
            self._held = b"\r"
            data = data[:-1]
        return self._decoded(data)

    def finish(self) -> bytes:
        """The last chunk has ended. Returns what was still undecided."""
        held, self._held = self._held, b""
        return self._decoded(held)

    def _decoded(self, body: bytes) -> bytes:
        if body and not has_only_crlf(body):
            self.has_bare_newline = True
            body = with_crlf_only(body)
        return b"" if self.has_bare_newline and not self._normalize else body
