"""What an administrator does with a running front end: states of nodes, placement, health, another MTA in front."""

import contextlib
import json
import os
import smtplib
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import mailfront
from tests.support.certificates import Authority, CertificateFiles
from tests.support.dovecot import DovecotNode
from tests.support.ldap import Slapd
from tests.support.lmtp_client import LmtpClient
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.postfix import PostfixSender
from tests.support.processes import wait_until

Nodes = Sequence[DovecotNode]


@pytest.fixture(scope="module")
def server(
    three_nodes: Nodes, slapd: Slapd, server_certificate: CertificateFiles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MailfrontServer]:
    """A front end with every kind of listener, running as another user than root."""
    sockets = tmp_path_factory.mktemp("sockets")
    os.chmod(sockets, 0o777)
    started = MailfrontServer(
        three_nodes,
        slapd,
        listen=[
            {"role": "smtp", "address": f"127.0.0.1:{free_port()}", "tls": "starttls"},
            {"role": "smtp", "address": f"[::1]:{free_port()}"},
            {"role": "smtp", "address": f"127.0.0.1:{free_port()}", "tls": "implicit"},
            {"role": "lmtp", "address": f"127.0.0.1:{free_port()}"},
            {"role": "lmtp", "address": f"unix:{sockets}/lmtp", "socket_mode": "0666"},
            {"role": "admin", "address": f"127.0.0.1:{free_port()}"},
        ],
        settings={"queue": {"retry": ["1s"]}},
        tls=server_certificate,
    )
    started.start()
    yield started
    started.stop()


def message(token: str) -> bytes:
    return f"From: a@example.org\r\nTo: b@example.edu\r\nSubject: {token}\r\nX-Token: {token}\r\n\r\nhello\r\n".encode()


def send(server: MailfrontServer, recipient: str, token: str) -> str:
    """Send one message and return the reply to its final dot."""
    client = smtplib.SMTP(*server.smtp)
    # Not as a context: a worker that drains answers QUIT with 421, and that is no matter here.
    with contextlib.closing(client):
        client.ehlo("client.example.org")
        client.mail("a@example.org")
        code, text = client.rcpt(recipient)
        if code != 250:
            return f"{code} {text.decode()}"
        code, text = client.data(message(token))
        return f"{code} {text.decode()}"


def where(nodes: Nodes, token: str) -> list[tuple[str, str]]:
    """(node, mailbox) of every copy of a message."""
    marker = f"X-Token: {token}\r\n".encode()
    return sorted(
        (node.id, user)
        for node in nodes
        for user, copies in node.all_messages().items()
        for copy in copies
        if marker in copy.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    )


def test_every_kind_of_listener_takes_mail(server: MailfrontServer, three_nodes: Nodes, authority: Authority) -> None:
    """STARTTLS, IPv6, implicit TLS, LMTP over TCP and over a UNIX socket all lead to the mailbox."""
    context = authority.client_context()
    with smtplib.SMTP(*server.smtp) as client:
        client.ehlo()
        assert client.has_extn("starttls")
        client.starttls(context=context)
        client.sendmail("a@example.org", ["user0100@example.edu"], message("tls"))
    host, port = server.endpoint("smtp", 1)  # type: ignore[misc]
    with smtplib.SMTP(host, port) as client:
        client.sendmail("a@example.org", ["user0100@example.edu"], message("six"))
    host, port = server.endpoint("smtp", 2)  # type: ignore[misc]
    with smtplib.SMTP_SSL(host, port, context=context) as client:
        client.sendmail("a@example.org", ["user0100@example.edu"], message("implicit"))
    for number, token in ((0, "lmtp"), (1, "unix")):
        with LmtpClient(server.endpoint("lmtp", number)) as lmtp:
            answers = lmtp.deliver(
                "a@example.org", ["user0100@example.edu", "nobody@example.edu", "user0101@example.edu"], message(token)
            )
        assert [answer[:3] for answer in answers.values()] == ["250", "550", "250"]
    for token in ("tls", "six", "implicit", "lmtp", "unix"):
        assert "user0100" in {user for _, user in where(three_nodes, token)}


def _python_for_others() -> dict[str, Any]:
    """An interpreter that other users may run too: ours, or the system's of the same version with our packages."""
    ours = Path(sys.executable).resolve()
    if all(folder.stat().st_mode & 0o001 for folder in ours.parents):
        return {}
    system = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    assert system.exists(), f"{ours} cannot be run by other users, and there is no {system}"
    packages = [path for path in sys.path if path.endswith("site-packages")]
    # The processes import nothing from the folder that they are started in, so the sources are named too.
    sources = str(Path(mailfront.__file__).parent.parent)
    return {"python": system, "environment": {**os.environ, "PYTHONPATH": os.pathsep.join([sources, *packages])}}


