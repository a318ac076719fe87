"""The three LDAP requests that each login and each recipient may cost, in BER (RFC 4511). Pure.

ldap3 builds requests from pyasn1 objects: ten times as much work as all the rest of a search or a bind, done while it
holds the interpreter. So what is asked all the time is written here; ldap3 connects, encrypts, reads the answers, and
does whatever is rare. Filters come as text (RFC 4515) from `FilterTemplate`, which has checked them.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

BIND_RESPONSE, SEARCH_ENTRY, SEARCH_DONE, SEARCH_REFERENCE = 1, 4, 5, 19
BASE, SUBTREE = 0, 2

_ITEM = re.compile(r"([^=~<>:]*)(=|~=|>=|<=|:[^=]*=)([^()]*)\)")
_ESCAPED = re.compile(rb"\\([0-9A-Fa-f]{2})")
_GROUPS = {"&": 0xA0, "|": 0xA1, "!": 0xA2}
_COMPARISONS = {"=": 0xA3, ">=": 0xA5, "<=": 0xA6, "~=": 0xA8}
_SUBSTRINGS, _PRESENT, _EXTENSIBLE = 0xA4, 0x87, 0xA9
_TRUE, _FALSE = b"\x01\x01\xff", b"\x01\x01\x00"


def bind_request(number: int, dn: str, password: bytes) -> bytes:
    """A simple bind: as `dn` with `password`. `number` is the message's, below 2^31."""
    name = _ber(0x04, dn.encode())
    return _ber(0x30, _integer(number) + _ber(0x60, _integer(3) + name + _ber(0x80, password)))


def search_request(
    number: int,
    base: str,
    scope: int,
    search_filter: str,
    attributes: Sequence[str],
    *,
    size_limit: int,
    time_limit_s: int,
) -> bytes:
    """A search that follows no aliases. Raises ValueError for what is no filter."""
    found, end = _filter(search_filter, 0)
    if end != len(search_filter):
        raise ValueError(f"not a filter: {search_filter!r}")
    limits = _integer(size_limit) + _integer(time_limit_s) + _FALSE
    scope_and_aliases = bytes((0x0A, 1, scope, 0x0A, 1, 0))
    content = _ber(0x04, base.encode()) + scope_and_aliases + limits + found + _selection(tuple(attributes))
    return _ber(0x30, _integer(number) + _ber(0x63, content))


@lru_cache(maxsize=16)
def _selection(attributes: tuple[str, ...]) -> bytes:
    return _ber(0x30, b"".join([_ber(0x04, name.encode()) for name in attributes]))


def _filter(text: str, start: int) -> tuple[bytes, int]:
    """The filter in parentheses at `start`, and where it ends."""
    if text[start : start + 1] == "(" and (tag := _GROUPS.get(text[start + 1 : start + 2])) is not None:
        parts, position = [], start + 2
        while text[position : position + 1] == "(":
            part, position = _filter(text, position)
            parts.append(part)
        if text[position : position + 1] == ")":
            return _ber(tag, b"".join(parts)), position + 1
    elif text[start : start + 1] == "(" and (match := _ITEM.match(text, start + 1)) is not None:
        attribute, operator, value = match.groups()
        return _item(attribute.encode(), operator, value.encode("utf-8", "surrogatepass")), match.end()
    raise ValueError(f"not a filter: {text!r}")


def _item(attribute: bytes, operator: str, value: bytes) -> bytes:
    if operator.startswith(":"):
        return _extensible(attribute, operator[1:-1].encode(), _plain(value))
    if operator == "=" and value == b"*":
        return _ber(_PRESENT, attribute)
    if operator == "=" and b"*" in value:
        first, *middle, last = value.split(b"*")
        pieces = [(0x80, first), *((0x81, piece) for piece in middle), (0x82, last)]
        found = b"".join([_ber(tag, _plain(piece)) for tag, piece in pieces if piece])
        return _ber(_SUBSTRINGS, _ber(0x04, attribute) + _ber(0x30, found))
    return _ber(_COMPARISONS[operator], _ber(0x04, attribute) + _ber(0x04, _plain(value)))


def _extensible(attribute: bytes, middle: bytes, value: bytes) -> bytes:
    """`attribute:dn:rule:=value`; `middle` is what stands between the attribute's colon and `:=`."""
    words = [word for word in middle.split(b":") if word]
    is_of_dn = bool(words) and words[0].lower() == b"dn"
    rule = b"".join(words[1:] if is_of_dn else words)
    return _ber(
        _EXTENSIBLE,
        (_ber(0x81, rule) if rule else b"")
        + (_ber(0x82, attribute) if attribute else b"")
        + _ber(0x83, value)
        + (_ber(0x84, b"\xff") if is_of_dn else b""),
    )


def _plain(value: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), value) if b"\\" in value else value


def _integer(value: int) -> bytes:
    return _ber(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _ber(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
