"""The network that a client's address is counted by: its /24 (IPv4) or /64 (IPv6). Pure.

Senders with many servers send from neighbours, and a host with IPv6 has a whole /64 to choose from.
"""

import ipaddress
from functools import lru_cache

IPV4_BITS, IPV6_BITS = 24, 64


@lru_cache(maxsize=8192)
def client_network(ip: str) -> str:
    """`192.0.2.0/24` for `192.0.2.77`; '' for what is no address, such as the client of a UNIX socket."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ""
    bits = IPV4_BITS if address.version == 4 else IPV6_BITS
    return str(ipaddress.ip_network((address, bits), strict=False))
