"""SMTP replies (RFC 5321 section 4.2, RFC 2034, RFC 3463).

A `Reply` is a value; only the edge turns it into bytes, only the LMTP core makes one from bytes. The class digit of
the enhanced code always equals that of the basic code: `Reply` refuses anything else, so no filter and no node can
make us say two things at once.
"""

import re
from dataclasses import dataclass

from mailfront.base.printable import printable

MAX_TEXT_CHARS = 400
MAX_KNOWN_PAIRS = 1000
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_LEADING_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
_GOOD: set[tuple[int, str]] = set()
"""Pairs of codes that were checked before: the same few dozen all day."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. `lines`: one or more, without line ends; `enhanced` may be empty (354, 220, EHLO)."""

    code: int
    enhanced: str
    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        if (self.code, self.enhanced) in _GOOD:
            return
        if not 200 <= self.code <= 559:
            raise ValueError(f"reply code {self.code}")
        if self.enhanced and (_ENHANCED.fullmatch(self.enhanced) is None or int(self.enhanced[0]) != self.code // 100):
            raise ValueError(f"enhanced code {self.enhanced} does not fit {self.code}")
        if len(_GOOD) < MAX_KNOWN_PAIRS:
            _GOOD.add((self.code, self.enhanced))

    @property
    def is_positive(self) -> bool:
        """2xx: done."""
        return 200 <= self.code < 300

    @property
    def is_transient(self) -> bool:
        """4xx: try again."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5xx: never like this."""
        return self.code >= 500

    @property
    def text(self) -> str:
        """All lines as one, for logs and records."""
        return " ".join(self.lines)

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"

    def wire(self) -> bytes:
        """The bytes to send, each line with its code, ended by CRLF. UTF-8 only where the text has it."""
        if len(self.lines) == 1 and self.enhanced:
            return f"{self.code} {self.enhanced} {self.lines[0]}\r\n".encode("utf-8", "replace")
        head = f"{self.code}"
        status = f"{self.enhanced} " if self.enhanced else ""
        last = len(self.lines) - 1
        return "".join(
            f"{head}{' ' if number == last else '-'}{status}{line}\r\n" for number, line in enumerate(self.lines)
        ).encode("utf-8", "replace")


def reply(code: int, enhanced: str, text: str) -> Reply:
    """Make a reply of our own. `text` is made printable and cut; it may hold what a client sent."""
    return Reply(code, enhanced, (printable(text, MAX_TEXT_CHARS),))


def reply_from_peer(code: int, lines: list[bytes]) -> Reply:
    """Make a reply from a peer's lines (without code and line end). What it says is made printable; an enhanced code
    of another class than the basic code is dropped. `code` must be 200..559."""
    enhanced, texts = "", []
    for number, raw in enumerate(lines):
        text = printable(raw, MAX_TEXT_CHARS)
        match = _LEADING_ENHANCED.match(text)
        if match is not None:
            text = text[match.end() :]
            if number == 0 and int(match[1][0]) == code // 100:
                enhanced = match[1]
        texts.append(text)
    return Reply(code, enhanced, tuple(texts) or ("",))
