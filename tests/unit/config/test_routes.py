"""`[[route]]`: what it may say, alone and beside the rest of the file."""

import pytest

from mailfront.config.load import parse
from mailfront.mail.next_hop import route_hop
from tests.unit.config.test_load import GOOD, PATH, problems

LISTS = """
[[route]]
domain = "Lists.Example.edu"
host = "10.0.0.30"
lmtp = 8024
"""


def test_a_route_of_a_domain_and_one_of_an_address() -> None:
    """Names are folded; TLS is written as for a node."""
    help_desk = '[[route]]\naddress = "Help@example.edu"\nhost = "otrs"\nlmtp = { port = 24, tls = "starttls" }\n'
    lists, desk = parse(GOOD + LISTS + help_desk, PATH).route
    assert (lists.name, lists.hop, lists.lmtp.tls) == ("lists.example.edu", route_hop("lists.example.edu"), "off")
    assert (desk.name, desk.lmtp.tls, desk.connections) == ("help@example.edu", "starttls", 4)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('host = "h"\nlmtp = 24', "for one domain or for one address"),
        ('domain = "a.edu"\naddress = "x@example.edu"\nhost = "h"\nlmtp = 24', "for one domain or for one address"),
        ('domain = "x@a.edu"\nhost = "h"\nlmtp = 24', "is an address"),
        ('address = "a.edu"\nhost = "h"\nlmtp = 24', "is a domain"),
        ('domain = "two words"\nhost = "h"\nlmtp = 24', "not a domain or an address"),
        ('domain = "a.edu"\nlmtp = 24', "host is missing"),
        ('domain = "a.edu"\nhost = "h"', "lmtp: is missing"),
        ('domain = "a.edu"\nhost = "h h"\nlmtp = 24', "not a host name"),
        ('domain = "a.edu"\nhost = "h"\nlmtp = 24\nimap = 143', "no such setting"),
        ('domain = "example.edu"\nhost = "h"\nlmtp = 24', "is in domains.local too"),
        ('address = "x@elsewhere.org"\nhost = "h"\nlmtp = 24', "the domain of x@elsewhere.org is not ours"),
        ('address = "postmaster@example.edu"\nhost = "h"\nlmtp = 24', "the mail of postmaster.address"),
        ('address = "handoff@example.edu"\nhost = "h"\nlmtp = 24', "the mail of storage.handoff_mailbox"),
        ('domain = "a.edu"\nhost = "10.0.0.11"\nlmtp = 24', "LMTP port of node store1"),
        ('domain = "a.edu"\nlmtp = "unix:/run/store2/lmtp"', "LMTP port of node store2"),
    ],
)
def test_a_wrong_route_is_refused_with_what_is_wrong(table: str, complaint: str) -> None:
    """One line for one mistake."""
    (line,) = problems(GOOD + "[[route]]\n" + table + "\n")
    assert line.startswith("route")
    assert complaint in line


def test_a_name_has_one_route_and_an_address_may_be_of_a_routed_domain() -> None:
    """Two ways for one name are a mistake; one address of a routed domain may go elsewhere."""
    (line,) = problems(GOOD + LISTS + LISTS)
    assert "lists.example.edu has 2 routes" in line
    one = '[[route]]\naddress = "x@lists.example.edu"\nhost = "h"\nlmtp = 24\n'
    assert len(parse(GOOD + LISTS + one, PATH).route) == 2
