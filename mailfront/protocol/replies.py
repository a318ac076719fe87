"""Reading SMTP and LMTP replies (RFC 5321 section 4.2) out of a byte stream. Sans-IO.

Bytes go in as they come, in any pieces; whole replies come out, in order. A line may end in CRLF or in a bare LF. All
lines of one reply must carry the same code. Codes 560..599, which some servers invent, count as 554: the first digit
is what a client acts on.

Limits: `MAX_LINE_BYTES` per line, `MAX_REPLY_LINES` lines and `MAX_REPLY_BYTES` bytes per reply. Beyond them, and for
anything that is not a reply, RemoteProtocolError: the stream cannot be trusted any more.
"""

from dataclasses import replace
from functools import lru_cache

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.printable import printable
from mailfront.mail.reply import Reply, reply_from_peer

MAX_LINE_BYTES = 4096
MAX_REPLY_LINES = 128
MAX_REPLY_BYTES = 32 * 1024
_DIGITS = frozenset(b"0123456789")
_SPACE, _HYPHEN = b" -"


class ReplyReader:
    """Turns a peer's bytes into replies. One per connection; `receive`, then `next_reply` until it gives None."""

    __slots__ = ("_buffer", "_code", "_lines", "_scanned", "_size_bytes", "_start")

    def __init__(self) -> None:
        self._buffer = b""
        self._start = 0
        self._scanned = 0
        self._code = 0
        self._lines: list[bytes] = []
        self._size_bytes = 0

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        rest = self._buffer[self._start :]
        self._buffer = rest + data if rest else data
        self._scanned -= self._start
        self._start = 0

    @property
    def has_residue(self) -> bool:
        """Whether bytes are left after the replies that were taken. Asked before TLS starts and on idle."""
        return self._start < len(self._buffer) or bool(self._lines)

    def next_reply(self) -> Reply | None:
        """The next whole reply, or None if more bytes are needed. Raises RemoteProtocolError."""
        while True:
            start = self._start
            end = self._buffer.find(b"\n", self._scanned)
            if (end if end >= 0 else len(self._buffer)) - start > MAX_LINE_BYTES:
                raise RemoteProtocolError(f"a reply line is longer than {MAX_LINE_BYTES} bytes")
            if end < 0:
                self._scanned = len(self._buffer)
                return None
            self._start = self._scanned = end + 1
            line = self._buffer[start:end]
            if line.endswith(b"\r"):
                line = line[:-1]
            if not self._lines and line[3:4] != b"-":
                return _single(line)
            reply = self._add(line)
            if reply is not None:
                return reply

    def _add(self, line: bytes) -> Reply | None:
        """Take one line of a reply that has several."""
        code, last, text = _split(line)
        if self._lines and code != self._code:
            raise RemoteProtocolError(f"a reply changes its code from {self._code} to {code}")
        self._code = code
        self._lines.append(text)
        self._size_bytes += len(line)
        if len(self._lines) > MAX_REPLY_LINES or self._size_bytes > MAX_REPLY_BYTES:
            raise RemoteProtocolError(f"a reply has more than {MAX_REPLY_LINES} lines or {MAX_REPLY_BYTES} bytes")
        if not last:
            return None
        lines, self._lines, self._size_bytes = self._lines, [], 0
        reply = reply_from_peer(code, lines)
        if not reply.enhanced:
            # Cyrus explains first and puts the enhanced code into the last line.
            later = [
                other.enhanced for other in (reply_from_peer(code, [line]) for line in lines[1:]) if other.enhanced
            ]
            return replace(reply, enhanced=later[-1]) if later else reply
        return reply


# The replies to MAIL, RCPT and DATA are the same few lines all day.
@lru_cache(maxsize=512)
def _single(line: bytes) -> Reply:
    code, _, text = _split(line)
    return reply_from_peer(code, [text])


def _split(line: bytes) -> tuple[int, bool, bytes]:
    """Split `250-text` into code, whether it is the last line, and text."""
    if len(line) < 3 or not _DIGITS.issuperset(line[:3]):
        raise RemoteProtocolError(f"not a reply: {printable(line, 80)!r}")
    separator = line[3] if len(line) > 3 else _SPACE
    code = int(line[:3])
    if separator not in (_SPACE, _HYPHEN) or not 200 <= code <= 599:
        raise RemoteProtocolError(f"not a reply: {printable(line, 80)!r}")
    return (code if code < 560 else 554), separator == _SPACE, line[4:]
