"""IMAP through mailfront: real clients' library, real LDAP, three real Dovecot nodes."""

import imaplib
import smtplib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.dovecot import DovecotNode
from tests.support.ldap import Slapd
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def server(three_nodes: Sequence[DovecotNode], slapd: Slapd) -> Iterator[MailfrontServer]:
    """mailfront with an IMAP, an SMTP and an admin listener."""
    started = MailfrontServer(
        three_nodes,
        slapd,
        listen=[{"role": role, "address": f"127.0.0.1:{free_port()}"} for role in ("smtp", "imap", "admin")],
        settings={"login": {"failure_delay": "0s"}},
    )
    started.start()
    yield started
    started.stop()


def _client(server: MailfrontServer) -> imaplib.IMAP4:
    endpoint = server.endpoint("imap")
    assert isinstance(endpoint, tuple)
    return imaplib.IMAP4(*endpoint, timeout=30)


def _home(server: MailfrontServer, user: str) -> str:
    return str(server.cli_json("ring", "explain", f"{user}@example.edu")["home"])


def test_a_login_opens_the_mailbox_at_its_home(server: MailfrontServer, three_nodes: Sequence[DovecotNode]) -> None:
    """What a client appends through the proxy is on the disk of the node that `ring explain` names, and on no other."""
    for number in range(6):
        user = f"user{number:04}"
        client = _client(server)
        client.login(user, "secret")
        client.append("INBOX", None, None, f"Subject: for {user}\r\n\r\nthrough the proxy\r\n".encode())
        client.logout()
        home = _home(server, user)
        holders = [node.id for node in three_nodes if node.messages(user)]
        assert holders == [home]


def test_a_wrong_password_is_refused_in_the_protocols_words(server: MailfrontServer) -> None:
    """LDAP says no: AUTHENTICATIONFAILED, and the line says that it died in the directory."""
    client = _client(server)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        client.login("user0007", "wrong")
    client.login("user0007", "secret")
    client.logout()
    lines = wait_until(
        lambda: [event for event in server.events("login_failed") if event["login"] == "user0007"], 10.0, "its line"
    )
    assert lines[0]["position"] == "directory"


def test_every_session_has_one_line(server: MailfrontServer) -> None:
    """Who, where, how long, how many bytes."""
    client = _client(server)
    client.login("user0008", "secret")
    client.select("INBOX")
    client.logout()
    lines = wait_until(
        lambda: [event for event in server.events("session") if event.get("login") == "user0008"], 10.0, "its line"
    )
    assert len(lines) == 1
    assert lines[0]["node"] == _home(server, "user0008")
    assert lines[0]["end"] == "logout"
    assert lines[0]["from_client_bytes"] > 0 < lines[0]["from_node_bytes"]


def test_an_idle_client_hears_of_new_mail(server: MailfrontServer) -> None:
    """IDLE goes through both ways: the node tells of what LMTP brought, and DONE ends it; the session is counted by
    protocol and node meanwhile."""
    user = "user0011"
    client = _client(server)
    client.login(user, "secret")
    client.select("INBOX")
    client.send(b"i IDLE\r\n")
    assert client.readline().startswith(b"+")
    with smtplib.SMTP(*server.smtp, timeout=30) as smtp:
        smtp.sendmail("sender@example.org", [f"{user}@example.edu"], "Subject: new\r\n\r\nhello\r\n")
    while not (line := client.readline()).endswith(b" EXISTS\r\n"):
        assert line.startswith(b"* ")
    home = _home(server, user)
    wait_until(lambda: _open_count(server, home) >= 1.0, 30.0, "the gauge")
    client.send(b"DONE\r\n")
    while not (line := client.readline()).startswith(b"i "):
        assert line.startswith(b"* ")
    assert line.startswith(b"i OK")
    client.logout()
    wait_until(lambda: _open_count(server, home) == 0.0, 30.0, "its end")


