"""Networks whose word is believed."""

import ipaddress

import pytest

from mailfront.net.networks import canonical_ip, is_listed, parse_network

LISTED = tuple(parse_network(text) for text in ("10.0.0.0/8", "192.0.2.7", "2001:db8::/32"))


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("10.255.0.1", True),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::1", True),
        ("2001:DB8:0::1%eth0", True),
        ("2001:db9::1", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_membership(ip: str, expected: bool) -> None:
    """An address in any spelling belongs to its network; a UNIX socket and nonsense belong to none."""
    assert is_listed(ip, LISTED) is expected


def test_canonical_addresses() -> None:
    """One spelling per address."""
    assert canonical_ip("::ffff:192.0.2.1") == "192.0.2.1"
    assert canonical_ip("2001:DB8:0:0::1") == "2001:db8::1"
    assert canonical_ip("fe80::1%eth0") == "fe80::1"


def test_a_network_with_host_bits_is_refused_with_a_suggestion() -> None:
    """A probable slip is named, not guessed."""
    with pytest.raises(ValueError, match=r"did you mean 10\.0\.0\.0/8"):
        parse_network("10.1.2.3/8")
    with pytest.raises(ValueError, match="is not a network"):
        parse_network(5.5)
    network = ipaddress.ip_network("10.0.0.0/8")
    assert parse_network(network) is network
