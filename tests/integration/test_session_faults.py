"""Sessions when something is wrong, and when an administrator ends them: Dovecot nodes that stop, die and come back.

One front end with two nodes of its own. Tests that change the nodes or the configuration bring them back.
"""

import json
import os
import re
import signal
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest

from tests.support.certificates import Authority, CertificateFiles
from tests.support.dovecot import DovecotNode, start_together
from tests.support.processes import wait_until
from tests.support.session_client import BYE, IN_CLEAR, LATER, LIMIT_S, OK, WRONG, Clients
from tests.support.session_cluster import PASSWORD, ROLES, SessionCluster, address, listener

LARGE_BYTES = 60_000_000


@pytest.fixture(scope="module")
def nodes() -> Iterator[Sequence[DovecotNode]]:
    """Two nodes that only this module stops."""
    made = [DovecotNode(name) for name in ("store1", "store2")]
    start_together(made)
    yield made
    for node in made:
        node.kill9()


@pytest.fixture(scope="module")
def cluster(nodes: Sequence[DovecotNode], server_certificate: CertificateFiles) -> Iterator[SessionCluster]:
    """A front end in front of them; logins wait long for a home that is down."""
    balanced = [listener(role, "starttls", proxy_protocol=["127.0.0.1/32"]) for role in ROLES]
    made = SessionCluster(
        nodes,
        server_certificate,
        listen=[*balanced, listener("admin")],
        settings={"login": {"failure_delay": "0s", "hold": "60s"}},
        name="session-faults",
    )
    made.start()
    yield made
    made.server.stop()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("source", "is_taken"), [("127.0.0.1", True), ("192.0.2.7", False)])
def test_a_password_in_clear_is_taken_from_this_machine_only(
    cluster: SessionCluster, clients: Clients, role: str, source: str, is_taken: bool
) -> None:
    """By default. Who speaks is what the load balancer says, not the load balancer."""
    answer = clients.connect(role, 1, source=source).login(cluster.at("store1"))
    assert answer.startswith(OK[role] if is_taken else IN_CLEAR[role])


@pytest.mark.parametrize("role", ROLES)
def test_nobody_can_lie_to_a_node_about_where_they_are(
    cluster: SessionCluster, clients: Clients, nodes: Sequence[DovecotNode], role: str
) -> None:
    """The node would believe us: what a client claims of itself does not get there, whatever its case."""
    lie = "203.0.113.66"
    user = cluster.at("store2")
    client = clients.connect(role)
    claims = {
        "imap": f'a ID ("name" "x" "X-Originating-IP" "{lie}" "x-originating-ip" {{12}}',
        "pop3": f"XCLIENT ADDR={lie}",
        "sieve": f'XCLIENT "ADDR={lie}"',
    }
    if role == "imap":
        client.send(claims["imap"])
        assert client.until(b"+")
        assert client.ask(f'{lie} "x-session-id" "forged")').startswith("a OK")
    else:
        assert client.ask(claims[role]).startswith(("-ERR", "NO"))
    assert client.login(user).startswith(OK[role])
    name = "managesieve" if role == "sieve" else role
    line = re.compile(rf"{name}-login: Info: Login: user=<{user}>.*")
    said = wait_until(lambda: line.findall(nodes[1].log_text()), LIMIT_S, "the node's log")
    assert "rip=127.0.0.1," in said[0]
    assert lie not in nodes[1].log_text()
    assert "forged" not in nodes[1].log_text()


