"""XCLIENT and XFORWARD: a listed peer says who its client is (as Postfix defines them). Pure.

Values are xtext. `[UNAVAILABLE]` and `[TEMPUNAVAIL]` mean: not known. An IPv6 address is written `IPV6:` and the
address. Of all attributes ADDR, PORT and HELO are used; the others are checked and dropped.
"""

import re
from dataclasses import dataclass

from mailfront.base.printable import printable
from mailfront.net.networks import canonical_ip

XCLIENT_ATTRIBUTES = frozenset({"NAME", "ADDR", "PORT", "PROTO", "HELO"})
XFORWARD_ATTRIBUTES = XCLIENT_ATTRIBUTES | {"IDENT", "SOURCE"}
MAX_VALUE_CHARS = 255
_UNKNOWN = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})+")
_ESCAPED = re.compile(r"\+([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardedClient:
    """The client that a peer speaks for. None: the peer did not say, or does not know."""

    ip: str | None = None
    port: int | None = None
    helo: str | None = None

    def updated(self, later: "ForwardedClient") -> "ForwardedClient":
        """What is known after one more command of the same kind."""
        return ForwardedClient(
            ip=later.ip if later.ip is not None else self.ip,
            port=later.port if later.port is not None else self.port,
            helo=later.helo if later.helo is not None else self.helo,
        )


def read_attributes(command: str, argument: str | None) -> ForwardedClient | None:
    """Read what stands behind XCLIENT or XFORWARD. Returns None if it is malformed."""
    allowed = XCLIENT_ATTRIBUTES if command == "XCLIENT" else XFORWARD_ATTRIBUTES
    parts = (argument or "").split()
    ip: str | None = None
    port: int | None = None
    helo: str | None = None
    for part in parts:
        keyword, _, raw = part.partition("=")
        keyword = keyword.upper()
        if keyword not in allowed or len(raw) > MAX_VALUE_CHARS or _XTEXT.fullmatch(raw) is None:
            return None
        if raw.upper() in _UNKNOWN:
            continue
        value = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), raw)
        if keyword == "ADDR":
            try:
                ip = canonical_ip(value[5:] if value[:5].upper() == "IPV6:" else value)
            except ValueError:
                return None
        elif keyword == "PORT":
            if not (value.isascii() and value.isdigit()) or int(value) > 65535:
                return None
            port = int(value)
        elif keyword == "HELO":
            helo = printable(value, MAX_VALUE_CHARS)
    return ForwardedClient(ip=ip, port=port, helo=helo) if parts else None
