"""ManageSieve's text (RFC 5804 section 4): words, quoted strings and literals, read from and written to both sides.
Sans-IO.

`SieveReader` gives whole lines as tuples of tokens: an atom is `bytes` in upper case, a string is `String`. A string
that came as a literal is the same as one in quotes. Response codes in parentheses come out flat, between the atoms
`(` and `)`; deeper ones too, so nothing is nested here.

Limits per line: `limit_bytes` for all of it, its literals included, and `MAX_TOKENS`. Literals are non-synchronising
(`{5+}`) from a client; a server sends plain ones. Beyond the limits, and for anything that is no token:
RemoteProtocolError, the rest cannot be read any more.
"""

import re
from dataclasses import dataclass

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.protocol.lines import LineBuffer

MAX_TOKENS = 64
MAX_QUOTED_BYTES = 1024

_TOKEN = re.compile(
    rb'(?P<quoted>"(?:[^"\\\r\n\x00]|\\["\\])*")|(?P<paren>[()])|(?P<atom>[^\s"(){}\x00-\x1f\x7f-\xff]+)'
)
_LITERAL = re.compile(rb"\{(\d{1,10})(\+?)\}$")
_ESCAPED = re.compile(rb'\\(["\\])')


@dataclass(frozen=True, slots=True)
class String:
    """A string, decoded."""

    value: bytes


Token = bytes | String


class SieveReader:
    """See the module. One per connection and direction."""

    __slots__ = ("_left_bytes", "_limit_bytes", "_lines", "_literal_bytes", "_needs_plus", "_tokens")

    def __init__(self, limit_bytes: int, *, needs_plus: bool) -> None:
        """`needs_plus`: literals must be non-synchronising, as those of clients must."""
        self._limit_bytes = self._left_bytes = limit_bytes
        self._lines = LineBuffer(limit_bytes)
        self._needs_plus = needs_plus
        self._tokens: list[Token] = []
        self._literal_bytes: int | None = None

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._lines.receive(data)

    @property
    def residue(self) -> bytes:
        """What is left after the lines that were taken."""
        return self._lines.residue

    def next_line(self) -> tuple[Token, ...] | None:
        """The tokens of the next line (none for an empty one), or None if more bytes are needed. Raises
        RemoteProtocolError."""
        while True:
            if self._literal_bytes is not None:
                data = self._lines.take(self._literal_bytes)
                if data is None:
                    return None
                self._literal_bytes = None
                self._add(String(data))
            line = self._lines.next_line()
            if line is None:
                return None
            self._spend(len(line))
            if not self._read(line):
                tokens, self._tokens = tuple(self._tokens), []
                self._left_bytes = self._limit_bytes
                return tokens

    def _read(self, line: bytes) -> bool:
        """Take one line's tokens. True if a literal follows."""
        match = _LITERAL.search(line)
        end = len(line) if match is None else match.start()
        at = 0
        while at < end:
            if line[at] == 0x20:
                at += 1
                continue
            token = _TOKEN.match(line, at, end)
            if token is None:
                raise RemoteProtocolError("not a word or a string")
            at = token.end()
            if (quoted := token["quoted"]) is not None:
                self._add(String(_ESCAPED.sub(rb"\1", quoted[1:-1])))
            else:
                self._add(token[0].upper())
        if match is None:
            return False
        if self._needs_plus and not match[2]:
            raise RemoteProtocolError("a literal must be written {n+}")
        self._literal_bytes = int(match[1])
        self._spend(self._literal_bytes)
        return True

    def _add(self, token: Token) -> None:
        if len(self._tokens) >= MAX_TOKENS:
            raise RemoteProtocolError(f"more than {MAX_TOKENS} words in a line")
        self._tokens.append(token)

    def _spend(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise RemoteProtocolError(f"a line with its literals is longer than {self._limit_bytes} bytes")


def write_string(value: bytes, *, literal: bytes = b"{%d}") -> bytes:
    """Write a string: in quotes, or as a literal where it must be. A client's `literal` is `{%d+}`. Raises
    LocalProtocolError for a NUL."""
    if b"\0" in value:
        raise LocalProtocolError("a NUL cannot be sent in ManageSieve")
    if len(value) > MAX_QUOTED_BYTES or b"\r" in value or b"\n" in value:
        return literal % len(value) + b"\r\n" + value
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
