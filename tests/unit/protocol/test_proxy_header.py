"""PROXY headers, by example."""

import struct

import pytest

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.protocol.proxy_header import LOCAL, NEED_MORE, Local, ProxiedAddress, ProxyHeaderParser

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
FOUR = b"\xc0\x00\x02\x01\xc6\x33\x64\x02" + struct.pack(">HH", 3333, 25)
SIX = b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\x01" + b"\0" * 15 + b"\x01" + struct.pack(">HH", 3333, 25)
MAPPED = b"\0" * 10 + b"\xff\xff\xc0\x00\x02\x01" + b"\0" * 10 + b"\xff\xff\xc6\x33\x64\x02" + struct.pack(">HH", 1, 2)


def v2(command: int, family: int, payload: bytes) -> bytes:
    """A version 2 header."""
    return SIGNATURE + struct.pack(">BBH", 0x20 | command, family, len(payload)) + payload


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 3333 25\r\n", ProxiedAddress("192.0.2.1", 3333, "198.51.100.2", 25)),
        (b"PROXY TCP6 2001:DB8::1 ::1 3333 25\r\n", ProxiedAddress("2001:db8::1", 3333, "::1", 25)),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 0 65535\r\n", ProxiedAddress("192.0.2.1", 0, "::1", 65535)),
        (b"PROXY UNKNOWN\r\n", LOCAL),
        (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", LOCAL),
        (v2(1, 0x11, FOUR), ProxiedAddress("192.0.2.1", 3333, "198.51.100.2", 25)),
        (v2(1, 0x21, SIX), ProxiedAddress("2001:db8::1", 3333, "::1", 25)),
        (v2(1, 0x21, MAPPED), ProxiedAddress("192.0.2.1", 1, "198.51.100.2", 2)),
        (v2(1, 0x11, FOUR + b"\x03\x00\x04abcd"), ProxiedAddress("192.0.2.1", 3333, "198.51.100.2", 25)),
        (v2(0, 0x00, b""), LOCAL),
        (v2(0, 0x11, FOUR), LOCAL),
        (v2(1, 0x00, b"tlv"), LOCAL),
        (v2(1, 0x31, b"\0" * 216), LOCAL),
    ],
)
def test_good_headers(header: bytes, expected: ProxiedAddress | Local) -> None:
    """Each form of the specification is read, and the bytes behind it are kept for the next protocol."""
    parser = ProxyHeaderParser()
    assert parser.receive(header + b"EHLO x\r\n") == expected
    assert parser.trailing == b"EHLO x\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO client\r\n",
        b"\r\nEHLO",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 3333 25\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 3333\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.2 3333 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 3333 25 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 03333 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 1 25\r\n",
        b"PROXY TCP4 192.0.02.1 198.51.100.2 1 25\r\n",
        b"PROXY TCP4 2001:db8::1 198.51.100.2 1 25\r\n",
        b"PROXY TCP6 192.0.2.1 ::1 1 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 25\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 1 25\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"PROXY TCP4 192.0.2.1\r198.51.100.2 1 25\r\n",
        SIGNATURE + b"\x11\x11\x00\x0c" + FOUR,
        SIGNATURE + b"\x22\x11\x00\x0c" + FOUR,
        v2(1, 0x12, FOUR),
        v2(1, 0x10, FOUR),
        v2(1, 0x41, FOUR),
        v2(1, 0x11, FOUR[:-1]),
        v2(1, 0x21, FOUR),
        SIGNATURE + b"\x21\x11\x08\x01",
    ],
)
def test_what_is_not_exactly_a_header_is_refused(data: bytes) -> None:
    """Nothing is guessed: the connection must be closed."""
    with pytest.raises(RemoteProtocolError):
        ProxyHeaderParser().receive(data)


def test_a_parser_reads_one_header() -> None:
    """Reading on, or asking for the rest too early, is our own mistake."""
    parser = ProxyHeaderParser()
    assert parser.receive(b"") is NEED_MORE
    assert parser.receive(b"PROXY UNKNOWN\r") is NEED_MORE
    with pytest.raises(LocalProtocolError):
        _ = parser.trailing
    assert parser.receive(b"\n") == LOCAL
    with pytest.raises(LocalProtocolError):
        parser.receive(b"more")