def test_root_is_dropped(three_nodes: Nodes, tmp_path: Path) -> None:
    """Every part runs as `server.user`, and still delivers and reloads."""
    assert os.geteuid() == 0, "this test needs root: it is about giving it up"
    server = MailfrontServer(
        three_nodes,
        [
            {"address": "ana@example.edu", "mailbox": "ana", "password": "{PLAIN}x"},
            {"address": "postmaster@example.edu", "mailbox": "ana", "password": "{PLAIN}x"},
        ],
        settings={"server": {"user": "daemon"}},
        **_python_for_others(),
    )
    for path in (server.directory, *server.directory.rglob("*")):
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
    for folder in (server.directory, *server.directory.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    server.start()
    try:
        for pid in (server.process.pid, server.keeper_pid(), *server.workers()):
            status = Path(f"/proc/{pid}/status").read_text()
            uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
            assert set(uids) == {"1"}, f"pid {pid} runs as {uids}"
        assert send(server, "ana@example.edu", "dropped").startswith("250")
        assert server.reload()
        assert send(server, "ana@example.edu", "dropped-2").startswith("250")
    finally:
        server.stop()


def test_maintenance_hands_off_and_activate_brings_home(server: MailfrontServer, three_nodes: Nodes) -> None:
    """A node in maintenance gets no mail; its mail waits at a neighbour, and comes home when it is active again."""
    home = server.cli_json("ring", "explain", "user0102@example.edu")["home"]
    assert server.cli("node", "maintenance", home, "--reason", "new disks").returncode == 0
    try:
        wait_until(
            lambda: server.cli_json("ring", "explain", "user0102@example.edu")["now"] == "handoff", 10, "the new state"
        )
        wait_until(
            lambda: (
                send(server, "user0102@example.edu", "waiting").endswith("queued")
                and server.cli_json("queue", "stats")["total"] > 0
            ),
            10,
            "both workers to know",
        )
        rows = server.cli_json("queue", "list", "--state", "handed-off")
        assert rows
        assert all(row["state"] == "handed-off" for row in rows)
        assert any(b"X-Token: waiting" in copy for node in three_nodes for copy in node.handoff_messages())
        listed = {row["id"]: row for row in server.cli_json("node", "list")}
        assert listed[home]["state"] == "maintenance"
    finally:
        assert server.cli("node", "activate", home).returncode == 0
    wait_until(lambda: server.cli_json("queue", "stats")["total"] == 0, 30, "the mail to come home")
    copies = [(node, user) for node, user in where(three_nodes, "waiting") if not user.startswith("handoff")]
    assert set(copies) == {(home, "user0102")}
    wait_until(lambda: not any(node.handoff_messages() for node in three_nodes), 30, "the copies to be expunged")


def test_the_host_attribute_decides_the_first_placement_only(
    server: MailfrontServer, three_nodes: Nodes, slapd: Slapd
) -> None:
    """The first message follows the attribute; a later change is a wish that health shows; an unknown host is 4xx."""
    assert send(server, "hosted@example.edu", "first").startswith("250")
    assert where(three_nodes, "first") == [("store2", "hosted")]
    dn = slapd.dn("hosted")
    slapd.apply_ldif(f"dn: {dn}\nchangetype: modify\nreplace: mailHost\nmailHost: store3\n")
    try:
        server.reload()  # new workers begin with an empty directory cache
        assert send(server, "hosted@example.edu", "second").startswith("250")
        assert where(three_nodes, "second") == [("store2", "hosted")]
        wishes = wait_until(lambda: server.cli_json("health")["move_requests"], 10, "the wish to move")
        assert [wish["host"] for wish in wishes if wish["home"] == "store2"] == ["store3"]
    finally:
        slapd.apply_ldif(f"dn: {dn}\nchangetype: modify\nreplace: mailHost\nmailHost: store2\n")
    assert send(server, "lost-host@example.edu", "nowhere").startswith("451")


def test_two_entries_with_one_address_are_never_guessed(server: MailfrontServer) -> None:
    """Mail to an address that leads to two mailboxes is deferred, and nobody gets it."""
    assert send(server, "twins@example.edu", "twins").startswith("451")


def _get(server: MailfrontServer, path: str) -> tuple[int, str]:
    host, port = server.endpoint("admin")  # type: ignore[misc]
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics_tell_how_it_is(server: MailfrontServer, three_nodes: Nodes) -> None:
    """`/healthz` has a reason for a node that is down, and 200 all the same; `/metrics` counts all processes."""
    sent = sum(send(server, "user0103@example.edu", f"counted{n}").startswith("250") for n in range(6))
    assert sent == 6
    status, text = _get(server, "/metrics")
    assert status == 200
    total = sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith('mailfront_intake_messages_total{result="delivered"}')
    )
    assert total >= 6
    three_nodes[2].kill9()

    def reasons() -> Any:
        status, text = _get(server, "/healthz")
        assert status == 200
        document = json.loads(text)
        return document["state"] == "degraded" and [r for r in document["reasons"] if r.startswith("node.store3")]

    (reason,) = wait_until(reasons, 20, "health to say that store3 is down")
    assert "connect" in reason
    assert _get(server, "/")[0] == 404
    three_nodes[2].start()
    wait_until(
        lambda: not any(reason.startswith("node.") for reason in json.loads(_get(server, "/healthz")[1])["reasons"]),
        90,
        "health to have no complaint about a node",
    )


def test_a_real_mta_sends_through_us(server: MailfrontServer, three_nodes: Nodes) -> None:
    """Postfix delivers to us, and one trace shows the way of its message."""
    with PostfixSender(*server.smtp) as postfix:
        postfix.inject(message("from-postfix"), sender="a@example.org", recipients=["user0104@example.edu"])
        wait_until(lambda: where(three_nodes, "from-postfix"), 30, "Postfix's message to arrive")
        wait_until(lambda: not postfix.queue(), 30, "Postfix to have nothing left")
    ((node, user),) = where(three_nodes, "from-postfix")
    assert user == "user0104"
    copy = next(
        copy for n in three_nodes if n.id == node for copy in n.messages("user0104") if b"X-Token: from-postfix" in copy
    )
    message_id = next(line for line in copy.splitlines() if line.startswith(b"Mailfront-Id: ")).split()[1].decode()

    def told() -> Any:
        done = server.cli("trace", message_id, "--json")
        return done.returncode == 0 and json.loads(done.stdout)

    trace = wait_until(told, 10, "the events to be written")
    assert {event["event"] for event in trace["events"]} >= {"message", "delivery"}
    delivery = next(event for event in trace["events"] if event["event"] == "delivery")
    assert delivery["node"] == node
    assert delivery["outcome"] == "delivered"
