"""The packets of the milter protocol, version 6: their numbers, the frames, and what a filter may answer. Sans-IO.

A packet is a length of four bytes, big-endian, then that many bytes, of which the first is the command. Everything a
filter says is decoded here into one of the `Answer` values and checked on the way: what is too long, lacks its NUL,
holds control characters, or has a reply code that is none raises RemoteProtocolError, and nothing else does.

The protocol has no RFC; the numbers are those of libmilter's `mfdef.h`, which all filters and servers share. Line ends
inside a header's value become CRLF, and only a line end that is followed by a blank (a fold) is allowed.

Limits: `MAX_PACKET_BYTES` per packet.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntFlag

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.printable import printable
from mailfront.mail.reply import Reply, reply_from_peer

VERSION = 6
MAX_PACKET_BYTES = 256 * 1024
BODY_PIECE_BYTES = 65535
_LENGTH = struct.Struct(">I")
_NEGOTIATION = struct.Struct(">III")
_FIELD_NAME = re.compile(rb"[!-9;-~]{1,200}")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BARE_LINE = re.compile(rb"\r\n(?![ \t])")
_SYMBOLS = re.compile(rb"[ ,]+")


class Stage(Enum):
    """The steps of a message that a filter sees, in order, by the number that its macro wishes use."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_MESSAGE = 5
    END_OF_HEADERS = 6


class Action(IntFlag):
    """What a filter may do to a message (SMFIF)."""

    ADD_HEADERS = 0x1
    CHANGE_BODY = 0x2
    ADD_RECIPIENTS = 0x4
    DELETE_RECIPIENTS = 0x8
    CHANGE_HEADERS = 0x10
    QUARANTINE = 0x20
    CHANGE_FROM = 0x40
    ADD_RECIPIENTS_WITH_PARAMETERS = 0x80
    CHOOSE_MACROS = 0x100


class Step(IntFlag):
    """What a filter does not want to be told (NO_), and what it will not answer (SILENT_) (SMFIP)."""

    NO_CONNECT = 0x1
    NO_HELO = 0x2
    NO_MAIL = 0x4
    NO_RCPT = 0x8
    NO_BODY = 0x10
    NO_HEADERS = 0x20
    NO_END_OF_HEADERS = 0x40
    SILENT_HEADER = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    SKIP = 0x400
    REJECTED_RECIPIENTS = 0x800
    SILENT_CONNECT = 0x1000
    SILENT_HELO = 0x2000
    SILENT_MAIL = 0x4000
    SILENT_RCPT = 0x8000
    SILENT_DATA = 0x10000
    SILENT_UNKNOWN = 0x20000
    SILENT_END_OF_HEADERS = 0x40000
    SILENT_BODY = 0x80000
    LEADING_SPACE = 0x100000


ALL_ACTIONS = Action(0x1FF)
ALL_STEPS = Step(0x1FFFFF) & ~Step.REJECTED_RECIPIENTS


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The filter's half of the negotiation. `macros`: the names it wants per stage; a stage not named: the usual."""

    version: int
    actions: Action
    steps: Step
    macros: dict[Stage, tuple[str, ...]]


class Decision(Enum):
    """Answers without content."""

    CONTINUE = "c"
    ACCEPT = "a"
    REJECT = "r"
    TEMPFAIL = "t"
    DISCARD = "d"
    SKIP = "s"
    PROGRESS = "p"
    SHUTDOWN = "4"
    CONNECTION_FAILURE = "f"