def test_no_password_is_ever_written_down(cluster: SessionCluster, clients: Clients) -> None:
    """Right, wrong, or in a command that cannot be read: neither the log nor the events have it, nor its base64."""
    user = cluster.at("store1")
    secret = "not-for-any-log"
    plain = b64encode(f"\0{user}\0{secret}".encode()).decode()
    imap, pop3, sieve = (clients.connect(role) for role in ROLES)
    for client in (imap, pop3, sieve):
        assert client.login(user, secret).startswith(WRONG[client.role])
    assert imap.ask(f"a AUTHENTICATE PLAIN {plain}").startswith(WRONG["imap"])
    assert imap.ask(f'a LOGIN {user} "{secret}').startswith("a BAD")
    assert imap.ask(f"a LOGIN {user} {secret} {secret}").startswith("a BAD")
    assert pop3.ask(f"PASS {secret}").startswith("-ERR")
    assert sieve.ask(f"LOGIN {user} {secret}").startswith("NO")
    clients.log_in("imap", user)
    wait_until(lambda: len(_failures(cluster, user)) == 4, LIMIT_S, "a line for each wrong password")
    written = cluster.server.log_text() + json.dumps(cluster.server.events())
    for unwanted in (secret, plain, b64encode(secret.encode()).decode()):
        assert unwanted not in written


def _failures(cluster: SessionCluster, user: str) -> list[str]:
    failed = cluster.server.events("login_failed")
    return [each["position"] for each in failed if each.get("login") == user]


def kick(cluster: SessionCluster, *selector: str) -> int:
    """`session kick`; returns how many sessions ended."""
    return int(cluster.server.cli_json("session", "kick", *selector, "--reason", "a test")["ended"])


def test_sessions_are_ended_by_user_node_address_and_protocol(cluster: SessionCluster, clients: Clients) -> None:
    """Each selector ends exactly what it names, with a last word in each protocol; the audit knows who and why."""
    wait_until(lambda: cluster.ask("session.list")["total_count"] == 0, LIMIT_S, "the end of other tests' sessions")
    ana, bob, eve = cluster.at("store1"), cluster.at("store2"), cluster.at("store2")
    anas = {role: clients.log_in(role, ana) for role in ROLES}
    bobs = [clients.log_in(role, bob) for role in ROLES]
    eves = clients.log_in("imap", eve, 1, source="127.0.0.99")
    assert kick(cluster, "--node", "store1", "--dry-run") == 0
    assert kick(cluster, "--user", ana, "--protocol", "pop3") == 1
    assert anas["pop3"].rest().startswith(BYE["pop3"])
    assert kick(cluster, "--address", "127.0.0.0/25", "--address", "127.0.0.99", "--user", eve) == 1
    assert eves.rest().startswith(BYE["imap"])
    assert anas["imap"].answers()
    assert kick(cluster, "--node", "store1") == 2
    assert anas["imap"].rest().startswith(BYE["imap"])
    assert anas["sieve"].rest().startswith(BYE["sieve"])
    where = cluster.server.cli_json("user", "where", address(bob))
    assert (where["home"], len(where["sessions"])) == ("store2", 3)
    assert cluster.server.cli_json("user", "kick", address(bob))["ended"] == 3
    for client in bobs:
        assert client.rest().startswith(BYE[client.role])
    audited = cluster.server.events("admin_action")
    assert [(each["verb"], each["reason"], each["rows_count"]) for each in audited] == [
        *(("session kick", "a test", count) for count in (1, 1, 2)),
        ("user kick", "", 3),
    ]
    assert [each["end"] for each in cluster.server.events("session")].count("kicked") == 7


def test_in_the_middle_of_a_message_a_kicked_client_hears_nothing(
    cluster: SessionCluster, clients: Clients, nodes: Sequence[DovecotNode]
) -> None:
    """Our words would be read as a part of the message: then the connection just ends."""
    user = cluster.at("store1")
    client = clients.log_in("imap", user)
    assert client.ask("a SELECT INBOX").startswith("a OK")
    put_message(nodes[0], user, b"Subject: large\n\n" + b"x" * LARGE_BYTES)
    assert client.ask("a SELECT INBOX").startswith("a OK")
    client.send("b FETCH 1 BODY.PEEK[]")
    client.until(b"* 1 FETCH")
    assert cluster.server.cli_json("user", "kick", address(user))["matched"] == 1
    rest = client.rest()
    assert b"BYE" not in rest
    assert len(rest) < LARGE_BYTES


