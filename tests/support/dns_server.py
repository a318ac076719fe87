"""An authoritative name server of the tests' own, on loopback, UDP and TCP, made of dnspython.

`records` may be changed at any time: `{"name.test": {"A": ["192.0.2.1"], "TXT": ["..."]}}`. A TXT record may be a list
of its pieces. The value `FAILS` in place of a list is answered by SERVFAIL, `SILENT` by nothing. CNAMEs are followed,
one answer holding the chain, as a recursive server does. Every name that is not there does not exist. `asked` keeps
what was asked. No query leaves the machine: what is not in `records` does not exist.
"""

import contextlib
import socket
import socketserver
import threading
from typing import Any, Final

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.support.ports import free_port

FAILS: Final = "FAILS"
SILENT: Final = "SILENT"

Records = dict[str, Any]


class DnsServer:
    """See the module. Use it as a context manager."""

    def __init__(self, records: Records | None = None) -> None:
        self.records: Records = {} if records is None else records
        self.asked: list[tuple[str, str]] = []
        self.port = free_port()
        self._servers: list[socketserver.BaseServer] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        outer = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, connection = self.request
                if (wire := outer.answer(data, 1232)) is not None:
                    connection.sendto(wire, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                size_bytes = int.from_bytes(self.rfile.read(2), "big")
                if (wire := outer.answer(self.rfile.read(size_bytes), 65535)) is not None:
                    self.wfile.write(len(wire).to_bytes(2, "big") + wire)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._servers = [
            socketserver.UDPServer(("127.0.0.1", self.port), Udp),
            socketserver.ThreadingTCPServer(("127.0.0.1", self.port), Tcp),
        ]
        for each in self._servers:
            threading.Thread(target=each.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        for each in self._servers:
            each.shutdown()
            each.server_close()
        self._servers = []

    def __enter__(self) -> "DnsServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, data: bytes, most_bytes: int) -> bytes | None:
        """The answer to one query; None: say nothing."""
        with contextlib.suppress(dns.exception.DNSException):
            query = dns.message.from_wire(data)
            question = query.question[0]
            name = b".".join(question.name.labels[:-1]).decode("latin-1").lower()
            kind = dns.rdatatype.to_text(question.rdtype)
            self.asked.append((name, kind))
            response = dns.message.make_response(query)
            response.flags |= dns.flags.AA | dns.flags.RA
            if not self._fill(response, name, kind):
                return None
            wire = response.to_wire(max_size=65535)
            if len(wire) > most_bytes:
                response.answer.clear()
                response.flags |= dns.flags.TC
                wire = response.to_wire()
            return wire
        return None

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> bool:
        """Put the records into the response. False: do not answer."""
        for _ in range(12):
            entry = self.records.get(name)
            values = entry if isinstance(entry, str) or entry is None else entry.get(kind)
            if values == SILENT:
                return False
            if values == FAILS:
                response.set_rcode(dns.rcode.SERVFAIL)
                return True
            if entry is None:
                if not any(each.endswith(f".{name}") for each in self.records):
                    response.set_rcode(dns.rcode.NXDOMAIN)
                return True
            target = entry.get("CNAME")
            if target and kind != "CNAME":
                _add(response, name, "CNAME", target)
                name = target[0].lower().rstrip(".")
                continue
            if isinstance(values, list) and values:
                _add(response, name, kind, values)
            return True
        response.answer.clear()  # a chain without an end
        return True


def _add(response: dns.message.Message, name: str, kind: str, values: list[Any]) -> None:
    rdatas = [_rdata(kind, value) for value in values]
    labels = [label.encode("latin-1") for label in name.split(".")]
    response.answer.append(dns.rrset.from_rdata_list(dns.name.Name([*labels, b""]), 300, rdatas))


def _rdata(kind: str, value: Any) -> dns.rdata.Rdata:
    if kind in ("TXT", "SPF"):
        pieces = [value] if isinstance(value, str | bytes) else value or [""]
        raw = [piece.encode("utf-8", "surrogateescape") if isinstance(piece, str) else piece for piece in pieces]
        cut = [part for piece in raw for part in (piece[at : at + 255] for at in range(0, max(len(piece), 1), 255))]
        wire = b"".join(bytes([len(part)]) + part for part in cut)
        return dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.from_text(kind), wire, 0, len(wire))
    text = value if kind in ("A", "AAAA", "MX") else f"{value}"
    if kind in ("CNAME", "PTR") and not text.endswith("."):
        text += "."
    if kind == "MX":
        preference, _, host = text.partition(" ")
        text = f"{preference} {host if host.endswith('.') else host + '.'}"
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(kind), text)


def closed_port() -> str:
    """The address of a name server that is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
