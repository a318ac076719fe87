"""`proxy = true` at a node's ports, with real Dovecots: they hear of the client by a PROXY header, and only by it.

The nodes trust no network (`login_trusted_networks` is empty): what IMAP ID and XCLIENT say counts for nothing there.
One node has plain ports, the other one TLS: implicit for IMAP, STARTTLS for POP3 and ManageSieve.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest

from tests.support.certificates import Authority, CertificateFiles
from tests.support.dovecot import HANDOFF_USER, DovecotNode, start_together
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.session_client import LIMIT_S, OK, WRONG, Clients
from tests.support.session_cluster import ROLES, SessionCluster, listener

SERVICES = {"imap": "imap-login", "pop3": "pop3-login", "sieve": "managesieve-login"}
CLIENTS = {"imap": "198.51.100.7", "pop3": "203.0.113.66", "sieve": "192.0.2.99"}


@dataclass
class _ProxiedNode:
    """A node whose session ports want the header. Its own ports stay for LMTP and for the wait until it greets."""

    dovecot: DovecotNode
    imap: Mapping[str, object]
    pop3: Mapping[str, object]
    sieve: Mapping[str, object]

    @property
    def id(self) -> str:
        return self.dovecot.id

    @property
    def host(self) -> str:
        return self.dovecot.host

    @property
    def lmtp(self) -> int:
        return self.dovecot.lmtp


def _node(name: str, tls: CertificateFiles | None) -> _ProxiedNode:
    ports = {role: free_port() for role in ROLES}
    implicit = "    ssl = yes\n" if tls is not None else ""
    services = "".join(
        f"service {SERVICES[role]} {{\n  inet_listener {role}_proxied {{\n    port = {port}\n    haproxy = yes\n"
        f"{implicit if role == 'imap' else ''}  }}\n}}\n"
        for role, port in ports.items()
    )
    settings = (
        f"login_trusted_networks =\nhaproxy_trusted_networks = 127.0.0.0/8\ndisable_plaintext_auth = no\n{services}"
    )
    ways: dict[str, dict[str, object]] = {role: {"port": port, "proxy": True} for role, port in ports.items()}
    if tls is not None:
        ways["imap"]["tls"], ways["pop3"]["tls"], ways["sieve"]["tls"] = "implicit", "starttls", "starttls"
    return _ProxiedNode(DovecotNode(name, tls=tls, settings=settings), **ways)


@pytest.fixture(scope="module")
def nodes(server_certificate: CertificateFiles) -> Iterator[Sequence[_ProxiedNode]]:
    """One without TLS, one with."""
    made = [_node("store1", None), _node("store2", server_certificate)]
    start_together([node.dovecot for node in made])
    yield made
    for node in made:
        node.dovecot.kill9()


@pytest.fixture(scope="module")
def cluster(
    nodes: Sequence[_ProxiedNode], server_certificate: CertificateFiles, authority: Authority
) -> Iterator[SessionCluster]:
    """A front end behind a load balancer that says who the client is."""
    made = SessionCluster(
        nodes,  # type: ignore[arg-type]
        server_certificate,
        listen=[listener(role, proxy_protocol=["127.0.0.1/32"]) for role in ROLES],
        settings={
            "login": {"failure_delay": "0s", "plaintext": "always", "auth": "node"},
            "node_tls": {"ca": str(authority.ca_file)},
        },
        name="proxied-nodes",
    )
    made.start()
    yield made
    made.server.stop()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("number", [0, 1])
def test_the_node_sees_the_clients_address(
    cluster: SessionCluster, clients: Clients, nodes: Sequence[_ProxiedNode], role: str, number: int
) -> None:
    """A right password logs in, a wrong one does not; the node logs the client's own address, and the session works."""
    node = nodes[number]
    user = cluster.at(node.id)
    assert clients.connect(role, 1, source=CLIENTS[role]).login(user, "guess").startswith(WRONG[role])
    client = clients.log_in(role, user, 1, source=CLIENTS[role])
    name = SERVICES[role].removesuffix("-login")
    line = re.compile(rf"{name}-login: Info: Login: user=<{user}>.*")
    said = wait_until(lambda: line.findall(node.dovecot.log_text()), LIMIT_S, "the node's log")
    assert f"rip={CLIENTS[role]}," in said[0]
    command = {"imap": "a SELECT INBOX", "pop3": "STAT", "sieve": "LISTSCRIPTS"}[role]
    assert client.ask(command).startswith(OK[role])


def test_a_client_of_ours_is_named_too(
    cluster: SessionCluster, clients: Clients, nodes: Sequence[_ProxiedNode]
) -> None:
    """Without a balancer in front the client is whoever connected."""
    user = cluster.at("store1")
    clients.log_in("imap", user)
    line = re.compile(rf"imap-login: Info: Login: user=<{user}>.*")
    said = wait_until(lambda: line.findall(nodes[0].dovecot.log_text()), LIMIT_S, "the node's log")
    assert "rip=127.0.0.1," in said[0]


def test_what_we_do_for_ourselves_begins_with_a_header_too(
    nodes: Sequence[_ProxiedNode], server_certificate: CertificateFiles, authority: Authority
) -> None:
    """Logins as the handoff account and as the master user: by `config check`, and by the keeper, which finds the nodes
    up."""
    tables = [
        {"id": each.id, "host": each.host, "lmtp": each.lmtp, **{role: getattr(each, role) for role in ROLES}}
        for each in nodes
    ]
    server = MailfrontServer(
        tables, [], tls=server_certificate, settings={"node_tls": {"ca": str(authority.ca_file)}}, name="proxied-keeper"
    )
    server.start()
    try:
        checked = server.cli("config", "check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        for node in nodes:
            seen = len(_handoff_logins(node))
            assert seen >= 2
            wait_until(lambda: len(_handoff_logins(node)) > seen, LIMIT_S, "a look by the keeper")  # noqa: B023
        states = server.cli_json("node", "list")
        assert "down" not in str(states).lower()
        assert "suspect" not in str(states).lower()
    finally:
        server.stop()


def _handoff_logins(node: _ProxiedNode) -> list[str]:
    return re.findall(rf"imap-login: Info: Login: user=<{HANDOFF_USER}>.*", node.dovecot.log_text())
