"""`login.auth = "node"` with real Dovecots: they judge passwords and tokens, the directory says whose mailbox it is.

The directory has another password for everybody, which must count for nothing.
"""

import hmac
import json
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Sequence

import pytest

from tests.support.certificates import CertificateFiles
from tests.support.dovecot import DovecotNode, start_together
from tests.support.processes import new_directory, wait_until
from tests.support.session_client import LIMIT_S, OK, WRONG, Clients
from tests.support.session_cluster import PASSWORD, ROLES, USERS, SessionCluster

TOKEN_KEY = b"a key that only the token issuer and the nodes have"
IN_DIRECTORY = "directory-only"
BEARER = ("XOAUTH2", "OAUTHBEARER")


def _token_settings() -> str:
    """Dovecot checks tokens by itself, with a key from a file."""
    folder = new_directory("tokens")
    key = folder / "keys" / "default" / "HS256" / "default"
    key.parent.mkdir(parents=True)
    key.write_bytes(b64encode(TOKEN_KEY))
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o755 if each.is_dir() else 0o644)
    file = folder / "oauth2.conf.ext"
    file.write_text(
        f"introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix={folder}/keys/\n"
        "username_attribute = sub\n"
    )
    return f"""
auth_mechanisms = plain login xoauth2 oauthbearer
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {file}
}}
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Sequence[DovecotNode]]:
    """Two Dovecots that take passwords and tokens."""
    made = [DovecotNode(name, settings=_token_settings()) for name in ("store1", "store2")]
    start_together(made)
    yield made
    for node in made:
        node.kill9()


@pytest.fixture(scope="module")
def cluster(nodes: Sequence[DovecotNode], server_certificate: CertificateFiles) -> Iterator[SessionCluster]:
    """A front end that lets them judge."""
    made = SessionCluster(
        nodes,
        server_certificate,
        settings={"login": {"auth": "node", "failure_delay": "0s", "attempts": 20}},
        name="node-judges",
        passwords=dict.fromkeys(USERS, IN_DIRECTORY),
    )
    made.start()
    yield made
    made.server.stop()


def _ways(role: str, user: str, password: str) -> dict[str, tuple[str, ...]]:
    """Every way to say name and password, as the lines of one login."""
    plain = b64encode(f"\0{user}\0{password}".encode()).decode()
    name, secret = (b64encode(each.encode()).decode() for each in (user, password))
    ways: dict[str, dict[str, tuple[str, ...]]] = {
        "imap": {
            "LOGIN": (f"a LOGIN {user} {password}",),
            "AUTHENTICATE PLAIN": (f"a AUTHENTICATE PLAIN {plain}",),
            "AUTHENTICATE LOGIN": ("a AUTHENTICATE LOGIN", name, secret),
        },
        "pop3": {
            "USER": (f"USER {user}", f"PASS {password}"),
            "AUTH PLAIN": (f"AUTH PLAIN {plain}",),
            "AUTH LOGIN": ("AUTH LOGIN", name, secret),
        },
        "sieve": {"AUTHENTICATE": (f'AUTHENTICATE "PLAIN" "{plain}"',)},
    }
    return ways[role]


def _try(clients: Clients, role: str, lines: Sequence[str]) -> str:
    """Log in on a new connection; the last line of the answer."""
    client = clients.connect(role)
    for line in lines[:-1]:
        client.send(line)
        client.until(b"+")
    return client.ask(lines[-1])


@pytest.mark.parametrize("role", ROLES)
def test_the_node_says_which_password_is_right(cluster: SessionCluster, clients: Clients, role: str) -> None:
    """At both nodes, by every way to say a password: the node's own logs in, the directory's and others do not."""
    for node in cluster.nodes:
        user = cluster.at(node)
        clients.log_in(role, user)
        assert {row["node"] for row in cluster.sessions(user)} == {node}
        for password in (IN_DIRECTORY, "guess", "x" * 400):
            for way, lines in _ways(role, user, password).items():
                assert _try(clients, role, lines).startswith(WRONG[role]), (way, password)
            for way, lines in _ways(role, user, PASSWORD).items():
                assert _try(clients, role, lines).startswith(OK[role]), way


@pytest.mark.parametrize("role", ROLES)
def test_a_wrong_password_ends_in_the_login_at_the_node(cluster: SessionCluster, clients: Clients, role: str) -> None:
    """Its line says who said no; the node stays in use, and the same connection may try again."""
    user = cluster.at("store1")
    client = clients.connect(role)
    for _ in range(4):
        assert client.login(user, "guess").startswith(WRONG[role])
    assert client.login(user).startswith(OK[role])
    failed = [event for event in cluster.server.events("login_failed") if event["login"] == user]
    assert {(event["position"], event["node"], event["result"]) for event in failed} == {
        ("node login", "store1", "failed")
    }


def test_capabilities_after_the_login_are_the_nodes(cluster: SessionCluster, clients: Clients) -> None:
    """What Dovecot can do after a login is what the client hears, with the answer and when it asks."""
    user = cluster.at("store2")
    client = clients.connect("imap")
    answer = client.login(user)
    named = answer.partition("[CAPABILITY ")[2].partition("]")[0].split()
    client.send("a CAPABILITY")
    listed = client.until(b"* CAPABILITY").split()[2:]
    assert {"IDLE", "NAMESPACE", "UIDPLUS", "QUOTA"} <= set(named)
    assert set(listed) - {"SASL-IR", "LOGIN-REFERRALS"} == set(named)


def _bearer(mechanism: str, user: str, token: str) -> str:
    said = (
        f"user={user}\1auth=Bearer {token}\1\1"
        if mechanism == "XOAUTH2"
        else f"n,a={user},\1host=localhost\1port=143\1auth=Bearer {token}\1\1"
    )
    return b64encode(said.encode()).decode()


def _token(user: str, key: bytes = TOKEN_KEY) -> str:
    """A JSON web token that says who its bearer is."""
    now_s = int(time.time())
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": user, "iat": now_s - 10, "nbf": now_s - 10, "exp": now_s + 600})
    text = ".".join(_web64(json.dumps(part).encode()) for part in parts)
    return f"{text}.{_web64(hmac.digest(key, text.encode(), 'sha256'))}"


def _web64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("mechanism", BEARER)
@pytest.mark.parametrize("role", ROLES)
def test_tokens_go_to_the_node_as_they_came(
    cluster: SessionCluster, clients: Clients, role: str, mechanism: str
) -> None:
    """Offered before the login because both nodes offer it; a token of the issuer logs in, another one does not, nor
    one for somebody else; each is answered in the protocol's words for a wrong password."""

    def offers() -> bool:
        client = clients.connect(role)
        command, line = {
            "imap": ("a CAPABILITY", b"* CAPABILITY"),
            "pop3": ("CAPA", b"SASL"),
            "sieve": ("CAPABILITY", b'"SASL"'),
        }[role]
        client.send(command)
        return mechanism in client.until(line)

    wait_until(offers, LIMIT_S, f"{mechanism} on offer")
    user, other = cluster.at("store1"), cluster.at("store2")

    def attempt(name: str, token: str) -> str:
        said = _bearer(mechanism, name, token)
        command = {
            "imap": f"a AUTHENTICATE {mechanism} {said}",
            "pop3": f"AUTH {mechanism} {said}",
            "sieve": f'AUTHENTICATE "{mechanism}" "{said}"',
        }[role]
        return clients.connect(role).ask(command)

    assert attempt(user, _token(user)).startswith(OK[role])
    assert attempt(user, _token(user, b"another key")).startswith(WRONG[role])
    assert attempt(user, _token(other)).startswith(WRONG[role])
