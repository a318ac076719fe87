"""IMAP's text: strings that we send, and the lines that a server sends (RFC 3501 section 9, RFC 9051). Pure.

Only what a client needs that logs in, searches, fetches whole messages and deletes them. A server's free text is made
printable here; nothing of it is believed.
"""

import re
from base64 import b64encode
from dataclasses import dataclass
from enum import Enum

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.base.printable import printable

MOST_QUOTED_BYTES = 1000

_LITERAL_MARK = b"\0literal:"
_QUOTABLE = re.compile(rb"[\x20-\x7e]*")
_STATUS = re.compile(rb"(OK|NO|BAD|PREAUTH|BYE)(?: (?:\[([^\]]*)\] ?)?(.*))?", re.IGNORECASE | re.DOTALL)
_LITERAL_END = re.compile(rb"~?\{(\d{1,12})\+?\}$")
_BODY = re.compile(rb"(?<![^ (])BODY\[\](?:<\d{1,12}>)? $", re.IGNORECASE)
_BODY_INLINE = re.compile(rb'(?<![^ (])BODY\[\](?:<\d{1,12}>)? (NIL|"(?:[^"\\\r\n]|\\["\\])*")(?=[ )])', re.IGNORECASE)
_FETCH = re.compile(rb"\d{1,10} FETCH \(", re.IGNORECASE)
# An open quote swallows the rest: looking for its end again at each further quote would take time without bound.
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*+"?')
_UID = re.compile(rb"(?<![^ (])UID (\d{1,10})(?=[ )])", re.IGNORECASE)
_LIST = re.compile(
    rb'LIST \(([^()]*)\) (?:"(?:[^"\\]|\\.)"|NIL) ("(?:[^"\\]|\\["\\])*"|[!#$&-\[\]^-z|}~]+)', re.IGNORECASE
)
_NUMBER_LIST = re.compile(rb"(?: \d{1,10})*")


class Status(Enum):
    """How a command ended, or what an untagged status line says."""

    OK = "OK"
    NO = "NO"
    BAD = "BAD"
    PREAUTH = "PREAUTH"
    BYE = "BYE"


@dataclass(frozen=True, slots=True)
class StatusLine:
    """A status with its response code (upper case, '' if none) and its text, both printable."""

    status: Status
    code: str
    text: str


def parse_status(line: bytes) -> StatusLine | None:
    """Read what follows a tag or `* `. None if it is no status line."""
    match = _STATUS.fullmatch(line)
    if match is None:
        return None
    status, code, text = match.groups()
    return StatusLine(Status(status.decode().upper()), printable(code or b"", 4096).upper(), printable(text or b""))


def octets(text: str) -> bytes:
    """Text as it travels. Raises LocalProtocolError for what UTF-8 cannot write."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError("a string that is not Unicode text cannot be sent") from error


def astring(value: bytes) -> bytes | None:
    """Write a string in quotes. None if it has to travel as a literal. Raises LocalProtocolError for a NUL."""
    if b"\0" in value:
        raise LocalProtocolError("a NUL cannot be sent in IMAP")
    if len(value) > MOST_QUOTED_BYTES or _QUOTABLE.fullmatch(value) is None:
        return None
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def command_pieces(*parts: bytes) -> list[bytes]:
    """Cut a command line at its literals: each piece but the last waits for the server's `+` before the next is sent.

    A part that is a string of ours is written by `quoted`; other parts go out as they are.
    """
    pieces, line = [], b""
    for part in parts:
        if part.startswith(_LITERAL_MARK):
            value = part.removeprefix(_LITERAL_MARK)
            pieces.append(line + b"{%d}\r\n" % len(value))
            line = value
        else:
            line += part
    pieces.append(line + b"\r\n")
    return pieces


def quoted(value: bytes) -> bytes:
    """A string as a part for `command_pieces`: in quotes, or marked to be sent as a literal."""
    return astring(value) or _LITERAL_MARK + value


def sasl_plain(authorize: bytes, user: bytes, password: bytes) -> bytes:
    """SASL PLAIN (RFC 4616) in base64: log in as `user`, act as `authorize` ('' for the same)."""
    if any(b"\0" in part for part in (authorize, user, password)):
        raise LocalProtocolError("a NUL cannot be part of a name or a password")
    return b64encode(b"\0".join((authorize, user, password)))


def literal_size(line: bytes) -> int | None:
    """How many bytes of literal follow this line, or None. Not for status lines: their text is free."""
    match = _LITERAL_END.search(line)
    return None if match is None else int(match[1])


def body_follows(line: bytes) -> bool:
    """Whether the literal announced at the end of a FETCH response's line is the message."""
    match = _LITERAL_END.search(line)
    return match is not None and _BODY.search(_QUOTED.sub(b'""', line[: match.start()])) is not None


def inline_body(line: bytes) -> bytes | None:
    """The message where a FETCH response carries it in quotes (or NIL: empty), or None."""
    match = _BODY_INLINE.search(line)
    if match is None:
        return None
    return b"" if match[1].upper() == b"NIL" else re.sub(rb"\\(.)", rb"\1", match[1][1:-1])


def is_fetch(line: bytes) -> bool:
    """Whether this (what follows `* `) begins a FETCH response."""
    return _FETCH.match(line) is not None


def fetch_uid(text: bytes) -> int | None:
    """The UID in a FETCH response without its literals, or None."""
    match = _UID.search(_QUOTED.sub(b'""', text))
    return None if match is None else int(match[1])


def search_uids(line: bytes) -> list[int] | None:
    """The numbers of a SEARCH response (what follows `* `), or None if it is none. Raises RemoteProtocolError."""
    if line[:6].upper() != b"SEARCH":
        return None
    rest = line[6:].rstrip(b" ")
    if _NUMBER_LIST.fullmatch(rest) is None:
        raise RemoteProtocolError(f"a SEARCH response that is no list of numbers: {printable(line, 80)}")
    return [int(number) for number in rest.split()]


def capabilities(line: bytes) -> frozenset[str] | None:
    """The names of a CAPABILITY response or response code, or None if it is none."""
    words = printable(line, 8192).upper().split()
    return frozenset(words[1:]) if words[:1] == ["CAPABILITY"] else None


def folder_name(line: bytes) -> str | None:
    """The folder of a LIST response (what follows `* `) as the server writes it, '' if it cannot be selected; None if
    this is no such response, or its name is a literal."""
    match = _LIST.fullmatch(line)
    if match is None:
        return None
    if b"\\noselect" in match[1].lower() or b"\\nonexistent" in match[1].lower():
        return ""
    name = match[2]
    if name.startswith(b'"'):
        name = re.sub(rb"\\(.)", rb"\1", name[1:-1])
    return name.decode("ascii", "replace") if name.isascii() else ""
