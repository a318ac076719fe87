"""IMAP, POP3 and ManageSieve through mailfront by clients that nobody here wrote, to Dovecot and to Cyrus.

imaplib, poplib, curl, getmail6, openssl and sieve-connect. (mbsync has a module of its own.)
"""

import imaplib
import os
import poplib
import re
import shutil
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority, CertificateFiles
from tests.support.cyrus import MASTER_PASSWORD as CYRUS_MASTER_PASSWORD
from tests.support.cyrus import MASTER_USER as CYRUS_MASTER_USER
from tests.support.cyrus import CyrusNode
from tests.support.dovecot import DovecotNode
from tests.support.processes import new_directory, wait_until
from tests.support.session_cluster import PASSWORD, USERS, SessionCluster, address, listener
from tests.support.sieve_client import SieveClient

LIMIT_S = 60.0
NODES = ("store1", "store2", "cyrus1")
LOAD_BALANCER = {"proxy_protocol": ["127.0.0.1/32"]}


@pytest.fixture(scope="module")
def cyrus() -> Iterator[CyrusNode]:
    """A node of another kind."""
    node = CyrusNode("cyrus1", users=USERS[:20])
    node.start()
    yield node
    node.kill9()


@pytest.fixture(scope="module")
def cluster(
    three_nodes: tuple[DovecotNode, ...], cyrus: CyrusNode, authority: Authority, server_certificate: CertificateFiles
) -> Iterator[SessionCluster]:
    """Two Dovecot nodes and a Cyrus node; listeners of every kind; a certificate of its own for mail.example.edu."""
    other = authority.issue("mail.example.edu", file_name="mail.example.edu")
    certificates = [
        {"certificate": server_certificate.certificate, "key": server_certificate.key},
        {"names": ["mail.example.edu"], "certificate": other.certificate, "key": other.key},
    ]
    made = SessionCluster(
        [*three_nodes[:2], cyrus],
        server_certificate,
        listen=[
            *(listener(role, "implicit") for role in ("imap", "pop3", "sieve")),
            *(listener(role, "implicit", **LOAD_BALANCER) for role in ("imap", "pop3")),
            listener("lmtp"),
            listener("admin"),
        ],
        settings={
            "tls": {"certificate": certificates, "key": None},
        },
    )
    made.start()
    yield made
    made.server.stop()


@pytest.fixture(scope="module")
def as_master(cyrus: CyrusNode, server_certificate: CertificateFiles) -> Iterator[SessionCluster]:
    """A front end of its own that logs in at the Cyrus node as its administrator."""
    made = SessionCluster([cyrus], server_certificate, name="sessions-as-master")
    secret = made.server.secret("cyrus", CYRUS_MASTER_PASSWORD)
    made.server.change(
        {"login": {"send": "master"}, "storage": {"master_user": CYRUS_MASTER_USER, "master_password_file": secret}}
    )
    made.start()
    yield made
    made.server.stop()


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    """A client that checks certificates."""
    return authority.client_context()


def deliver(cluster: SessionCluster, user: str, subject: str) -> None:
    """Send a message over SMTP and see it accepted as delivered."""
    with smtplib.SMTP(*cluster.endpoint("smtp"), timeout=LIMIT_S) as client:
        client.sendmail("sender@example.org", [address(user)], f"Subject: {subject}\r\n\r\nhello\r\n")


