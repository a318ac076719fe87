"""What `[storage]` and `[[node]]` accept, and what they say about mistakes."""

from typing import Any

import pytest
from pydantic import ValidationError

from mailfront.cluster.hashing import Node
from mailfront.cluster.settings import NodeSettings, StorageSettings, node_problems
from mailfront.mail.names import NodeId

HANDOFF = {"handoff_mailbox": "handoff@example.edu", "handoff_password_file": "/p", "secret_file": "/s"}


def storage(**values: Any) -> StorageSettings:
    return StorageSettings.model_validate({"cluster": "example", **HANDOFF, **values})


def node(**values: Any) -> NodeSettings:
    return NodeSettings.model_validate({"id": "store1", "host": "10.0.0.11", **values})


def test_storage_defaults() -> None:
    """A cluster name and the handoff account are enough."""
    settings = storage()
    assert (settings.layout, settings.secondaries, settings.node_user) == ("sharded", 1, "{mailbox}")
    assert settings.master_user is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layout": "shared"}, "not in this version"),
        ({"cluster": "x" * 65}, "cluster"),
        ({"cluster": ""}, "cluster"),
        ({"node_user": "{login}"}, "{mailbox}"),
        ({"node_user": "{mailbox} x"}, "{mailbox}"),
        ({"node_user": "mailbox"}, "{mailbox}"),
        ({"handoff_mailbox": "handoff"}, "not an address"),
        ({"handoff_mailbox": "häns@example.edu"}, "ASCII"),
        ({"handoff_mailbox": None}, "handoff_mailbox missing"),
        ({"secret_file": None}, "secret_file missing"),
        ({"master_user": "m"}, "go together"),
        ({"secondaries": 64}, "64"),
        ({"moves": 3}, "Extra inputs"),
    ],
)
def test_storage_mistakes(values: dict[str, Any], words: str) -> None:
    """A mistake is refused with its reason."""
    with pytest.raises(ValidationError, match=words):
        storage(**values)


def test_no_secondaries_needs_no_handoff_account() -> None:
    """With secondaries = 0 nothing about handoffs has to be set."""
    assert StorageSettings.model_validate({"cluster": "example", "secondaries": 0}).handoff_mailbox is None


def test_ways_into_a_node() -> None:
    """A port, a table with TLS, a UNIX socket; shown as they were written."""
    settings = node(lmtp={"port": 24, "tls": "starttls"}, imap=1143, sieve="unix:/run/sieve")
    assert (settings.lmtp.port, settings.lmtp.tls) == (24, "starttls")
    assert (settings.imap.port, settings.imap.path) == (1143, None)
    assert settings.sieve.path == "/run/sieve"
    assert settings.pop3.port == 110
    shown = settings.model_dump()
    assert (shown["lmtp"], shown["imap"], shown["sieve"]) == (
        {"port": 24, "tls": "starttls"},
        1143,
        "unix:/run/sieve",
    )
    assert NodeSettings.model_validate(shown) == settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lmtp": 0}, "greater than or equal to 1"),
        ({"lmtp": "24"}, "not a way into a node"),
        ({"lmtp": "unix:relative"}, "not a way into a node"),
        ({"lmtp": True}, "lmtp"),
        ({"lmtp": {"tls": "starttls"}}, "write a port"),
        ({"lmtp": {"path": "/s", "tls": "implicit"}}, "no TLS"),
        ({"id": "store 1"}, "not a node id"),
        ({"id": ""}, "not a node id"),
        ({"host": "a b"}, "not a host name"),
        ({"host": ""}, "host is missing"),
        ({"weight": 0}, "greater than or equal to 1"),
        ({"weight": "100"}, "valid integer"),
        ({"lmtp_connections": 0}, "greater than or equal to 1"),
    ],
)
def test_node_mistakes(values: dict[str, Any], words: str) -> None:
    """A mistake is refused with its reason."""
    with pytest.raises(ValidationError, match=words):
        node(**values)


@pytest.mark.parametrize("host", ["::1", "fe80::1%eth0", "store1.example.edu", "10.0.0.11"])
def test_hosts(host: str) -> None:
    """Names and addresses of both families."""
    assert node(host=host).host == host


def test_unix_only_node_needs_no_host() -> None:
    """A node that is reached by sockets needs no address."""
    assert NodeSettings.model_validate({"id": "n", "lmtp": "unix:/l", "imap": "unix:/i"}).host == ""


def test_placement_sees_id_weight_and_zone() -> None:
    """Nothing else of a node counts."""
    assert node(weight=50, zone="rack-a").as_node() == Node(NodeId("store1"), 50, "rack-a")


def test_problems_between_nodes() -> None:
    """No node, too many nodes, and one id for two nodes are named."""
    assert node_problems([node()]) == ()
    assert "no [[node]]" in node_problems([])[0]
    assert "at most 64" in node_problems([node(id=f"n{number}") for number in range(65)])[0]
    assert "used 2 times" in node_problems([node(), node(id="STORE1")])[0]


def test_a_port_may_want_a_proxy_header() -> None:
    """Shown as it was written; not for mail, and not for a UNIX socket."""
    node = NodeSettings.model_validate(
        {"id": "store1", "host": "10.0.0.1", "imap": {"port": 143, "proxy": True, "tls": "starttls"}, "pop3": 110}
    )
    assert node.imap.proxy
    assert not node.pop3.proxy
    assert node.model_dump()["imap"] == {"port": 143, "tls": "starttls", "proxy": True}
    for wrong in ({"lmtp": {"port": 24, "proxy": True}}, {"imap": {"path": "/run/imap", "proxy": True}}):
        with pytest.raises(ValidationError, match=r"proxy|PROXY"):
            NodeSettings.model_validate({"id": "store1", "host": "10.0.0.1", **wrong})
