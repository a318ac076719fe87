"""Takes a message apart (RFC 2045, 2046, 2183, 2231) as far as names, types and limits need it. Pure; blocks: call it
in a thread.

Bounded by construction: each part lies inside its parent's bytes, so no message contains itself; parts, levels, fields
and header bytes are counted, and the scan stops at the first that is one too many; boundaries are searched with `find`,
never line by line; archives are opened up to a size, a depth and a number of names. A delimiter line must fit exactly.

Where mail programs disagree, each reading counts: a name is taken from Content-Disposition and from Content-Type, as
the standard library reads it and as a plain search finds it, with and without RFC 2231 and RFC 2047.
"""

import binascii
import io
import quopri
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.utils import collapse_rfc2231_value
from fnmatch import translate

from mailfront.base.printable import printable
from mailfront.filters.headers import Headers

MOST_ARCHIVES_DEEP = 3
MOST_MEMBERS = 10_000
MOST_UNPACKED_BYTES = 64 * 1024 * 1024
MOST_NAME_CHARS = 1000
MOST_FIELD_BYTES = 4096
_NAME = re.compile(r"name\*?\d*\*?[ \t]*=[ \t\r\n]*(?:\"([^\"\r\n]*)\"?|([^\s;\"]+))", re.IGNORECASE)
_ZIP_NAMES = (".zip", ".jar", ".docx", ".docm", ".xlsx", ".xlsm", ".pptx", ".pptm", ".apk", ".xpi", ".war", ".odt")
_NO_MESSAGES = ("message/delivery-status", "message/partial", "message/external-body")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_TYPE, _DISPOSITION = "Content-Type", "Content-Disposition"


class TooMuch(Exception):
    """A limit is passed. Its text is for the sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """See the settings."""

    parts: int
    depth: int
    fields: int
    header_bytes: int
    archive_bytes: int
    archives: bool


@dataclass(slots=True)
class Patterns:
    """What is forbidden, as globs in lower case."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    _names: re.Pattern[str] | None = field(init=False, default=None)
    _types: re.Pattern[str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._names = _any_of(self.names)
        self._types = _any_of(self.types)

    def forbids_name(self, name: str) -> bool:
        """Whether any reading of a file's name fits. Windows drops dots and blanks at the end; some stop at NUL."""
        readings = {name, name.partition("\0")[0], name.replace("\\", "/").rpartition("/")[2]}
        return self._names is not None and any(
            self._names.match(each.strip().rstrip(". \t").lower()[-MOST_NAME_CHARS:]) for each in readings
        )

    def forbids_type(self, media_type: str) -> bool:
        """Whether a media type fits."""
        return self._types is not None and self._types.match(media_type.lower()[:MOST_NAME_CHARS]) is not None


def _any_of(globs: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(translate, globs))) if globs else None


def scan(message: bytes, patterns: Patterns, limits: Limits) -> str:
    """What is forbidden in a message, for people; '' if nothing is. Raises TooMuch."""
    count = 0
    unpacked = _Budget(MOST_UNPACKED_BYTES)
    # Bytes, start, end, level, and the type that a part without one has.
    left: list[tuple[bytes, int, int, int, str]] = [(message, 0, len(message), 1, "text/plain")]
    while left:
        data, start, end, level, default = left.pop()
        count += 1
        if count > limits.parts:
            raise TooMuch(f"more than {limits.parts} parts")
        if level > limits.depth:
            raise TooMuch(f"parts more than {limits.depth} levels deep")
        header, text_start = _header(data, start, end, limits)
        media_type = _media_type(header, default)
        if patterns.forbids_type(media_type):
            return f"type {printable(media_type, 100)}"
        names = list(_names(header))
        for name in names:
            if patterns.forbids_name(name):
                return f"name {printable(name, 100)}"
        if media_type.startswith("multipart/"):
            inner = "message/rfc822" if media_type == "multipart/digest" else "text/plain"
            room = limits.parts - count - len(left) + 1
            left += [(data, *piece, level + 1, inner) for piece in _pieces(data, text_start, end, header, room)]
        elif media_type.startswith("message/") and media_type not in _NO_MESSAGES:
            # RFC 2046 forbids to encode it; mail programs decode it all the same.
            if _encoding(header):
                data, text_start = _LINE_END.sub(b"\r\n", _plain(data[text_start:end], header)), 0
                end = len(data)
            left.append((data, text_start, end, level + 1, "text/plain"))
        elif limits.archives and _looks_like_archive(data, text_start, names):
            member = _forbidden_in_archive(data[text_start:end], header, patterns, limits, unpacked)
            if member:
                return f"name {printable(member, 100)} in an archive"
    return ""


def _header(message: bytes, start: int, end: int, limits: Limits) -> tuple[Headers, int]:
    """The header of the part that begins at `start`, and where its text begins. Raises TooMuch."""
    if message[start : start + 2] == b"\r\n":
        return Headers(b""), start + 2
    found = message.find(b"\r\n\r\n", start, min(end, start + limits.header_bytes + 4))
    header_end = found + 2 if found >= 0 else end
    if header_end - start > limits.header_bytes:
        raise TooMuch(f"a header of more than {limits.header_bytes} bytes")
    header = Headers(message[start:header_end])
    if len(header.fields) > limits.fields:
        raise TooMuch(f"a header of more than {limits.fields} fields")
    if len(header.all(_TYPE)) > 1:
        raise TooMuch("a header with more than one Content-Type")
    for name in (_TYPE, _DISPOSITION):
        # The standard library reads parameters in quadratic time.
        if any(len(each.raw) > MOST_FIELD_BYTES for each in header.all(name)):
            raise TooMuch(f"a {name} of more than {MOST_FIELD_BYTES} bytes")
    return header, min(header_end + 2, end)