@dataclass(frozen=True, slots=True)
class ReplyWith:
    """Refuse with this reply, 4xx or 5xx."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class AddHeader:
    """Put a field behind the last one, or with an `index` before the field that stands there (0: in front)."""

    name: str
    value: bytes
    index: int | None = None


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    """Give the `index`-th field of this name (from 1) another value; an empty value removes it."""

    name: str
    value: bytes
    index: int


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    """A piece of a new body; the pieces of one message follow each other."""

    piece: bytes


@dataclass(frozen=True, slots=True)
class AddRecipient:
    """Add this path. ESMTP parameters that the filter wrote behind it are dropped."""

    path: str


@dataclass(frozen=True, slots=True)
class DeleteRecipient:
    """Take this path out."""

    path: str


@dataclass(frozen=True, slots=True)
class ChangeFrom:
    """Give the message this reverse-path; '' is the null one. ESMTP parameters behind it are dropped."""

    path: str


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Keep the message aside."""

    reason: str


Edit = AddHeader | ChangeHeader | ReplaceBody | AddRecipient | DeleteRecipient | ChangeFrom | Quarantine
Answer = Negotiated | Decision | ReplyWith | Edit

ACTION_OF_EDIT: dict[type[Edit], Action] = {
    AddHeader: Action.ADD_HEADERS | Action.CHANGE_HEADERS,
    ChangeHeader: Action.CHANGE_HEADERS,
    ReplaceBody: Action.CHANGE_BODY,
    AddRecipient: Action.ADD_RECIPIENTS | Action.ADD_RECIPIENTS_WITH_PARAMETERS,
    DeleteRecipient: Action.DELETE_RECIPIENTS,
    ChangeFrom: Action.CHANGE_FROM,
    Quarantine: Action.QUARANTINE,
}


class PacketReader:
    """Cuts a filter's bytes into packets. One per connection; `receive`, then `next_packet` until None."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def has_residue(self) -> bool:
        """Whether bytes are left after the packets that were taken."""
        return bool(self._buffer)

    def receive(self, data: bytes) -> None:
        """Take bytes from the filter."""
        self._buffer = self._buffer + data if self._buffer else data

    def next_packet(self) -> tuple[bytes, bytes] | None:
        """The next packet as command and content, or None if more bytes are needed. Raises RemoteProtocolError."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        (size_bytes,) = _LENGTH.unpack_from(buffer)
        if not 1 <= size_bytes <= MAX_PACKET_BYTES:
            raise RemoteProtocolError(f"a packet of {size_bytes} bytes; 1 to {MAX_PACKET_BYTES} are allowed")
        end = _LENGTH.size + size_bytes
        if len(buffer) < end:
            return None
        self._buffer = buffer[end:]
        return buffer[4:5], buffer[5:end]


def pack(command: bytes, content: bytes = b"") -> bytes:
    """One packet, ready to be written."""
    return _LENGTH.pack(len(content) + 1) + command + content


def pack_negotiation(actions: Action, steps: Step) -> bytes:
    """Our offer: what we can do for a filter and what it may decline to hear."""
    return pack(b"O", _NEGOTIATION.pack(VERSION, actions, steps))


def pack_texts(*texts: bytes) -> bytes:
    """Texts, each ended by NUL. A NUL inside would shift all that follows: it becomes a question mark."""
    return b"".join([text.replace(b"\0", b"?") + b"\0" for text in texts])


def decode(command: bytes, content: bytes) -> Answer:
    """What a filter said. Raises RemoteProtocolError for everything that is not well formed."""
    if command == b"O":
        return _negotiated(content)
    if command in _DECISIONS:
        return _DECISIONS[command]
    decoder = _DECODERS.get(command)
    if decoder is None:
        raise RemoteProtocolError(f"unknown packet {printable(command)!r}")
    return decoder(content)


_DECISIONS = {each.value.encode(): each for each in Decision}


def _negotiated(content: bytes) -> Negotiated:
    if len(content) < _NEGOTIATION.size:
        raise RemoteProtocolError("a negotiation that is too short")
    version, actions, steps = _NEGOTIATION.unpack_from(content)
    macros: dict[Stage, tuple[str, ...]] = {}
    rest = content[_NEGOTIATION.size :]
    while len(rest) >= 5:
        number = _LENGTH.unpack_from(rest)[0]
        text, found, rest = rest[4:].partition(b"\0")
        if not found or number >= len(Stage):
            raise RemoteProtocolError("a negotiation with a macro list that cannot be read")
        macros[Stage(number)] = tuple(printable(name, 64) for name in _SYMBOLS.split(text.strip()) if name)
    if rest.strip(b"\0"):
        raise RemoteProtocolError("a negotiation with bytes behind its end")
    return Negotiated(version, Action(actions & 0xFFFFFFFF), Step(steps & 0xFFFFFFFF), macros)


