"""A message's header, parsed once: fields in order, with their exact bytes.

A field begins in the first column and goes on over lines that begin with a blank. What is no field (a line without a
colon, `From ` of a mailbox file) is kept as it is and has the name ''. Bounded: the header section is cut by whoever
passes it in; at most `MOST_FIELDS` are told apart, the rest is kept as one piece without a name.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

MOST_FIELDS = 2000
_FIELD = re.compile(rb"[^\r\n]*(?:\r\n|\Z)(?:[ \t][^\r\n]*(?:\r\n|\Z))*")
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_FOLD = re.compile(r"\r\n(?=[ \t])")


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One field. `name` as written, '' if this is no field; `raw` are all its bytes, line ends included."""

    name: str
    raw: bytes

    @property
    def value(self) -> str:
        """Everything behind the colon, unfolded; bytes that are not UTF-8 become surrogates."""
        _, _, value = self.raw.partition(b":")
        return _FOLD.sub("", value.decode("utf-8", "surrogateescape").removesuffix("\r\n")).strip(" \t")


class Headers:
    """See the module. Immutable; nothing is parsed before it is asked for."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @cached_property
    def fields(self) -> tuple[HeaderField, ...]:
        """All fields in order."""
        return tuple(_fields(self.raw))

    @cached_property
    def _by_name(self) -> dict[str, list[HeaderField]]:
        found: dict[str, list[HeaderField]] = {}
        for field in self.fields:
            if field.name:
                found.setdefault(field.name.lower(), []).append(field)
        return found

    def all(self, name: str) -> Sequence[HeaderField]:
        """The fields of that name, in order; the case of letters does not matter."""
        return self._by_name.get(name.lower(), ())

    def first(self, name: str) -> str | None:
        """The value of the first field of that name."""
        found = self.all(name)
        return found[0].value if found else None

    def names(self) -> Sequence[str]:
        """The names that occur, in lower case, in the order of their first occurrence."""
        return tuple(self._by_name)


def _fields(raw: bytes) -> Iterator[HeaderField]:
    position, count, end = 0, 0, len(raw)
    while position < end:
        if count == MOST_FIELDS:
            yield HeaderField("", raw[position:])
            return
        match = _FIELD.match(raw, position)
        if match is None or match.end() == position:  # a bare CR or LF, which no body of ours has
            yield HeaderField("", raw[position:])
            return
        name = _NAME.match(raw, position)
        is_field = name is not None and name.end() <= match.end()
        yield HeaderField(name[1].decode("ascii") if is_field and name else "", match[0])
        position = match.end()
        count += 1
