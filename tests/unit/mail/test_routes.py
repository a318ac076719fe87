"""Which addresses have a route, and how a route's domain or address is written."""

import pytest

from mailfront.mail.address import Address
from mailfront.mail.next_hop import is_next_hop, route_hop
from mailfront.mail.routes import RouteTable, route_name

TABLE = RouteTable(["lists.example.edu", "help@example.edu", "boss@lists.example.edu"])


@pytest.mark.parametrize(
    ("address", "hop"),
    [
        (Address("staff", "lists.example.edu"), "lists.example.edu"),
        (Address("staff-request", "lists.example.edu"), "lists.example.edu"),
        (Address("boss", "lists.example.edu"), "boss@lists.example.edu"),
        (Address("help", "example.edu"), "help@example.edu"),
        (Address("HELP", "example.edu"), "help@example.edu"),
        (Address("help+printer", "example.edu"), "help@example.edu"),
    ],
)
def test_an_address_goes_by_its_own_route_or_else_by_that_of_its_domain(address: Address, hop: str) -> None:
    """Case and detail of the local part do not matter; the address goes before the domain."""
    assert TABLE.find(address) == route_hop(hop)
    assert is_next_hop(route_hop(hop))


@pytest.mark.parametrize(
    "address", [Address("ana", "example.edu"), Address("help", "example.org"), Address("postmaster", "")]
)
def test_all_others_have_none(address: Address) -> None:
    """A route takes nothing that it does not name: no subdomain, no neighbour."""
    assert TABLE.find(address) is None
    assert TABLE.find(Address("x", "sub.lists.example.edu")) is None
    assert RouteTable().find(address) is None


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Lists.Example.EDU", "lists.example.edu"),
        ("lists.example.edu.", "lists.example.edu"),
        ("Help@Example.edu", "help@example.edu"),
        ("postmaster", "postmaster"),
        ("", None),
        ("two words", None),
        ("a@b@c", None),
        ("[192.0.2.1]", None),
        ("@example.edu", None),
        ("a..b", None),
    ],
)
def test_a_route_is_written_in_one_way(written: str, name: str | None) -> None:
    """What is no domain and no address is refused."""
    assert route_name(written) == name
