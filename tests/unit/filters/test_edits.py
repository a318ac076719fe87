"""Edits change the header and leave the text where it is."""

import pytest

from mailfront.filters.edits import apply
from mailfront.filters.headers import MOST_FIELDS, Headers
from mailfront.mail.address import Address
from mailfront.mail.body import MemoryBody, RestOfBody
from mailfront.mail.verdict import AddHeader, ChangeHeader, ChangeSender, DeleteHeader, Edit, InsertHeader, ReplaceBody

HEADER = b"Received: one\r\n\tby two\r\nX-A: 1\r\nSubject: old\r\nx-a: 2\r\nbad line\r\nX-A: 3\r\n"
WITHOUT_A = b"Received: one\r\n\tby two\r\nSubject: old\r\nbad line\r\n"
TEXT = b"\r\nhello\r\n.\r\nbye"


def edited(*edits: Edit) -> bytes:
    result = apply(edits, Headers(HEADER), MemoryBody(HEADER + TEXT))
    return result.top + b"".join(result.body.pieces())


@pytest.mark.parametrize(
    ("edits", "wanted"),
    [
        ((), HEADER),
        ((AddHeader("X-B", "new"),), HEADER + b"X-B: new\r\n"),
        ((AddHeader("X-B", " led by a blank"),), HEADER + b"X-B: led by a blank\r\n"),
        ((InsertHeader(0, "X-B", "new"),), b"X-B: new\r\n" + HEADER),
        ((InsertHeader(1, "X-B", "n"),), HEADER.replace(b"X-A: 1\r\n", b"X-B: n\r\nX-A: 1\r\n")),
        ((InsertHeader(99, "X-B", "n"),), HEADER + b"X-B: n\r\n"),
        ((ChangeHeader("SUBJECT", 1, "new"),), HEADER.replace(b"Subject: old", b"SUBJECT: new")),
        ((ChangeHeader("X-A", 2, "new"),), HEADER.replace(b"x-a: 2", b"X-A: new")),
        ((ChangeHeader("X-B", 1, "new"),), HEADER + b"X-B: new\r\n"),
        ((DeleteHeader("received"),), HEADER.partition(b"two\r\n")[2]),
        ((DeleteHeader("X-A"),), WITHOUT_A),
        ((DeleteHeader("X-A", 3),), HEADER.replace(b"X-A: 3\r\n", b"")),
        ((DeleteHeader("X-A", 4),), HEADER),
        ((DeleteHeader("X-A", 1), ChangeHeader("X-A", 1, "back")), HEADER.replace(b"X-A: 1\r\n", b"")),
        ((AddHeader("X-A", "4"), DeleteHeader("X-A")), WITHOUT_A + b"X-A: 4\r\n"),
    ],
)  # fmt: skip
def test_header_edits_refer_to_what_arrived(edits: tuple[Edit, ...], wanted: bytes) -> None:
    """Occurrences count in the arrived header, whatever other edits do; a deleted field stays deleted."""
    assert edited(*edits) == wanted + TEXT


def test_a_new_text_stands_behind_the_old_header() -> None:
    """Replacing the text keeps the header and the line between them."""
    assert edited(ReplaceBody(b"new\r\n")) == HEADER + b"\r\nnew\r\n"


def test_the_last_change_of_the_sender_counts() -> None:
    """The message itself stays as it is."""
    edits = (ChangeSender(Address("a", "example.edu")), ChangeSender(None))
    result = apply(edits, Headers(HEADER), MemoryBody(HEADER + TEXT))
    assert result.sender == ChangeSender(None)
    assert edited(*edits) == HEADER + TEXT


def test_the_text_is_not_copied() -> None:
    """What follows the header is the arrived body itself, from an offset on."""
    body = MemoryBody(HEADER + TEXT)
    result = apply((AddHeader("X-B", "new"),), Headers(HEADER), body)
    assert isinstance(result.rest, RestOfBody)
    assert result.rest.body is body


def test_fields_are_parsed_with_their_bytes() -> None:
    """Names, folded values and lines that are no field; joined again they are what arrived."""
    fields = Headers(HEADER).fields
    assert [(field.name, field.value) for field in fields] == [
        ("Received", "one\tby two"), ("X-A", "1"), ("Subject", "old"), ("x-a", "2"), ("", ""), ("X-A", "3"),
    ]  # fmt: skip
    assert b"".join(field.raw for field in fields) == HEADER


@pytest.mark.parametrize(
    "raw",
    [b"", b"a", b": x\r\n", b" led by a blank\r\n", b"X: 1", b"X: 1\r\n folded", b"\xff\xfe: x\r\n", b"X-A: \xff\r\n"],
)
def test_strange_headers_are_kept_as_they_are(raw: bytes) -> None:
    """Nothing is lost, nothing is mended."""
    assert b"".join(field.raw for field in Headers(raw).fields) == raw


def test_a_header_of_very_many_fields_is_bounded() -> None:
    """From the limit on the rest is one piece without a name."""
    fields = Headers(b"X: 1\r\n" * (MOST_FIELDS + 500)).fields
    assert len(fields) == MOST_FIELDS + 1
    assert (fields[-1].name, len(fields[-1].raw)) == ("", 500 * 6)