def _media_type(header: Headers, default: str) -> str:
    found = re.match(r"[\s\"]*([^\s;\"/]+/[^\s;\"]+)", header.first(_TYPE) or "")
    return found[1].lower() if found else default


def _parsed(name: str, value: str) -> Message:
    """One field, as the standard library reads its parameters."""
    holder = Message()
    holder[name] = value
    return holder


def _pieces(message: bytes, start: int, end: int, header: Headers, room: int) -> Iterator[tuple[int, int]]:
    """The parts between the delimiters of a multipart. Raises TooMuch if there are more than `room`."""
    boundary = _boundary(header)
    if not boundary:
        return
    delimiter = b"--" + boundary
    part_start, at, count = -1, start, 0
    while (at := message.find(delimiter, at, end)) >= 0:
        behind = at + len(delimiter)
        is_line = at == start or message[at - 2 : at] == b"\r\n"
        rest = message[behind : min(end, behind + 200)].partition(b"\r\n")[0]
        is_last = rest.startswith(b"--")
        if not is_line or (rest.strip(b" \t") and not is_last):
            at = behind
            continue
        if part_start >= 0:
            count += 1
            if count > room:
                raise TooMuch("too many parts")
            yield part_start, max(part_start, at - 2)
        if is_last:
            return
        part_start = at = min(end, behind + len(rest) + 2)
    if part_start >= 0:
        yield part_start, end


def _boundary(header: Headers) -> bytes:
    value = header.first(_TYPE) or ""
    try:
        found = _parsed(_TYPE, value).get_boundary()
    except Exception:  # the standard library is not prepared for all that is sent
        found = None
    if found is None:
        plain = re.search(r"boundary\s*=\s*(?:\"([^\"]*)\"|([^\s;\"]+))", value, re.IGNORECASE)
        found = (plain[1] or plain[2]) if plain else ""
    return found.rstrip().encode("utf-8", "surrogateescape")[:200] if found else b""


def _names(header: Headers) -> Iterator[str]:
    """All names that a mail program might show for this part."""
    for name, parameter in ((_DISPOSITION, "filename"), (_TYPE, "name")):
        for field_ in header.all(name):
            for match in _NAME.finditer(field_.value):
                plain = match[1] if match[1] is not None else match[2]
                yield plain
                yield _decoded(plain)
            try:
                found = _parsed(name, field_.value).get_param(parameter, None, name)
                if found is not None:
                    yield _decoded(collapse_rfc2231_value(found))
            except Exception:  # noqa: S112  the standard library is not prepared for all that is sent
                continue


def _decoded(text: str) -> str:
    """Encoded words in a name, which RFC 2047 forbids and mail programs read."""
    if "=?" not in text:
        return text
    try:
        parts = decode_header(text[: MOST_NAME_CHARS * 4])
        return "".join(
            part if isinstance(part, str) else part.decode(charset or "latin-1", "replace") for part, charset in parts
        )
    except (HeaderParseError, LookupError, ValueError):
        return text


def _looks_like_archive(data: bytes, start: int, names: list[str]) -> bool:
    beginning = data[start : start + 200].lstrip()
    return beginning.startswith((b"UEsDB", b"PK\x03\x04")) or any(
        name.strip().lower().endswith(_ZIP_NAMES) for name in names
    )


def _encoding(header: Headers) -> str:
    """How the text is encoded: `base64`, `quoted-printable`, or '' for not at all."""
    name = (header.first("Content-Transfer-Encoding") or "").strip().lower()
    return name if name in ("base64", "quoted-printable") else ""


def _plain(raw: bytes, header: Headers) -> bytes:
    """The text of a part, decoded."""
    encoding = _encoding(header)
    if encoding == "quoted-printable":
        return quopri.decodestring(raw)
    if encoding == "base64":
        # Mail programs pass over what does not belong there.
        raw = re.sub(rb"[^A-Za-z0-9+/]", b"", raw)
        return binascii.a2b_base64(raw[:-1] if len(raw) % 4 == 1 else raw + b"=" * (-len(raw) % 4))
    return raw


class _Budget:
    """How much may still be unpacked of one message."""

    def __init__(self, size_bytes: int) -> None:
        self.left_bytes = size_bytes


def _forbidden_in_archive(raw: bytes, header: Headers, patterns: Patterns, limits: Limits, budget: _Budget) -> str:
    # Base64 makes it a third longer, and has line ends.
    if len(raw) > limits.archive_bytes * 3 // 2:
        return ""
    return _forbidden_member(_plain(raw, header), patterns, budget, 1)


def _forbidden_member(data: bytes, patterns: Patterns, budget: _Budget, level: int) -> str:
    """A forbidden name inside a zip file or a zip file inside it; ''. What cannot be read is not judged."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                raise TooMuch(f"an archive with more than {MOST_MEMBERS} names")
            for member in members:
                if not member.is_dir() and patterns.forbids_name(member.filename):
                    return member.filename
            if level < MOST_ARCHIVES_DEEP:
                for member in members:
                    if member.filename.lower().endswith(_ZIP_NAMES):
                        inner = _unpacked(archive, member, budget)
                        if found := _forbidden_member(inner, patterns, budget, level + 1):
                            return found
    except TooMuch:
        raise
    except Exception:  # zipfile raises many things for a file that is none
        return ""
    return ""


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget) -> bytes:
    """A member's bytes, or b"" if it is encrypted or larger than what may still be unpacked."""
    if member.flag_bits & 1:
        return b""
    with archive.open(member) as opened:
        data = opened.read(budget.left_bytes + 1)
    if len(data) > budget.left_bytes:
        raise TooMuch(f"archives of more than {MOST_UNPACKED_BYTES} bytes inside archives")
    budget.left_bytes -= len(data)
    return data
