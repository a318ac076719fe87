"""PROXY protocol (sans-IO): who really connected, in the words of a load balancer; and in ours, towards a node.

HAProxy's specification, version 1 (a line of text, at most 107 bytes) and version 2 (binary). Whether a header must
come, and from whom one is believed, is decided outside. A parser reads one header: call `receive` with what arrives
until it returns something else than NEED_MORE; `trailing` then holds the bytes behind the header, which belong to the
next protocol. Nothing is guessed: what is not exactly a header raises RemoteProtocolError, and the connection must be
closed without an answer.

Limits: 107 bytes for version 1; for version 2 16 bytes and at most 2,048 more, of which everything behind the addresses
(TLVs) is skipped. Time limits are the caller's.
"""

import ipaddress
import re
import struct
from dataclasses import dataclass
from enum import Enum

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError

MAX_V1_BYTES = 107
MAX_V2_PAYLOAD_BYTES = 2048
_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEAD = struct.Struct(">12sBBH")
_V1_PREFIX = b"PROXY "
_V1_LINE = re.compile(rb"PROXY TCP([46]) ([0-9a-fA-F.:]{2,39}) ([0-9a-fA-F.:]{2,39}) (\d{1,5}) (\d{1,5})")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [\x20-\x7e]*)?")
_V2_ADDRESSES = {0x1: struct.Struct(">4s4sHH"), 0x2: struct.Struct(">16s16sHH")}
_V2_UNSPECIFIED, _V2_UNIX, _V2_STREAM = 0x0, 0x3, 0x1


@dataclass(frozen=True, slots=True)
class ProxiedAddress:
    """The client's connection as the load balancer saw it: canonical addresses, ports."""

    ip: str
    port: int
    destination_ip: str
    destination_port: int


@dataclass(frozen=True, slots=True)
class Local:
    """The load balancer speaks for itself (a health check), or does not know: the socket's own peer is the client."""


class NeedMore(Enum):
    """The header is not complete."""

    NEED_MORE = "need more"


NEED_MORE = NeedMore.NEED_MORE
LOCAL = Local()


class ProxyHeaderParser:
    """Reads one header."""

    def __init__(self) -> None:
        self._data = b""
        self._done = False

    @property
    def trailing(self) -> bytes:
        """What came behind the header. Only after it was read."""
        if not self._done:
            raise LocalProtocolError("the PROXY header is not complete")
        return self._data

    def receive(self, data: bytes) -> ProxiedAddress | Local | NeedMore:
        """Take bytes from the connection. Raises RemoteProtocolError if they cannot become a header."""
        if self._done:
            raise LocalProtocolError("the PROXY header was read already")
        self._data += data
        if self._data.startswith(_V2_SIGNATURE[: len(self._data)]):
            return self._read_v2()
        if self._data.startswith(_V1_PREFIX[: len(self._data)]):
            return self._read_v1()
        raise RemoteProtocolError("no PROXY header")

    def _finish(self, length: int) -> None:
        self._data = self._data[length:]
        self._done = True

    def _read_v1(self) -> ProxiedAddress | Local | NeedMore:
        end = self._data.find(b"\r\n", 0, MAX_V1_BYTES)
        if end < 0:
            # A CR may be the first half of the line end, anything else that ends a line is wrong.
            head = self._data[:MAX_V1_BYTES]
            if len(self._data) >= MAX_V1_BYTES or b"\n" in head or b"\r" in head[:-1]:
                raise RemoteProtocolError("PROXY line is not ended by CRLF within 107 bytes")
            return NEED_MORE
        line = self._data[:end]
        if _V1_UNKNOWN.fullmatch(line):
            self._finish(end + 2)
            return LOCAL
        match = _V1_LINE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError("PROXY line is malformed")
        version, source, destination, source_port, destination_port = match.groups()
        address = ProxiedAddress(
            _text_address(source, int(version)),
            _text_port(source_port),
            _text_address(destination, int(version)),
            _text_port(destination_port),
        )
        self._finish(end + 2)
        return address

    def _read_v2(self) -> ProxiedAddress | Local | NeedMore:
        if len(self._data) < _V2_HEAD.size:
            return NEED_MORE
        _, version_command, family_transport, length = _V2_HEAD.unpack_from(self._data)
        version, command = version_command >> 4, version_command & 15
        if version != 2 or command > 1:
            raise RemoteProtocolError("PROXY header of an unknown version or command")
        if length > MAX_V2_PAYLOAD_BYTES:
            raise RemoteProtocolError(f"PROXY header announces {length} bytes; at most {MAX_V2_PAYLOAD_BYTES}")
        whole = _V2_HEAD.size + length
        if len(self._data) < whole:
            return NEED_MORE
        payload = self._data[_V2_HEAD.size : whole]
        address = LOCAL if command == 0 else _binary_address(family_transport >> 4, family_transport & 15, payload)
        self._finish(whole)
        return address


def local_header() -> bytes:
    """The header of a connection that we make for ourselves."""
    return _V2_HEAD.pack(_V2_SIGNATURE, 0x20, 0, 0)


def client_header(ip: str, port: int, destination_ip: str, destination_port: int) -> bytes:
    """The header, version 2, of a connection made for a client: its address, and the one of ours that it came to. An
    IPv4 address beside one of IPv6 is written as IPv6. Raises ValueError for what is no address."""
    source, destination = ipaddress.ip_address(ip), ipaddress.ip_address(destination_ip)
    if source.version == destination.version == 4:
        family, packed = 0x1, (source.packed, destination.packed)
    else:
        family, packed = 0x2, (_as_ipv6(source), _as_ipv6(destination))
    payload = _V2_ADDRESSES[family].pack(*packed, port, destination_port)
    return _V2_HEAD.pack(_V2_SIGNATURE, 0x21, family << 4 | _V2_STREAM, len(payload)) + payload


def _as_ipv6(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _binary_address(family: int, transport: int, payload: bytes) -> ProxiedAddress | Local:
    if family in (_V2_UNSPECIFIED, _V2_UNIX):
        return LOCAL
    if family not in _V2_ADDRESSES or transport != _V2_STREAM:
        raise RemoteProtocolError("PROXY header for something else than TCP")
    layout = _V2_ADDRESSES[family]
    if len(payload) < layout.size:
        raise RemoteProtocolError("PROXY header is too short for its addresses")
    source, destination, source_port, destination_port = layout.unpack_from(payload)
    return ProxiedAddress(_canonical(source), source_port, _canonical(destination), destination_port)


def _canonical(packed: bytes) -> str:
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _text_address(text: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(text.decode("ascii"))
    except ValueError as error:
        raise RemoteProtocolError("PROXY line has no valid address") from error
    if address.version != version:
        raise RemoteProtocolError("PROXY line has an address of the other IP version")
    return _canonical(address.packed)


def _text_port(text: bytes) -> int:
    port = int(text)
    if port > 65535 or (len(text) > 1 and text.startswith(b"0")):
        raise RemoteProtocolError("PROXY line has no valid port")
    return port
