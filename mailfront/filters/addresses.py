"""Where scanners are, as settings write it: one address or a list of them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

MOST_HOSTS = 16


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _address(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith("unix:/") and len(value) > len("unix:/"):
        return value
    split_tcp(value)
    return value


def split_tcp(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[ipv6]:port`. Raises ValueError with the reason."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f'{address!r}: an IPv6 address stands in brackets, such as "[::1]:3310"')
    if not colon or not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f'{address!r} is no address; write "host:port" or "unix:/path"')
    return host, int(port)


ScannerAddresses = Annotated[
    tuple[Annotated[str, BeforeValidator(_address)], ...],
    BeforeValidator(_one_or_more),
    Field(strict=False, min_length=1, max_length=MOST_HOSTS),
]
"""`"host:port"`, `"[ipv6]:port"` or `"unix:/path"`; one, or a list of hosts that take turns and stand in for each
other."""
