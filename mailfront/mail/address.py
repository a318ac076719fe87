"""Mailbox addresses of the SMTP envelope (RFC 5321 section 4.1.2, RFC 6531).

`parse_path` reads what stands between `<` and `>` in MAIL and RCPT. It is strict: no comments, no bare spaces, no
missing brackets. Source routes (`<@a,@b:user@c>`) are accepted and dropped, as RFC 5321 appendix C asks.
The null reverse-path `<>` is `None` in mailfront, never an empty string.

An `Address` keeps the local part as the sender wrote it (unquoted, NFC); the domain is lower case NFC. Comparing and
caching is done by `key`, which folds the local part too: local mailboxes are case-insensitive here.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

MAX_LOCAL_BYTES = 64
MAX_DOMAIN_BYTES = 255
MAX_PATH_BYTES = 254

# Said by what they exclude: a class that lists all of Unicode takes 5 ms to compile, each time that it stands here.
_ATOM = r"[^\x00-\x20\"(),.:;<>@\[\\\]\x7f]+"
_DOT_STRING = rf"{_ATOM}(?:\.{_ATOM})*"
_LETTER, _LETTER_OR_HYPHEN = r"[^\x00-/:-@\[-^`{-\x7f]", r"[^\x00-,./:-@\[-^`{-\x7f]"
_LABEL = rf"{_LETTER}(?:{_LETTER_OR_HYPHEN}*{_LETTER})?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*\.?"
_LITERAL = r"\[[A-Za-z0-9:.\-]+\]"
_QUOTED = r"\"(?:[^\"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*\""
_PATH = re.compile(rf"(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?({_DOT_STRING}|{_QUOTED})@({_DOMAIN}|{_LITERAL})")
_PLAIN_ATOM, _PLAIN_LABEL = r"[A-Za-z0-9_\-+=]+", r"[a-z0-9](?:[a-z0-9\-]*[a-z0-9])?"
_PLAIN = re.compile(rf"({_PLAIN_ATOM}(?:\.{_PLAIN_ATOM})*)@({_PLAIN_LABEL}(?:\.{_PLAIN_LABEL})*)")
_DOT_STRING_ONLY = re.compile(_DOT_STRING)


@dataclass(frozen=True, slots=True)
class Address:
    """One address. `local` is unquoted; `domain` is lower case, empty only for `<postmaster>`."""

    local: str
    domain: str

    def __str__(self) -> str:
        return _text(self.local, self.domain)

    @property
    def needs_quotes(self) -> bool:
        """Whether the local part can only be written in quotes: it has spaces, brackets, an `@` and the like."""
        return _DOT_STRING_ONLY.fullmatch(self.local) is None

    @property
    def is_ascii(self) -> bool:
        """Whether this address can be sent without SMTPUTF8."""
        return self.local.isascii() and self.domain.isascii()

    @property
    def key(self) -> str:
        """The form that caches, look-ups and comparisons use: lower case, NFC."""
        return f"{unicodedata.normalize('NFC', self.local.lower())}@{self.domain}"

    def split_detail(self, delimiter: str = "+") -> tuple["Address", str]:
        """Split `user+detail` (RFC 5233). Returns the address without the detail, and the detail or ''."""
        base, found, detail = self.local.partition(delimiter)
        return (Address(base, self.domain), detail) if found and base else (self, "")


@lru_cache(maxsize=4096)
def _text(local: str, domain: str) -> str:
    """A message writes each of its addresses five times or so: reply, log, envelope."""
    if _DOT_STRING_ONLY.fullmatch(local) is None:
        local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{local}@{domain}" if domain else local


def parse_path(text: str) -> Address | None:
    """Read an address without its angle brackets. Returns None if it is not one (the caller answers 553/501).

    `text` must already be decoded as UTF-8; lone surrogates and control characters never match.
    """
    match = _PLAIN.fullmatch(text)
    if match is not None and len(text) <= MAX_PATH_BYTES and len(match[1]) <= MAX_LOCAL_BYTES:
        return Address(match[1], match[2])
    return _parse_any(text)


def _parse_any(text: str) -> Address | None:
    if text.lower() == "postmaster":
        return Address(text, "")
    if not text.isprintable():
        return None
    match = _PATH.fullmatch(text)
    if match is None:
        return None
    local, domain = match[1], match[2].removesuffix(".")
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
        if not local:
            return None
    local, domain = unicodedata.normalize("NFC", local), unicodedata.normalize("NFC", domain.lower())
    local_bytes, domain_bytes = len(local.encode()), len(domain.encode())
    if local_bytes > MAX_LOCAL_BYTES or domain_bytes > MAX_DOMAIN_BYTES:
        return None
    return Address(local, domain) if local_bytes + 1 + domain_bytes <= MAX_PATH_BYTES else None