def imap_subjects(client: imaplib.IMAP4) -> list[str]:
    """Subjects of the inbox."""
    client.select("INBOX", readonly=True)
    _, numbers = client.search(None, "ALL")
    found = []
    for number in numbers[0].split():
        _, parts = client.fetch(number.decode(), "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        part = parts[0]
        assert isinstance(part, tuple)
        found.append(part[1].decode().strip().removeprefix("Subject: "))
    return found


def pop3_subjects(client: poplib.POP3) -> list[str]:
    """Subjects of all messages."""
    lines = [line for number in range(1, client.stat()[0] + 1) for line in client.top(number, 0)[1]]
    return [line.decode().removeprefix("Subject: ") for line in lines if line.startswith(b"Subject: ")]


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a client; its standard input is empty."""
    done = subprocess.run(
        [str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0 or not check, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.parametrize("node", NODES)
def test_mail_and_logins_of_one_person_meet_in_one_mailbox(
    cluster: SessionCluster, context: ssl.SSLContext, node: str
) -> None:
    """What came over SMTP and over LMTP is read over IMAP, and over POP3 where the node has it."""
    user = cluster.at(node)
    deliver(cluster, user, "over smtp")
    with smtplib.LMTP(*cluster.endpoint("lmtp"), timeout=LIMIT_S) as lmtp:
        lmtp.sendmail("sender@example.org", [address(user)], "Subject: over lmtp\r\n\r\nhello\r\n")
    imap = imaplib.IMAP4(*cluster.endpoint("imap"), timeout=LIMIT_S)
    imap.starttls(context)
    imap.login(user, PASSWORD)
    assert sorted(imap_subjects(imap)) == ["over lmtp", "over smtp"]
    imap.append("INBOX", None, None, b"Subject: over imap\r\n\r\nhello\r\n")
    imap.logout()
    if node == "cyrus1":
        return  # Debian has Cyrus' POP3 server in a package of its own
    pop3 = poplib.POP3(*cluster.endpoint("pop3"), timeout=LIMIT_S)
    pop3.stls(context)
    pop3.user(address(user))
    pop3.pass_(PASSWORD)
    assert sorted(pop3_subjects(pop3)) == ["over imap", "over lmtp", "over smtp"]
    pop3.quit()
    holders = [each for each in ("store1", "store2") if _dovecot(cluster, each).messages(user)]
    assert holders == [node]


def _dovecot(cluster: SessionCluster, name: str) -> DovecotNode:
    node = cluster.nodes[name]
    assert isinstance(node, DovecotNode)
    return node


def test_tls_from_the_first_byte(cluster: SessionCluster, context: ssl.SSLContext) -> None:
    """imaplib and poplib over implicit TLS; ManageSieve too."""
    user = cluster.at("store1")
    imap = imaplib.IMAP4_SSL(*cluster.endpoint("imap", 1), ssl_context=context, timeout=LIMIT_S)
    imap.login(user, PASSWORD)
    imap.logout()
    pop3 = poplib.POP3_SSL(*cluster.endpoint("pop3", 1), context=context, timeout=LIMIT_S)
    pop3.user(user)
    pop3.pass_(PASSWORD)
    assert pop3.stat()[0] == 0
    pop3.quit()
    for role in ("imap", "pop3"):
        lines = wait_until(partial(_lines, cluster, user, role), LIMIT_S, "the session's line")
        assert lines[0]["tls"].startswith("TLSv1.")
        assert lines[0]["end"] == "logout"


def _lines(cluster: SessionCluster, user: str, role: str) -> list[dict[str, Any]]:
    events = cluster.server.events("session")
    return [each for each in events if each.get("login") == user and each["protocol"] == role]


@pytest.mark.parametrize(("scheme", "number"), [("imap", 0), ("imaps", 1), ("pop3", 0), ("pop3s", 1)])
def test_curl_reads_a_message(cluster: SessionCluster, authority: Authority, scheme: str, number: int) -> None:
    """curl with its own SASL and TLS, which it must have."""
    user = cluster.at("store2")
    deliver(cluster, user, f"for curl by {scheme}")
    _, port = cluster.endpoint(scheme.removesuffix("s"), number)
    path = "INBOX;MAILINDEX=1" if scheme.startswith("imap") else "1"
    done = run(
        "curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", authority.ca_file,
        "--user", f"{user}:{PASSWORD}", f"{scheme}://localhost:{port}/{path}",
    )  # fmt: skip
    assert f"Subject: for curl by {scheme}" in done.stdout
    wrong = run(
        "curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", authority.ca_file,
        "--user", f"{user}:wrong", f"{scheme}://localhost:{port}/{path}", check=False,
    )  # fmt: skip
    assert wrong.returncode == 67, "curl's code for a login that was denied"


@pytest.mark.parametrize(
    ("retriever", "role"), [("SimpleIMAPSSLRetriever", "imap"), ("SimplePOP3SSLRetriever", "pop3")]
)
def test_getmail_fetches_all_mail(cluster: SessionCluster, authority: Authority, retriever: str, role: str) -> None:
    """getmail6 takes what was delivered into a Maildir, and a second run nothing again."""
    user = cluster.at("store1")
    for number in range(3):
        deliver(cluster, user, f"getmail {role} {number}")
    folder = new_directory("getmail")
    maildir = folder / "Maildir"
    for part in ("new", "cur", "tmp"):
        (maildir / part).mkdir(parents=True)
    _, port = cluster.endpoint(role, 1)
    (folder / "rc").write_text(
        f"[retriever]\ntype = {retriever}\nserver = localhost\nport = {port}\nusername = {user}\n"
        f"password = {PASSWORD}\nca_certs = {authority.ca_file}\n"
        f"[destination]\ntype = Maildir\npath = {maildir}/\n{_as_nobody(maildir)}"
        "[options]\nread_all = false\nverbose = 0\n"
    )
    for _ in range(2):
        run("getmail", "--getmaildir", folder, "--rcfile", folder / "rc")
    texts = [each.read_text() for each in (maildir / "new").iterdir()]
    assert sorted(re.findall(rf"^Subject: (getmail {role} \d)$", "\n".join(texts), re.MULTILINE)) == [
        f"getmail {role} {number}" for number in range(3)
    ]


def _as_nobody(maildir: Path) -> str:
    """getmail delivers nothing as root."""
    if os.getuid() != 0:
        return ""
    for path in (maildir, *maildir.iterdir()):
        shutil.chown(path, "nobody")
    return "user = nobody\n"


@pytest.mark.parametrize(
    ("role", "number", "options"),
    [
        ("imap", 0, ("-starttls", "imap")),
        ("pop3", 0, ("-starttls", "pop3")),
        ("sieve", 0, ("-starttls", "sieve")),
        ("imap", 1, ()),
        ("pop3", 1, ()),
        ("sieve", 1, ()),
    ],
)
def test_openssl_gets_the_certificate_that_it_asks_for(
    cluster: SessionCluster, authority: Authority, role: str, number: int, options: tuple[str, ...]
) -> None:
    """By name (SNI): mail.example.edu has a certificate of its own; everybody else gets the other one."""
    host, port = cluster.endpoint(role, number)
    for name in ("mail.example.edu", "localhost"):
        done = run(
            "openssl", "s_client", "-connect", f"{host}:{port}", *options, "-servername", name,
            "-verify_hostname", name, "-verify_return_error", "-CAfile", authority.ca_file,
        )  # fmt: skip
        assert "Verification: OK" in done.stdout
        assert f"Verified peername: {name}" in done.stdout


def test_sieve_connect_keeps_a_script(cluster: SessionCluster, authority: Authority) -> None:
    """Upload, activate and list by a ManageSieve client of the field, over STARTTLS."""
    user = cluster.at("store2")
    script = new_directory("sieve") / "mine.sieve"
    script.write_text('require "fileinto";\nfileinto "INBOX";\n')
    _, port = cluster.endpoint("sieve")
    password = script.with_name("password")
    password.write_text(f"{PASSWORD}\n")
    common = (
        "sieve-connect", "--server", "localhost", "--port", str(port), "--user", user, "--authmech", "PLAIN",
        "--nosslverify", "--passwordfd", "0",
    )  # fmt: skip
    for action in (
        ("--localsieve", str(script), "--upload"),
        ("--remotesieve", "mine.sieve", "--activate"),
        ("--list",),
    ):
        with password.open() as standard_input:
            done = subprocess.run(
                [*common, *action], stdin=standard_input, capture_output=True, text=True, timeout=LIMIT_S
            )
        assert done.returncode == 0, f"{action}\n{done.stdout}\n{done.stderr}"
    assert '"mine.sieve" ACTIVE' in done.stdout


def test_managesieve_names_what_the_nodes_can(cluster: SessionCluster, context: ssl.SSLContext) -> None:
    """The extensions before a login are those that both kinds of nodes have; STARTTLS tells the capabilities again."""

    def extensions() -> set[str]:
        with SieveClient(*cluster.endpoint("sieve")) as client:
            line = next(line for line in client.greeting if line.startswith('"SIEVE"'))
            return set(line.split('"')[3].split())

    common = wait_until(extensions, LIMIT_S, "a look at all nodes")
    assert {"fileinto", "vacation"} <= common
    assert "vnd.dovecot.pipe" not in common
    assert not any(name.startswith("vnd.cyrus") for name in common)
    with SieveClient(*cluster.endpoint("sieve")) as client:
        assert '"STARTTLS"' in client.greeting
        again = client.starttls(context)
        assert '"SASL" "PLAIN LOGIN"' in again
        assert '"STARTTLS"' not in again
        assert client.login(cluster.at("store1"), PASSWORD)[-1].startswith("OK")
        assert client.put_script("mine", b"keep;\r\n")[-1].startswith("OK")
        assert '"mine"' in client.command(b"LISTSCRIPTS")


@pytest.mark.parametrize("role", ["imap", "pop3"])
@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.77 192.0.2.1 4711 993\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 77, 192, 0, 2, 1, 0x12, 0x67, 0x03, 0xE1]),
    ],
    ids=["v1", "v2"],
)  # fmt: skip
def test_a_load_balancer_says_who_the_client_is(
    cluster: SessionCluster, context: ssl.SSLContext, role: str, header: bytes
) -> None:
    """A PROXY header comes before implicit TLS; the session, and the node's own log, name the client's address."""
    user = cluster.at("store1")
    host, port = cluster.endpoint(role, 2)
    with socket.create_connection((host, port), timeout=LIMIT_S) as plain:
        plain.sendall(header)
        with context.wrap_socket(plain, server_hostname="localhost") as stream:
            file = stream.makefile("rwb", buffering=0)
            file.readline()
            if role == "imap":
                file.write(f"a LOGIN {user} {PASSWORD}\r\n".encode())
                assert file.readline().startswith(b"a OK")
            else:
                file.write(f"USER {user}\r\nPASS {PASSWORD}\r\n".encode())
                assert [file.readline()[:3] for _ in range(2)] == [b"+OK", b"+OK"]
            rows = wait_until(
                lambda: cluster.ask("session.list", addresses=["192.0.2.77"], users=[user])["rows"],
                LIMIT_S,
                "the session",
            )
            assert [(row["protocol"], row["client_ip"]) for row in rows] == [(role, "192.0.2.77")]
            file.close()
    assert re.search(
        rf"{role}-login: Info: Login: user=<{user}>.* rip=192\.0\.2\.77,", _dovecot(cluster, "store1").log_text()
    )


def test_without_its_header_a_load_balancer_is_refused(cluster: SessionCluster, context: ssl.SSLContext) -> None:
    """Where a PROXY header must come, TLS alone gets nowhere: it is never guessed who speaks."""
    with (
        socket.create_connection(cluster.endpoint("imap", 2), timeout=LIMIT_S) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_a_wrong_password_is_said_to_be_one_and_nothing_else_is(
    cluster: SessionCluster, context: ssl.SSLContext
) -> None:
    """Unknown people and wrong passwords get the same words in each protocol."""
    known = cluster.at("store1")
    answers: dict[str, set[str]] = {"imap": set(), "pop3": set(), "sieve": set()}
    for user in (known, "nobody", "nobody@example.edu", "nobody@elsewhere.example"):
        imap = imaplib.IMAP4(*cluster.endpoint("imap"), timeout=LIMIT_S)
        with pytest.raises(imaplib.IMAP4.error) as no:
            imap.login(user, "wrong")
        answers["imap"].add(str(no.value))
        imap.shutdown()
        pop3 = poplib.POP3(*cluster.endpoint("pop3"), timeout=LIMIT_S)
        pop3.user(user)
        with pytest.raises(poplib.error_proto) as err:
            pop3.pass_("wrong")
        answers["pop3"].add(str(err.value))
        pop3.close()
        with SieveClient(*cluster.endpoint("sieve")) as sieve:
            answers["sieve"].add(sieve.login(user, "wrong")[-1])
    assert {role: len(said) for role, said in answers.items()} == {"imap": 1, "pop3": 1, "sieve": 1}
    assert "[AUTHENTICATIONFAILED]" in answers["imap"].pop()
    assert "-ERR [AUTH]" in answers["pop3"].pop()
    assert answers["sieve"].pop().startswith('NO "')


@pytest.mark.parametrize("role", ["imap", "sieve"])
def test_cyrus_lets_the_master_user_in_for_somebody(as_master: SessionCluster, role: str) -> None:
    """`login.send = "master"`: Cyrus knows no password of this person, and opens the mailbox that LMTP filled."""
    user = USERS[-1] if role == "imap" else USERS[-2]
    deliver(as_master, user, "for the master user")
    if role == "imap":
        with imaplib.IMAP4(*as_master.endpoint("imap"), timeout=LIMIT_S) as client:
            client.login(user, PASSWORD)
            assert imap_subjects(client) == ["for the master user"]
        with imaplib.IMAP4(*as_master.endpoint("imap"), timeout=LIMIT_S) as client, pytest.raises(imaplib.IMAP4.error):
            client.login(user, CYRUS_MASTER_PASSWORD)
        return
    with SieveClient(*as_master.endpoint("sieve")) as sieve:
        assert sieve.login(user, PASSWORD)[-1].startswith("OK")
        assert sieve.put_script("mine", b"keep;\r\n")[-1].startswith("OK")
        assert '"mine"' in sieve.command(b"LISTSCRIPTS")