def _reply_with(content: bytes) -> ReplyWith:
    # libmilter doubles percent signs, because sendmail prints the text as a format.
    text = content.rstrip(b"\0").replace(b"%%", b"%")
    if not text[:3].isdigit() or text[:1] not in b"45" or text[3:4] not in (b" ", b"-", b""):
        raise RemoteProtocolError(f"not a reply that refuses: {printable(text, 60)!r}")
    code = int(text[:3])
    lines = [line[4:] for line in _LINE_END.split(text) if line] or [b""]
    if code > 559 or len(lines) > 32 or any(line[:3] != text[:3] for line in _LINE_END.split(text) if line):
        raise RemoteProtocolError(f"not a reply that refuses: {printable(text, 60)!r}")
    return ReplyWith(reply_from_peer(code, lines))


def _texts(content: bytes, at_least: int, at_most: int) -> list[bytes]:
    """Split texts that end in NUL; the last NUL may be missing or doubled, as some filters write it."""
    texts = content.split(b"\0")
    while len(texts) > at_least and not texts[-1]:
        texts.pop()
    if not at_least <= len(texts) <= at_most:
        raise RemoteProtocolError(f"a packet with {len(texts)} texts; {at_least} to {at_most} belong there")
    return texts


def _field(content: bytes) -> tuple[str, bytes]:
    name, value = _texts(content, 2, 2)
    value = _LINE_END.sub(b"\r\n", value)
    if _FIELD_NAME.fullmatch(name) is None or _BARE_LINE.search(value) is not None:
        raise RemoteProtocolError(f"a header field that cannot be written: {printable(name, 60)!r}")
    return name.decode("ascii"), value


def _indexed(content: bytes) -> tuple[int, bytes]:
    if len(content) < _LENGTH.size:
        raise RemoteProtocolError("a header edit without its index")
    return _LENGTH.unpack_from(content)[0], content[_LENGTH.size :]


def _add_header(content: bytes) -> AddHeader:
    return AddHeader(*_field(content))


def _insert_header(content: bytes) -> AddHeader:
    index, rest = _indexed(content)
    return AddHeader(*_field(rest), index)


def _change_header(content: bytes) -> ChangeHeader:
    index, rest = _indexed(content)
    return ChangeHeader(*_field(rest), max(index, 1))


def _path(content: bytes) -> str:
    try:
        path = _texts(content, 1, 2)[0].decode().strip()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("an address that is not UTF-8") from error
    if not path.isprintable() or len(path) > 1024:
        raise RemoteProtocolError("an address with control characters, or of more than 1024 characters")
    return path.removeprefix("<").removesuffix(">")


def _delete_recipient(content: bytes) -> DeleteRecipient:
    return DeleteRecipient(_path(content))


def _add_recipient(content: bytes) -> AddRecipient:
    return AddRecipient(_path(content))


def _change_from(content: bytes) -> ChangeFrom:
    return ChangeFrom(_path(content))


def _quarantine(content: bytes) -> Quarantine:
    return Quarantine(printable(content.rstrip(b"\0"), 200))


_DECODERS: dict[bytes, Callable[[bytes], Answer]] = {
    b"y": _reply_with,
    b"h": _add_header,
    b"i": _insert_header,
    b"m": _change_header,
    b"b": ReplaceBody,
    b"+": _add_recipient,
    b"2": _add_recipient,
    b"-": _delete_recipient,
    b"e": _change_from,
    b"q": _quarantine,
}
