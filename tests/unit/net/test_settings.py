"""Settings of listeners and TLS."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mailfront.net.settings import ListenSettings, NodeTlsSettings, TlsSettings


def test_a_listener_as_in_the_manual() -> None:
    """Every key of [[listen]] is read; networks come as texts in a list."""
    listener = ListenSettings.model_validate(
        {
            "role": "smtp",
            "address": "[::]:25",
            "tls": "starttls",
            "proxy_protocol": ["10.0.0.0/8"],
            "xclient": ["192.0.2.1", "2001:db8::/32"],
            "bare_newline": "reject",
            "dsn": True,
        }
    )
    assert [str(network) for network in listener.xclient] == ["192.0.2.1/32", "2001:db8::/32"]
    assert listener.model_dump(mode="json")["proxy_protocol"] == ["10.0.0.0/8"]


def test_an_admin_listener_is_on_loopback_unless_told_otherwise() -> None:
    """Metrics are not shown to the world by forgetting a line."""
    assert ListenSettings.model_validate({"role": "admin"}).address.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"role": "imap", "address": "0.0.0.0:143", "dsn": True}, "xclient and dsn are for mail"),
        ({"role": "submission", "address": "0.0.0.0:587"}, "not in this version"),
        ({"role": "smtp"}, "address is missing"),
        ({"role": "smtp", "address": ""}, "address is missing"),
        ({"role": "smtp", "address": "mx.example.edu:25"}, "is not an IP address with a port"),
        ({"role": "lmtp", "address": "unix:/run/x", "tls": "starttls"}, "a UNIX socket has no tls"),
        ({"role": "admin", "address": "127.0.0.1:1", "dsn": True}, "an admin listener has no"),
        ({"role": "admin", "address": "unix:/run/x"}, "needs a TCP address"),
        ({"role": "smtp", "address": "0.0.0.0:25", "xclient": ["10.1.1.1/8"]}, "did you mean 10.0.0.0/8"),
        ({"role": "smtp", "address": "0.0.0.0:25", "auth": True}, "Extra inputs are not permitted"),
        ({"role": "lmtp", "address": "unix:/run/x", "socket_mode": "rw"}, "should match pattern"),
    ],
)
def test_mistakes_of_a_listener(data: dict[str, Any], reason: str) -> None:
    """Each mistake is refused with a reason that says what to write."""
    with pytest.raises(ValidationError) as caught:
        ListenSettings.model_validate(data)
    assert reason in str(caught.value)


def test_one_certificate_or_several_by_name() -> None:
    """The plain form and the tables give the same thing; names are compared in lower case."""
    plain = TlsSettings.model_validate({"certificate": "/c.pem", "key": "/k.pem"})
    assert [(each.names, each.certificate, each.key) for each in plain.certificates] == [
        ((), Path("/c.pem"), Path("/k.pem"))
    ]
    several = TlsSettings.model_validate(
        {
            "certificate": [
                {"certificate": "/c.pem", "key": "/k.pem"},
                {"names": ["MX2.Example.edu."], "certificate": "/c2.pem", "key": "/k2.pem"},
            ]
        }
    )
    assert [each.names for each in several.certificates] == [(), ("mx2.example.edu",)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"certificate": "/c.pem"}, "key is missing"),
        ({"certificate": [], "key": None}, "exactly one"),
        ({"certificate": [{"names": ["a"], "certificate": "/c", "key": "/k"}]}, "exactly one"),
        ({"certificate": [{"certificate": "/c", "key": "/k"}], "key": "/k"}, "remove tls.key"),
        (
            {
                "certificate": [
                    {"certificate": "/c", "key": "/k"},
                    {"names": ["a"], "certificate": "/c", "key": "/k"},
                    {"names": ["A"], "certificate": "/c", "key": "/k"},
                ]
            },
            "a: named by more than one",
        ),
    ],
)
def test_mistakes_of_certificates(data: dict[str, Any], reason: str) -> None:
    """There is one certificate for everybody, and no name is claimed twice."""
    with pytest.raises(ValidationError) as caught:
        TlsSettings.model_validate(data)
    assert reason in str(caught.value)


def test_nodes_are_verified_by_default() -> None:
    """Only a written `verify = false` turns verification off; client certificate and key go together."""
    assert NodeTlsSettings().verify is True
    with pytest.raises(ValidationError, match="go together"):
        NodeTlsSettings.model_validate({"client_certificate": "/c.pem"})