def put_message(node: DovecotNode, user: str, message: bytes) -> None:
    """Put a message into a mailbox that exists, as a delivery does."""
    (maildir,) = [path for name, path in node.mailbox_dirs().items() if name == user]
    path = maildir / "new" / "1.test"
    path.write_bytes(message)
    os.chown(path, maildir.stat().st_uid, maildir.stat().st_gid)


def test_the_register_is_whole_again_after_a_death_of_the_keeper_or_a_worker(
    cluster: SessionCluster, clients: Clients
) -> None:
    """Sessions go on while the keeper is away; then all are listed again. Those of a killed worker are not."""
    user = cluster.at("store1")
    opened = [clients.log_in("imap", user) for _ in range(4)]
    keeper, workers = cluster.server.keeper_pid(), cluster.server.workers()
    os.kill(keeper, signal.SIGKILL)
    assert all(client.answers() for client in opened)
    cluster.server.wait_for_parts(other_than=[keeper], timeout_s=LIMIT_S)
    wait_until(lambda: len(cluster.sessions(user)) == 4, LIMIT_S, "all sessions in the register")
    os.kill(workers[0], signal.SIGKILL)
    cluster.server.wait_for_parts(other_than=[workers[0]], timeout_s=LIMIT_S)
    alive_count = sum(client.answers() for client in opened)
    wait_until(lambda: len(cluster.sessions(user)) == alive_count, LIMIT_S, "the living sessions only")


def test_sessions_from_before_a_reload_can_still_be_ended(cluster: SessionCluster, clients: Clients) -> None:
    """A reload brings new workers; sessions go on in the old ones, listed as before, and are ended by name."""
    user = cluster.at("store1")
    before = clients.log_in("imap", user)
    assert cluster.server.reload()
    clients.log_in("pop3", user)
    assert before.answers()

    def protocols() -> set[str]:
        return {row["protocol"] for row in cluster.sessions(user)}

    # The keeper is a new one too, and the old worker tells it everything when it has found it.
    wait_until(lambda: protocols() == {"imap", "pop3"}, LIMIT_S, "both sessions in the register")
    assert kick(cluster, "--user", user) == 2
    assert before.rest().startswith(BYE["imap"])


def test_a_login_waits_for_a_home_that_is_down(
    cluster: SessionCluster, clients: Clients, nodes: Sequence[DovecotNode]
) -> None:
    """In each protocol: the login is held, goes on when the node is back, and meanwhile nobody else waits."""
    user, other = cluster.at("store1"), cluster.at("store2")
    nodes[0].kill9()
    with ThreadPoolExecutor(len(ROLES)) as pool:
        answers = {role: pool.submit(clients.connect(role).login, user) for role in ROLES}
        for role in ROLES:
            clients.log_in(role, other)
        assert not any(answer.done() for answer in answers.values())
        nodes[0].start()
        for role, answer in answers.items():
            assert answer.result(LIMIT_S).startswith(OK[role])


def test_a_home_that_stays_down_is_temporary_trouble(
    cluster: SessionCluster, clients: Clients, nodes: Sequence[DovecotNode]
) -> None:
    """After `login.hold` each protocol says to try later; no other node ever sees the user."""
    cluster.server.change({"login": {"hold": "1s"}})
    assert cluster.server.reload()
    user = cluster.at("store1")
    nodes[0].stop()
    for role in ROLES:
        assert clients.connect(role).login(user).startswith(LATER[role])
    nodes[0].start()
    wait_until(lambda: clients.connect("imap").login(user).startswith(OK["imap"]), LIMIT_S, "a login at the node")
    assert f"user=<{user}>" not in nodes[1].log_text()


