"""Reads an IMAP client's commands before it is logged in (RFC 3501 section 9, RFC 7888). Sans-IO.

A command is a tag, a name and arguments: atoms, quoted strings, literals, and one level of parentheses (ID needs it).
`CommandReader.next` gives a whole `Command`, asks for a `Literal` to be allowed, or reports a `Malformed` line. Where
nobody can tell how the client would go on (a non-synchronising literal behind a mistake, or one that is too large, a
line without end) it raises RemoteProtocolError: the dialogue must end.

Limits: a line 8 KiB, all literals of a command together 8 KiB, 64 arguments. What is kept is never more than that.
"""

import re
from dataclasses import dataclass
from enum import Enum

from mailfront.base.errors import RemoteProtocolError
from mailfront.protocol.login_dialogue import MAX_LINE_BYTES, MAX_LITERAL_BYTES

MAX_ARGUMENTS = 64

_HEAD = re.compile(rb"([^\x00-\x20\x7f-\xff(){%*\"\\+]{1,64}) ([A-Za-z0-9]{1,32})(?: (.*))?", re.DOTALL)
_TAG = re.compile(rb"([^\x00-\x20\x7f-\xff(){%*\"\\+]{1,64})(?: |\Z)")
_TOKEN = re.compile(
    rb'"((?:[^"\\\x00\r\n]|\\["\\])*+)"|\{(\d{1,10})(\+?)\}\Z|([^\x00-\x20\x7f-\xff(){"\\)]+)|([()])', re.DOTALL
)
_LITERAL_END = re.compile(rb"\{\d{1,10}\+\}\Z")
_ESCAPED = re.compile(rb"\\(.)")


class Mark(Enum):
    """A parenthesis among the arguments."""

    OPEN = "("
    CLOSE = ")"


Argument = bytes | Mark


@dataclass(frozen=True, slots=True)
class Command:
    """One whole command. `name` is upper case; `rest` is what stood behind it, where no arguments were read."""

    tag: str
    name: str
    arguments: tuple[Argument, ...]
    rest: bytes


@dataclass(frozen=True, slots=True)
class Literal:
    """The client asks whether it may send a literal. Say so (`+`), or `CommandReader.forget` and answer the tag."""

    tag: str
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line that is no command. `tag` is '*' if it has none."""

    tag: str
    reason: str


class _Mistake(Exception):
    """What is wrong with the arguments."""


class CommandReader:
    """See the module. `with_arguments`: commands whose arguments are read; others get theirs as `rest`."""

    def __init__(self, with_arguments: frozenset[str]) -> None:
        self._with_arguments = with_arguments
        self._buffer = b""
        self._start = 0
        self._searched = 0
        self.forget()

    @property
    def unread(self) -> bytes:
        """What was received and not read."""
        return self._buffer[self._start :]

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._start >= len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._start :] + data
        self._searched = max(0, self._searched - self._start)
        self._start = 0

    def forget(self) -> None:
        """Drop the command that is half read: its literal is not wanted."""
        self._tag = self._name = ""
        self._arguments: list[Argument] = []
        self._depth = 0
        self._literal_bytes: int | None = None
        self._literals_bytes = 0

    def take_line(self) -> bytes | None:
        """The next line without its end, or None if it is not complete. Raises RemoteProtocolError if it is too long,
        or has a NUL or a bare CR."""
        end = self._buffer.find(b"\n", max(self._searched, self._start))
        if (end if end >= 0 else len(self._buffer)) - self._start > MAX_LINE_BYTES:
            raise RemoteProtocolError("line_length")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = self._buffer[self._start : end].removesuffix(b"\r")
        self._start = self._searched = end + 1
        return line

    def next(self) -> Command | Literal | Malformed | None:
        """The next whole command, or a question, or None if more bytes are needed. Raises RemoteProtocolError."""
        if self._literal_bytes is not None and not self._take_literal(self._literal_bytes):
            return None
        line = self.take_line()
        if line is None:
            return None
        if self._tag:
            return self._read_on(line)
        if b"\0" in line or b"\r" in line:
            return self._malformed(_tag_of(line), line, "a NUL or CR inside a line")
        match = _HEAD.fullmatch(line)
        if match is None:
            return self._malformed(_tag_of(line), line, "not a command")
        tag, name, rest = match.groups()
        self._tag, self._name = tag.decode(), name.decode().upper()
        if self._name in self._with_arguments and rest is not None:
            return self._read_on(b" " + rest)
        if rest is not None and _LITERAL_END.search(rest):
            return self._malformed(self._tag, line, "a literal where none is taken")
        return self._done(rest or b"")

    def _take_literal(self, size_bytes: int) -> bool:
        end = self._start + size_bytes
        if len(self._buffer) < end:
            return False
        self._arguments.append(self._buffer[self._start : end])
        self._start = self._searched = end
        self._literal_bytes = None
        return True

    def _done(self, rest: bytes) -> Command:
        command = Command(self._tag, self._name, tuple(self._arguments), rest)
        self.forget()
        return command

    def _malformed(self, tag: str, line: bytes, reason: str) -> Malformed:
        if _LITERAL_END.search(line):
            # The literal comes whatever we say, and must not be read as commands.
            raise RemoteProtocolError("syntax")
        self.forget()
        return Malformed(tag, reason)

    def _read_on(self, line: bytes) -> Command | Literal | Malformed | None:
        """Read arguments up to the end of the line, or to a literal there."""
        try:
            literal = self._scan(line)
        except _Mistake as mistake:
            return self._malformed(self._tag, line, str(mistake))
        if literal is None:
            if self._depth:
                return self._malformed(self._tag, line, "a parenthesis is not closed")
            return self._done(b"")
        size_bytes, is_announced_only = literal
        self._literals_bytes += size_bytes
        if self._literals_bytes > MAX_LITERAL_BYTES:
            tag = self._tag
            self.forget()
            if not is_announced_only:
                raise RemoteProtocolError("literal_size")
            return Malformed(tag, "a literal that is too large")
        self._literal_bytes = size_bytes
        return Literal(self._tag, self._name, size_bytes) if is_announced_only else self.next()

    def _scan(self, line: bytes) -> tuple[int, bool] | None:
        """Append the line's arguments. Returns the literal that it ends with: its size, and whether it waits for us."""
        position = 0
        while position < len(line):
            after_open = bool(self._arguments) and self._arguments[-1] is Mark.OPEN
            if line[position : position + 1] == b" " and not after_open:
                position += 1
            elif not (after_open or line[position : position + 1] == b")"):
                raise _Mistake("a space is missing")
            match = _TOKEN.match(line, position)
            if match is None or len(self._arguments) >= MAX_ARGUMENTS:
                raise _Mistake("malformed or too many arguments")
            position = match.end()
            text, size, plus, atom, mark = match.groups()
            if size is not None:
                return int(size), not plus
            if mark is not None:
                self._nest(mark == b"(")
            elif atom is not None:
                self._arguments.append(atom)
            else:
                self._arguments.append(_ESCAPED.sub(rb"\1", text) if b"\\" in text else text)
        return None

    def _nest(self, is_open: bool) -> None:
        self._depth += 1 if is_open else -1
        if not 0 <= self._depth <= 1:
            raise _Mistake("parentheses are nested too deep, or not balanced")
        self._arguments.append(Mark.OPEN if is_open else Mark.CLOSE)


def _tag_of(line: bytes) -> str:
    match = _TAG.match(line)
    return match[1].decode() if match is not None else "*"
