"""However the bytes of a message are cut, the edge reads the same."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mailfront.edge.decoder import ChunkDecoder, DataDecoder, has_only_crlf

WIRE = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\n.", b"x", b"\xe9", b"\0"]), max_size=40
)
CUTS = st.lists(st.integers(min_value=1, max_value=7), max_size=60)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    cut, at = [], 0
    for size in sizes:
        if at >= len(data):
            break
        cut.append(data[at : at + size])
        at += size
    if at < len(data):
        cut.append(data[at:])
    return cut


def by_definition(wire: bytes) -> tuple[bytes, bytes]:
    """What DATA means, line by line: body and what follows it."""
    end = (b"\r\n" + wire).index(b"\r\n.\r\n")
    body, rest = wire[:end], wire[end + 3 :]
    body = re.sub(rb"(?<!\r)\n", b"\r\n", re.sub(rb"\r(?!\n)", b" ", body))
    lines = body.split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines), rest


@given(WIRE, CUTS, st.booleans())
def test_any_cutting_gives_the_same_message(parts: list[bytes], sizes: list[int], normalize: bool) -> None:
    """The body, the rest and the verdict on bare newlines do not depend on where the network cut the bytes."""
    wire = b"".join(parts) + b"\r\n.\r\nQUIT\r\n"
    body, rest = by_definition(wire)
    decoder = DataDecoder(normalize=normalize)
    out = b""
    left = pieces(wire, sizes)
    while not decoder.is_done:
        out += decoder.receive(left.pop(0))
    end = len(wire) - len(rest)
    is_bare = re.search(rb"\r(?!\n)|(?<!\r)\n", wire[:end]) is not None
    assert decoder.has_bare_newline == is_bare
    assert decoder.rest + b"".join(left) == rest
    if normalize or not is_bare:
        assert out == body
        assert has_only_crlf(out)


@given(WIRE, CUTS, st.booleans())
def test_any_chunking_gives_the_same_body(parts: list[bytes], sizes: list[int], normalize: bool) -> None:
    """BDAT chunks of any size carry the same body."""
    data = b"".join(parts)
    decoder = ChunkDecoder(normalize=normalize)
    out = b"".join(decoder.receive(piece) for piece in pieces(data, sizes)) + decoder.finish()
    is_bare = re.search(rb"\r(?!\n)|(?<!\r)\n", data) is not None
    assert decoder.has_bare_newline == is_bare
    if normalize or not is_bare:
        assert out == re.sub(rb"(?<!\r)\n", b"\r\n", re.sub(rb"\r(?!\n)", b" ", data))
