"""Addresses and domains whose mail goes to a server that is no storage node: `[[route]]`, looked up. Pure.

An address that has a route of its own goes there whatever its domain and the directory say; a detail behind `+` changes
nothing. A domain that has a route goes there whole: it needs no directory entry.
"""

from collections.abc import Iterable

from mailfront.mail.address import Address, parse_path
from mailfront.mail.names import NodeId
from mailfront.mail.next_hop import route_hop


class RouteTable:
    """Frozen after it is made. Two look-ups in a dict for an address, one more for its detail."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """`names` are domains and addresses in the form of `route_name`."""
        self._hops = {name: route_hop(name) for name in names}

    def __bool__(self) -> bool:
        """Whether there is any route."""
        return bool(self._hops)

    def of_address(self, address: Address) -> NodeId | None:
        """The hop of a route that names this very address."""
        if not self._hops:
            return None
        return self._hops.get(address.key) or self._hops.get(address.split_detail()[0].key)

    def find(self, address: Address) -> NodeId | None:
        """Where mail for this address goes if a route says so: the address's own, else its domain's."""
        return self.of_address(address) or self._hops.get(address.domain)


def route_name(text: str) -> str | None:
    """The one way to write the domain or address of a route; None if the text is neither."""
    address = parse_path(text if "@" in text else f"x@{text}")
    if address is None or not address.domain or address.domain.startswith("["):
        return None
    return address.key if "@" in text else address.domain
