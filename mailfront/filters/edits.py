"""From edits to the message that goes on. Pure; the text of the message is never copied.

All edits refer to the message as it arrived, so that filters which ran at the same time cannot disturb each other. They
are made in the declared order of the filters: a later change of the same field wins, a deleted field stays deleted.
New fields come behind what arrived (`AddHeader`) or where they were wanted (`InsertHeader`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from mailfront.filters.headers import Headers
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef, MemoryBody, PrefixedBody, RestOfBody
from mailfront.mail.verdict import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    Edit,
    InsertHeader,
    ReplaceBody,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """A message with all edits made. `top`: fields that belong above our own trace lines. `header` and `rest` are the
    message: its header with the last line end, and everything behind it. `sender`: its new reverse-path, None: as it
    was."""

    top: bytes
    header: bytes
    rest: BodyRef
    sender: ChangeSender | None = None

    @property
    def body(self) -> BodyRef:
        """The message without `top`."""
        return PrefixedBody(self.header, self.rest)


def added_recipients(edits: Iterable[Edit]) -> tuple[Address, ...]:
    """The addresses that edits add."""
    return tuple(edit.address for edit in edits if isinstance(edit, AddRecipient))


def deleted_recipients(edits: Iterable[Edit]) -> frozenset[str]:
    """The keys of the addresses that edits delete."""
    return frozenset(edit.address.key for edit in edits if isinstance(edit, DeleteRecipient))


def content_edits(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits that make another message of it, or another sender, and not only other recipients."""
    return tuple(edit for edit in edits if not isinstance(edit, AddRecipient | DeleteRecipient))


def apply(edits: Iterable[Edit], headers: Headers, body: BodyRef) -> Edited:
    """Make the edits. `headers` is the header of `body`. Edits of recipients are passed over here."""
    pieces = _Pieces(headers)
    text: bytes | None = None
    sender: ChangeSender | None = None
    for edit in edits:
        match edit:
            case AddHeader():
                pieces.added.append(_field(edit.name, edit.value))
            case InsertHeader():
                pieces.insert(edit.position, _field(edit.name, edit.value))
            case ChangeHeader():
                pieces.change(edit.name, edit.occurrence, _field(edit.name, edit.value))
            case DeleteHeader():
                pieces.delete(edit.name, edit.occurrence)
            case ReplaceBody():
                text = edit.data
            case ChangeSender():
                sender = edit
            case AddRecipient() | DeleteRecipient():
                pass
            case _:
                assert_never(edit)
    header = pieces.joined()
    rest: BodyRef = RestOfBody(body, len(headers.raw))
    if text is not None:
        rest = MemoryBody(b"\r\n" + text)
    elif not rest.size_bytes and header != headers.raw:
        rest = MemoryBody(b"\r\n")
    return Edited(top=b"".join(pieces.above), header=header, rest=rest, sender=sender)


class _Pieces:
    """The fields of a header under change: what arrived keeps its place."""

    def __init__(self, headers: Headers) -> None:
        self._fields = headers.fields
        self._kept: list[bytes] = [field.raw for field in self._fields]
        self._places: dict[str, list[int]] = {}
        for index, field in enumerate(self._fields):
            self._places.setdefault(field.name.lower(), []).append(index)
        self._before: dict[int, list[bytes]] = {}
        self.above: list[bytes] = []
        self.added: list[bytes] = []

    def insert(self, position: int, field: bytes) -> None:
        if position == 0:
            self.above.insert(0, field)
        else:
            self._before.setdefault(min(position, len(self._fields)), []).append(field)

    def change(self, name: str, occurrence: int, field: bytes) -> None:
        found = self._indexes(name, occurrence)
        if not found:
            self.added.append(field)
        elif self._kept[found[0]]:
            self._kept[found[0]] = field

    def delete(self, name: str, occurrence: int | None) -> None:
        for index in self._indexes(name, occurrence):
            self._kept[index] = b""

    def _indexes(self, name: str, occurrence: int | None) -> list[int]:
        found = self._places.get(name.lower(), [])
        return found if occurrence is None else found[occurrence - 1 : occurrence]

    def joined(self) -> bytes:
        parts: list[bytes] = []
        for index, kept in enumerate(self._kept):
            parts += self._before.get(index, ())
            parts.append(kept)
        parts += self._before.get(len(self._kept), ())
        header = b"".join(parts)
        if header and self.added and not header.endswith(b"\r\n"):
            header += b"\r\n"
        return header + b"".join(self.added)


def _field(name: str, value: str) -> bytes:
    space = b"" if value.startswith((" ", "\t", "\r\n")) else b" "
    return name.encode("ascii") + b":" + space + value.encode("utf-8", "surrogateescape") + b"\r\n"
