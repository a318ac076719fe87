"""Dot-stuffing at the places where pieces are cut."""

import pytest

from mailfront.protocol.dot_stuffing import DotStuffer


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