def test_logins_and_bytes_are_counted_by_node(server: MailfrontServer) -> None:
    """A login and what it fetched counts at its home; a wrong password at no node, since the directory said so."""
    user = "user0012"
    home = _home(server, user)
    names = ("mailfront_sessions_logins_total", "mailfront_sessions_relayed_bytes_total")
    before = [_metric(server, name, node=home) for name in names]
    no_node = _metric(server, names[0], node="", result="failed")
    client = _client(server)
    with pytest.raises(imaplib.IMAP4.error):
        client.login(user, "wrong")
    client.login(user, "secret")
    client.append("INBOX", None, None, b"Subject: x\r\n\r\n" + b"y" * 10_000 + b"\r\n")
    client.select("INBOX")
    client.fetch("1", "(BODY.PEEK[])")
    client.logout()
    wait_until(
        lambda: (
            _metric(server, names[0], node=home, result="ok") >= before[0] + 1
            and _metric(server, names[0], node="", result="failed") == no_node + 1
            and all(
                _metric(server, names[1], node=home, direction=direction) > 10_000
                for direction in ("from_client", "from_node")
            )
        ),
        30.0,
        "the counts",
    )
    assert before[1] + 20_000 < _metric(server, names[1], node=home)


def _open_count(server: MailfrontServer, node: str) -> float:
    """IMAP sessions at a node, as the metric says."""
    return _metric(server, "mailfront_sessions_open_count", node=node)


def _metric(server: MailfrontServer, name: str, **labels: str) -> float:
    """The sum of what a metric says about IMAP, and these labels."""
    endpoint = server.endpoint("admin")
    assert isinstance(endpoint, tuple)
    with urlopen(f"http://{endpoint[0]}:{endpoint[1]}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    wanted = [f'{label}="{value}"' for label, value in {"protocol": "imap", **labels}.items()]
    found = [line for line in lines if line.startswith(f"{name}{{")]
    return sum(float(line.split()[-1]) for line in found if all(each in line for each in wanted))


def test_a_client_that_closes_its_side_gets_all_answers(server: MailfrontServer) -> None:
    """Commands piped in, then no more: Dovecot answers each before the connection ends."""
    endpoint = server.endpoint("imap")
    assert isinstance(endpoint, tuple)
    with socket.create_connection(endpoint, timeout=30) as client:
        client.sendall(b"a LOGIN user0013 secret\r\nb SELECT INBOX\r\nc NOOP\r\nd LOGOUT\r\n")
        client.shutdown(socket.SHUT_WR)
        said = b""
        while piece := client.recv(65536):
            said += piece
    ends = [line[:4] for line in said.splitlines() if line[:2] in {b"a ", b"b ", b"c ", b"d "}]
    assert ends == [b"a OK", b"b OK", b"c OK", b"d OK"]


def test_a_reload_ends_no_session(server: MailfrontServer) -> None:
    """Who is logged in goes on in the old process, which takes nobody else in and ends with its last session."""
    old = server.workers()
    client = _client(server)
    client.login("user0009", "secret")
    assert server.reload()
    assert client.noop()[0] == "OK"
    newcomer = _client(server)
    newcomer.login("user0010", "secret")
    newcomer.logout()
    assert client.select("INBOX")[0] == "OK"
    assert not set(server.workers()) & set(old)
    client.logout()
    wait_until(lambda: not any(_alive(pid) for pid in old), 60.0, "the end of the old workers")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def test_without_ldap_nobody_hears_of_a_wrong_password(server: MailfrontServer, slapd: Slapd) -> None:
    """A right and a wrong password get the same temporary error; when LDAP is back the right one is accepted."""
    slapd.stop()
    try:
        wait_until(lambda: _refusal(server, "user0012", "secret") == "UNAVAILABLE", 60.0, "UNAVAILABLE")
        assert _refusal(server, "user0012", "wrong") == "UNAVAILABLE"
    finally:
        slapd.start()
    wait_until(lambda: not _refusal(server, "user0012", "secret"), 60.0, "a login after LDAP is back")


def _refusal(server: MailfrontServer, user: str, password: str) -> str:
    """The response code that a login is refused with; '' if it is not."""
    client = _client(server)
    try:
        client.login(user, password)
    except imaplib.IMAP4.error as error:
        return str(error).partition("[")[2].partition("]")[0]
    finally:
        client.logout()
    return ""