def test_a_node_in_maintenance_lets_its_people_go(cluster: SessionCluster, clients: Clients) -> None:
    """`drain` disturbs nobody; `maintenance` ends sessions there with a word and lets nobody in; `activate` does."""
    user, other = cluster.at("store1"), cluster.at("store2")
    staying, elsewhere = clients.log_in("imap", user), clients.log_in("imap", other)
    cluster.ask("node.drain", node="store1")
    assert staying.answers()
    clients.log_in("pop3", user)
    cluster.ask("node.maintenance", node="store1")
    assert staying.rest().startswith(BYE["imap"])
    assert clients.connect("imap").login(user).startswith(LATER["imap"])
    assert elsewhere.answers()
    cluster.ask("node.activate", node="store1")
    wait_until(lambda: clients.connect("imap").login(user).startswith(OK["imap"]), LIMIT_S, "a login at the node")


def test_a_node_that_dies_ends_its_own_sessions_only(
    cluster: SessionCluster, clients: Clients, nodes: Sequence[DovecotNode]
) -> None:
    """All sessions of the dead node end within seconds, each by itself; those of the other node go on."""
    user, other = cluster.at("store1"), cluster.at("store2")
    there = [clients.log_in("imap", user) for _ in range(30)]
    elsewhere = clients.log_in("imap", other)
    nodes[0].kill9()
    assert [client.rest() for client in there] == [b""] * len(there)
    for client in there:
        client.close()
    wait_until(lambda: len(_ends(cluster, user)) == len(there), LIMIT_S, "a line for each session")
    assert set(_ends(cluster, user)) <= {"node", "node lost"}
    assert elsewhere.answers()
    nodes[0].start()


def _ends(cluster: SessionCluster, user: str) -> list[str]:
    return [each["end"] for each in cluster.server.events("session") if each.get("login") == user]


@pytest.mark.parametrize("role", ["pop3"])
def test_guessing_is_slowed_down_across_workers(
    cluster: SessionCluster, clients: Clients, authority: Authority, role: str
) -> None:
    """Wrong passwords from one address, spread over workers, make its logins wait; the metric counts them."""
    user = cluster.at("store2")
    before = slowed_count(cluster)
    for number in range(12):
        client = clients.connect(role, 1, source="203.0.113.9")
        client.starttls(authority.client_context())
        assert client.login(f"nobody{number}").startswith(WRONG[role])
    assert wait_until(lambda: slowed_count(cluster) - before, LIMIT_S, "a slowed login") >= 1
    clients.log_in(role, user)


def test_guessing_at_one_account_slows_that_account(
    cluster: SessionCluster, clients: Clients, authority: Authority
) -> None:
    """Each guess comes from another address, in another protocol, at whichever worker: its owner waits too, gets in,
    and waits no more; others never wait."""
    victim, other = cluster.at("store1"), cluster.at("store2")

    def workers() -> set[str]:
        return {each["process"] for each in cluster.server.events("login_failed") if each.get("login") == victim}

    def try_login(role: str, source: str, user: str, password: str) -> str:
        client = clients.connect(role, 1, source=source)
        client.starttls(authority.client_context())
        return client.login(user, password)

    number = 0
    while number < 9 or len(workers()) < 2:
        role = ROLES[number % 3]
        assert try_login(role, f"203.0.113.{20 + number}", victim, "guess").startswith(WRONG[role])
        number += 1
        assert number < 40, "one worker took them all"
    before = slowed_count(cluster)
    assert try_login("imap", "198.51.100.1", other, PASSWORD).startswith(OK["imap"])
    begun_s = time.monotonic()
    assert try_login("imap", "198.51.100.2", victim, PASSWORD).startswith(OK["imap"])
    assert time.monotonic() - begun_s > 1.0
    wait_until(lambda: slowed_count(cluster) == before + 1, LIMIT_S, "the owner's wait, and no other")
    assert try_login("pop3", "198.51.100.3", victim, PASSWORD).startswith(OK["pop3"])
    clients.log_in("imap", other)
    assert slowed_count(cluster) == before + 1


def slowed_count(cluster: SessionCluster) -> float:
    """How many logins had to wait."""
    host, port = cluster.endpoint("admin")
    with urlopen(f"http://{host}:{port}/metrics", timeout=LIMIT_S) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("mailfront_sessions_logins_slowed_total"))
