"""How settings name the name servers to ask. Pure; without dnspython, so that reading a configuration stays quick."""

import ipaddress
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_SERVER = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})")
DNS_PORT = 53


def parse_name_server(value: Any) -> tuple[str, int]:
    """Address and port of `192.0.2.53`, `192.0.2.53:5353` or `[2001:db8::53]:53`. Raises ValueError with the reason."""
    match = _SERVER.fullmatch(value) if isinstance(value, str) else None
    host, port = (match[1] or match[2], int(match[3])) if match else (value, DNS_PORT)
    try:
        if not isinstance(value, str) or not 0 < port < 65536:
            raise ValueError(port)
        return str(ipaddress.ip_address(host)), port
    except ValueError as error:
        raise ValueError(f'{value!r} is not a name server; write "192.0.2.53" or "192.0.2.53:5353"') from error


def _checked(value: Any) -> Any:
    parse_name_server(value)
    return value


NameServers = Annotated[tuple[Annotated[str, BeforeValidator(_checked)], ...], Field(strict=False, max_length=16)]
"""A setting that lists name servers."""
