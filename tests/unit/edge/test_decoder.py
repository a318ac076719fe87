"""End of data, transparency and line ends of a message body."""

import re

import pytest

from mailfront.edge.decoder import ChunkDecoder, DataDecoder, has_only_crlf, with_crlf_only


def decode(*pieces: bytes, normalize: bool = True) -> tuple[bytes, DataDecoder]:
    decoder = DataDecoder(normalize=normalize)
    out = b""
    for piece in pieces:
        assert not decoder.is_done
        out += decoder.receive(piece)
    return out, decoder


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"a\r\n..b\r\n.c\r\n.\r\n", b"a\r\n.b\r\nc\r\n"),
        (b"a.\r\n.\r\n", b"a.\r\n"),
        (b"a\r\n.\r\r\n.\r\n", b"a\r\n \r\n"),
        (b"a\nb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\rb\r\n.\r\n", b"a b\r\n"),
        (b"a\r\r\n.\r\n", b"a \r\n"),
        (b"a\n\r\n.\r\n", b"a\r\n\r\n"),
        (b"\n.\r\n.\r\n", b"\r\n\r\n"),
        (b"a\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
        (b"\xff\x00\xe9\r\n.\r\n", b"\xff\x00\xe9\r\n"),
    ],
)
def test_what_a_body_decodes_to(wire: bytes, body: bytes) -> None:
    """Line ends become CRLF, stuffed dots go, and the end is found, in one piece or byte by byte."""
    for pieces in ((wire,), tuple(bytes([byte]) for byte in wire)):
        out, decoder = decode(*pieces)
        assert decoder.is_done
        assert decoder.rest == b""
        assert out == body


@pytest.mark.parametrize(
    "fake_end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r.\r", b"\n.\r", b"\r\n.\r\r\n"]
)
def test_only_crlf_dot_crlf_ends_a_message(fake_end: bytes) -> None:
    """No look-alike of the end of data (CVE-2023-51764, -51765, -51766) ends the message, and none comes out."""
    wire = b"Subject: x\r\n\r\nlure" + fake_end + b"MAIL FROM:<forged@victim>\r\n.\r\nNOOP\r\n"
    out, decoder = decode(wire)
    assert decoder.rest == b"NOOP\r\n"
    assert b"MAIL FROM:<forged@victim>\r\n" in out
    assert b"\r\n.\r\n" not in out
    assert has_only_crlf(out)
    out, decoder = decode(wire, normalize=False)
    assert decoder.has_bare_newline
    assert b"MAIL" not in out


def test_what_follows_the_end_is_kept_apart() -> None:
    """Bytes behind the end of data belong to the next command."""
    out, decoder = decode(b"a\r\n.\r\nQUIT\r\n.\r\n")
    assert out == b"a\r\n"
    assert decoder.rest == b"QUIT\r\n.\r\n"


@pytest.mark.parametrize(
    "data", [b"", b"a", b"\r\n", b"a\r\nb", b"\r", b"\n", b"a\n", b"\r\r\n", b"\r\n\n", b"\n\r", b"\xe9\r\n"]
)
def test_the_quick_check_agrees_with_its_definition(data: bytes) -> None:
    """A bare CR or LF is seen wherever it stands."""
    assert has_only_crlf(data) == (re.search(rb"\r(?!\n)|(?<!\r)\n", data) is None)
    assert has_only_crlf(with_crlf_only(data))


def test_chunks_keep_their_dots() -> None:
    """BDAT has no transparency: dots and the end of data are plain bytes in it."""
    decoder = ChunkDecoder(normalize=True)
    out = decoder.receive(b"a\r\n.\r\n..") + decoder.receive(b"b\r") + decoder.receive(b"\nc\r") + decoder.finish()
    assert out == b"a\r\n.\r\n..b\r\nc "
    assert decoder.has_bare_newline


def test_a_bare_newline_across_chunks_is_refused() -> None:
    """A CR at the end of one chunk is bare unless the next begins with LF."""
    decoder = ChunkDecoder(normalize=False)
    assert decoder.receive(b"a\r") + decoder.receive(b"\nb\r\n") == b"a\r\nb\r\n"
    assert not decoder.has_bare_newline
    decoder.receive(b"c\r")
    decoder.receive(b"d")
    assert decoder.has_bare_newline
