"""An LDAP search filter with placeholders (RFC 4515): parsed once, filled with escaped values only. Pure.

Placeholders: `{address}`, `{local}`, `{domain}`; in a filter for logins also `{login}`, in one for members of groups
`{uid}`. What a client sent, or another entry holds, stands only inside the value of a comparison, and there every byte
that is not a letter, a digit or one of `@ . _ -` is written as `\\xx`: no value can end the comparison, add a wildcard
or start another filter.

The same tree answers from a snapshot without a server (`keys`, `matches`). Parts without a placeholder are taken as
true there: the server checked them when the snapshot was made. A template where that would be wrong (a placeholder
under `!`, beside `|` parts without one, or in anything but `attribute=value`) has a `snapshot_problem`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mailfront.directory.answers import ByUid
from mailfront.directory.canonical import canonical_text
from mailfront.mail.address import Address

MAX_TEMPLATE_CHARS = 4096
MAX_DEPTH = 20
PLACEHOLDERS = ("address", "local", "domain")
LOGIN_PLACEHOLDERS = ("login", *PLACEHOLDERS)
UID_PLACEHOLDERS = ("uid",)

_SAFE = re.compile(rb"[A-Za-z0-9@._\-]")
_ESCAPE = {byte: chr(byte) if _SAFE.fullmatch(bytes([byte])) else f"\\{byte:02x}" for byte in range(256)}
_ITEM = re.compile(r"([A-Za-z0-9][A-Za-z0-9.;\-]*)(=|~=|>=|<=|:[A-Za-z0-9.:\-]*=)(.+)", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ESCAPED = re.compile(r"\\([0-9A-Fa-f]{2})")


def escape_value(value: str) -> str:
    """Make a value fit to stand in a filter, whatever it holds."""
    return "".join([_ESCAPE[byte] for byte in value.encode("utf-8", "surrogatepass")])


@dataclass(frozen=True, slots=True)
class _Item:
    attribute: str
    operator: str
    value: str

    @property
    def has_placeholder(self) -> bool:
        return "{" in self.value


@dataclass(frozen=True, slots=True)
class _Group:
    operator: str
    parts: tuple["_Item | _Group", ...]


class FilterTemplate:
    """One template. Immutable."""

    def __init__(self, text: str, placeholders: tuple[str, ...] = PLACEHOLDERS) -> None:
        """Parse. Raises ValueError with the reason, for the person who wrote the template."""
        if len(text) > MAX_TEMPLATE_CHARS:
            raise ValueError(f"the filter is longer than {MAX_TEMPLATE_CHARS} characters")
        self._root, end = _parse(text, 0, 0)
        if end != len(text):
            raise ValueError(f"text behind the end of the filter: {text[end:]!r}")
        self._pieces: list[str] = _PLACEHOLDER.split(_show(self._root))
        unknown = sorted(set(self._pieces[1::2]) - set(placeholders))
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in placeholders)
            raise ValueError(f"{{{unknown[0]}}} is not known here; use one of {known}")
        if len(self._pieces) == 1:
            first = f"{{{placeholders[0]}}}"
            raise ValueError(f"the filter has no placeholder: everybody would get the same answer; use {first}")
        self._leaves = tuple(item for item in _items(self._root) if item.has_placeholder)
        self.attributes: frozenset[str] = frozenset(item.attribute for item in self._leaves)
        self.snapshot_problem: str = _snapshot_problem(self._root, negated=False)

    def fill(self, asked: Address | ByUid) -> str:
        """The filter that asks for one address, or for the login name of a member."""
        return self._filled(_values(asked))

    def fill_login(self, login: str) -> str:
        """The filter that asks for one login name. `{local}` and `{domain}` are its parts around the last `@`; without
        one it is all local."""
        local, _, domain = login.rpartition("@") if "@" in login else (login, "", "")
        return self._filled({"login": login, "address": login, "local": local, "domain": domain})

    def _filled(self, values: Mapping[str, str]) -> str:
        return "".join(
            [escape_value(values[piece]) if number % 2 else piece for number, piece in enumerate(self._pieces)]
        )

    def presence(self) -> str:
        """The filter that finds every entry which some address would find: wildcards for the placeholders."""
        return re.sub(r"\*+", "*", "*".join(self._pieces[::2]))

    def entry_keys(self, entry: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
        """The (attribute, canonical value) pairs by which an entry can be found. Names in `entry` are lower case."""
        for attribute in self.attributes:
            for value in entry.get(attribute, ()):
                yield attribute, canonical_text(value)

    def keys(self, asked: Address | ByUid) -> Iterator[tuple[str, str]]:
        """The pairs of which an entry must have at least one to match."""
        values = _values(asked)
        for item in self._leaves:
            yield item.attribute, _plain(item.value, values)

    def matches(self, entry: Mapping[str, tuple[str, ...]], asked: Address | ByUid) -> bool:
        """Whether an entry of the snapshot answers for what is asked. Attribute names in `entry` are lower case."""
        return _matches(self._root, entry, _values(asked))


def _values(asked: Address | ByUid) -> dict[str, str]:
    if isinstance(asked, ByUid):
        return {"uid": asked.uid}
    return {"address": f"{asked.local}@{asked.domain}", "local": asked.local, "domain": asked.domain}


def _parse(text: str, start: int, depth: int) -> tuple[_Item | _Group, int]:
    """Read one parenthesised filter at `start`. Returns it and the position behind it."""
    if depth > MAX_DEPTH:
        raise ValueError(f"the filter is nested deeper than {MAX_DEPTH}")
    if text[start : start + 1] != "(":
        raise ValueError(f"expected '(' at position {start + 1} of the filter")
    operator = text[start + 1 : start + 2]
    if operator and operator in "&|!":
        return _parse_group(text, start + 2, depth, operator)
    end = text.find(")", start)
    inner = text[start + 1 : end]
    if end < 0 or "(" in inner:
        raise ValueError(f"the part that starts at position {start + 1} of the filter is not closed by ')'")
    match = _ITEM.fullmatch(inner)
    if match is None:
        raise ValueError(f"({inner}) is not a comparison; write (attribute=value)")
    if "{" in _PLACEHOLDER.sub("", inner) or "}" in _PLACEHOLDER.sub("", inner) or "{" in match[1] + match[2]:
        raise ValueError(f"({inner}) has a brace that is no placeholder; write it as \\7b or \\7d")
    return _Item(match[1].lower(), match[2], match[3]), end + 1


def _parse_group(text: str, position: int, depth: int, operator: str) -> tuple[_Group, int]:
    parts: list[_Item | _Group] = []
    while text[position : position + 1] == "(":
        part, position = _parse(text, position, depth + 1)
        parts.append(part)
    if text[position : position + 1] != ")":
        raise ValueError(f"expected '(' or ')' at position {position + 1} of the filter")
    if not parts or (operator == "!" and len(parts) > 1):
        raise ValueError(f"({operator}...) has {len(parts)} parts; '!' takes one, '&' and '|' one or more")
    return _Group(operator, tuple(parts)), position + 1


def _show(node: _Item | _Group) -> str:
    if isinstance(node, _Item):
        return f"({node.attribute}{node.operator}{node.value})"
    return f"({node.operator}{''.join(_show(part) for part in node.parts)})"


def _items(node: _Item | _Group) -> Iterator[_Item]:
    if isinstance(node, _Item):
        yield node
    else:
        for part in node.parts:
            yield from _items(part)


def _snapshot_problem(node: _Item | _Group, *, negated: bool) -> str:
    if isinstance(node, _Item):
        if not node.has_placeholder:
            return ""
        if negated:
            return f"the placeholder in {_show(node)} stands under '!'"
        if node.operator != "=" or "*" in node.value or ";" in node.attribute:
            return f"{_show(node)} is not of the form (attribute=value)"
        return ""
    asked = [any(item.has_placeholder for item in _items(part)) for part in node.parts]
    if node.operator == "|" and any(asked) and not all(asked):
        return f"{_show(node)} has parts with and without a placeholder"
    below = [_snapshot_problem(part, negated=negated or node.operator == "!") for part in node.parts]
    return next(filter(None, below), "")


def _plain(template: str, values: Mapping[str, str]) -> str:
    """The value that a template compares with, unescaped and canonical."""
    pieces = _PLACEHOLDER.split(template)
    return canonical_text(
        "".join(
            values[piece] if number % 2 else _ESCAPED.sub(lambda found: chr(int(found[1], 16)), piece)
            for number, piece in enumerate(pieces)
        )
    )


def _matches(node: _Item | _Group, entry: Mapping[str, tuple[str, ...]], values: Mapping[str, str]) -> bool:
    if isinstance(node, _Item):
        if not node.has_placeholder:
            return True
        wanted = _plain(node.value, values)
        return any(canonical_text(value) == wanted for value in entry.get(node.attribute, ()))
    if node.operator == "!":
        return True
    below = (_matches(part, entry, values) for part in node.parts)
    return all(below) if node.operator == "&" else any(below)
