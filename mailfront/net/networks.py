"""Lists of networks whose word is believed, and IP addresses in one canonical form. Pure."""

import ipaddress
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_network(value: Any) -> Network:
    """Read `10.0.0.0/8`, `2001:db8::/32` or a single address. Raises ValueError with the reason."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        return ipaddress.ip_network(value)
    except (ValueError, TypeError) as error:
        hint = f"; did you mean {ipaddress.ip_network(value, strict=False)}?" if "host bits" in str(error) else ""
        raise ValueError(f'{value!r} is not a network such as "10.0.0.0/8" or "2001:db8::/32"{hint}') from error


Networks = Annotated[
    tuple[Annotated[Network, BeforeValidator(parse_network), PlainSerializer(str, return_type=str)], ...],
    Field(strict=False, max_length=1000),
]
"""A setting that lists networks, written as texts."""


@lru_cache(maxsize=8192)
def is_listed(ip: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address belongs to one of the networks. '' (a UNIX socket) and what is no address belong to none."""
    try:
        address = ipaddress.ip_address(canonical_ip(ip))
    except ValueError:
        return False
    return any(address in network for network in networks)


def canonical_ip(ip: str) -> str:
    """One spelling per address: an IPv4 address mapped into IPv6 is IPv4, a zone (`%eth0`) is cut, IPv6 is short.

    Raises ValueError for what is no address.
    """
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)
