"""Dot-stuffing at the places where pieces are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.protocol.dot_stuffing import DOTS_LOOKED_AT, DotStuffer, find_line_dot


def wire(*pieces: bytes) -> bytes:
    """The wire bytes of a body that comes in these pieces."""
    stuffer = DotStuffer()
    return b"".join([*(stuffer.stuff(piece) for piece in pieces), stuffer.end()])


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((), b".\r\n"),
        ((b"",), b".\r\n"),
        ((b"a\r\n",), b"a\r\n.\r\n"),
        ((b"a",), b"a\r\n.\r\n"),
        ((b"a\r", b"\n"), b"a\r\n.\r\n"),
        ((b"a\r",), b"a\r\r\n.\r\n"),
        ((b".",), b"..\r\n.\r\n"),
        ((b".", b"\r\n"), b"..\r\n.\r\n"),
        ((b"a\r\n", b".b\r\n"), b"a\r\n..b\r\n.\r\n"),
        ((b"a\r\n", b"", b".b\r\n"), b"a\r\n..b\r\n.\r\n"),
        ((b"a\r", b"\n", b".", b".\r\n"), b"a\r\n...\r\n.\r\n"),
        ((b"a", b".b\r\n"), b"a.b\r\n.\r\n"),
        ((b"a\r\n.\r\nMAIL FROM:<>\r\n",), b"a\r\n..\r\nMAIL FROM:<>\r\n.\r\n"),
        ((b"a\n.\nb\r\n",), b"a\n..\nb\r\n.\r\n"),
        ((b"a\n", b".\nb\r\n"), b"a\n..\nb\r\n.\r\n"),
    ],
)
def test_wire_bytes(pieces: tuple[bytes, ...], expected: bytes) -> None:
    """Every dot after a line end is doubled, and the message ends in CRLF.CRLF, wherever the pieces are cut."""
    assert wire(*pieces) == expected


def test_a_piece_without_dots_is_not_copied() -> None:
    """The common case costs no copy."""
    piece = b"no such line\r\n" * 1000
    assert DotStuffer().stuff(piece) is piece


@given(
    st.lists(st.sampled_from([b".", b"\r\n", b"\n", b"\r", b"a", b".a"]), max_size=40),
    st.sampled_from([0, 1, DOTS_LOOKED_AT - 1, DOTS_LOOKED_AT, DOTS_LOOKED_AT + 1]),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_a_line_dot_is_found_where_a_plain_search_finds_it(pieces: list[bytes], dots_before: int, end: bytes) -> None:
    """However many other dots come before it."""
    data = b"x." * dots_before + b"".join(pieces)
    assert find_line_dot(data, end) == data.find(end + b".")
