"""PROXY headers, for any bytes in any pieces."""

import ipaddress
import struct
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.errors import RemoteProtocolError
from mailfront.protocol.proxy_header import (
    LOCAL,
    NEED_MORE,
    Local,
    ProxiedAddress,
    ProxyHeaderParser,
    client_header,
    local_header,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
PORTS = st.integers(0, 65535)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, ProxiedAddress]:
    """A good header of either version and what it says."""
    version: Literal[4, 6] = draw(st.sampled_from((4, 6)))
    source, destination = draw(st.ip_addresses(v=version)), draw(st.ip_addresses(v=version))
    ports = draw(PORTS), draw(PORTS)
    expected = ProxiedAddress(plain(source), ports[0], plain(destination), ports[1])
    if draw(st.booleans()):
        return f"PROXY TCP{version} {source} {destination} {ports[0]} {ports[1]}\r\n".encode(), expected
    payload = source.packed + destination.packed + struct.pack(">HH", *ports) + draw(st.binary(max_size=300))
    family = 0x11 if version == 4 else 0x21
    return SIGNATURE + struct.pack(">BBH", 0x21, family, len(payload)) + payload, expected


def plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """The canonical text of an address."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def feed(pieces: list[bytes]) -> tuple[ProxiedAddress | Local | None, bytes]:
    """What a parser makes of pieces: its result, and what is behind the header."""
    parser = ProxyHeaderParser()
    for number, piece in enumerate(pieces):
        result = parser.receive(piece)
        if result is not NEED_MORE:
            assert isinstance(result, ProxiedAddress | Local)
            return result, parser.trailing + b"".join(pieces[number + 1 :])
    return None, b""


@given(headers(), st.binary(max_size=50))
def test_any_pieces_give_the_same(header: tuple[bytes, ProxiedAddress], rest: bytes) -> None:
    """A header cut at any byte, or sent byte by byte, says the same and loses nothing behind it."""
    data, expected = header[0] + rest, header[1]
    for cut in range(len(data) + 1):
        assert feed([data[:cut], data[cut:]]) == (expected, rest)
    assert feed([data[index : index + 1] for index in range(len(data))]) == (expected, rest)


@given(st.ip_addresses(), PORTS, st.ip_addresses(), PORTS, st.binary(max_size=50))
def test_what_we_write_is_what_we_read(
    source: ipaddress.IPv4Address, port: int, destination: ipaddress.IPv6Address, our_port: int, rest: bytes
) -> None:
    """Whatever the two addresses are, also of different versions."""
    header = client_header(str(source), port, str(destination), our_port)
    assert feed([header + rest]) == (ProxiedAddress(plain(source), port, plain(destination), our_port), rest)
    assert feed([local_header() + rest]) == (LOCAL, rest)


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=120).map(lambda tail: SIGNATURE + tail),
                 st.binary(max_size=120).map(lambda tail: b"PROXY TCP4 " + tail)))  # fmt: skip
def test_garbage_raises_only_remote_protocol_errors(data: bytes) -> None:
    """Whatever arrives, the answer is a result, a wish for more, or RemoteProtocolError; the same in any pieces."""

    def outcome(pieces: list[bytes]) -> object:
        try:
            return feed(pieces)
        except RemoteProtocolError:
            return "refused"

    whole = outcome([data])
    assert outcome([data[index : index + 1] for index in range(len(data))]) == whole


@given(st.binary(min_size=107, max_size=300).filter(lambda data: b"\r\n" not in data))
def test_a_line_without_end_is_refused_at_its_limit(data: bytes) -> None:
    """A version 1 header never makes us hold more than 107 bytes."""
    parser = ProxyHeaderParser()
    parser.receive(b"PROXY ")
    try:
        parser.receive(data[:101])
    except RemoteProtocolError:
        return
    raise AssertionError("107 bytes without a line end were taken")
