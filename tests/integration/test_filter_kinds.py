"""Our own filter kinds in a running mailfront, with real nodes, a name server, and clients from anywhere."""

import base64
import os
import signal
import smtplib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.clients_from import ClientFrom, say
from tests.support.dns_server import FAILS, DnsServer
from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.processes import wait_until

_numbers = count(1)
USERS = [{"address": f"user{number}@example.edu", "mailbox": f"kinds{number}"} for number in range(30)]
GREY = "203.0.113."
"""Clients from here are greylisted; nobody else is."""
SLOW = "198.51.100."
"""Clients from here must wait for their greeting."""


@pytest.fixture(scope="module")
def key() -> bytes:
    return rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )


@pytest.fixture(scope="module")
def names(key: bytes) -> Iterator[DnsServer]:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    public = load_pem_private_key(key, None).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    records = {
        "example.org": {"TXT": ["v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all"]},
        "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject"]},
        "s1._domainkey.example.org": {"TXT": ["v=DKIM1; k=rsa; p=" + base64.b64encode(public).decode()]},
        "denies.test": {"TXT": ["v=spf1 -all"]},
        "_dmarc.denies.test": {"TXT": ["v=DMARC1; p=quarantine"]},
        "fails.test": FAILS,
        "_dmarc.fails.test": FAILS,
        "66.2.0.192.bl.test": {"A": ["127.0.0.2"]},
        "6.6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.test": {"A": ["127.0.0.2"]},
        "67.2.0.192.bl.test": FAILS,
    }
    with DnsServer(records) as running:
        yield running


@pytest.fixture(scope="module")
def server(three_nodes: Sequence[DovecotNode], names: DnsServer) -> Iterator[MailfrontServer]:
    """mailfront with every kind that needs no scanner."""
    dns = {"name_servers": [names.address]}
    started = MailfrontServer(
        three_nodes,
        [*USERS, {"address": "postmaster@example.edu", "mailbox": "postmaster"}],
        listen=[{"role": "smtp", "address": f"127.0.0.1:{free_port()}", "proxy_protocol": ["127.0.0.0/8"]}],
        settings={
            "limits": {"message_size": "128MiB", "body_memory": "32MiB"},
            "filter": [
                {"name": "dnsbl", "kind": "dnsbl", "settings": {**dns, "lists": [{"zone": "bl.test"}]}},
                {
                    "name": "pregreet",
                    "kind": "pregreet",
                    "only_for": {"networks": [f"{SLOW}0/24"]},
                    "settings": {"wait": "2s"},
                },
                {
                    "name": "greylist",
                    "kind": "greylist",
                    "only_for": {"networks": [f"{GREY}0/24"]},
                    "settings": {"delay": "1s"},
                },
                {
                    "name": "rate",
                    "kind": "rate",
                    "only_for": {"networks": ["192.0.2.0/24"]},
                    "settings": {"limits": [{"by": "recipient", "count": 3, "per": "1h"}]},
                },
                {"name": "auth", "kind": "auth", "settings": {**dns, "dmarc": "enforce"}},
                {"name": "mime", "kind": "mime"},
            ],
        },
        name="kinds",
    )
    started.start()
    yield started
    started.stop()


def message(token: str = "", *, sender: str = "ann@example.org", header: str = "", text: str = "hello\r\n") -> bytes:
    return (
        f"From: {sender}\r\nTo: user@example.edu\r\nSubject: kinds\r\nX-Token: {token}\r\n"
        f"Message-Id: <{next(_numbers)}@example.org>\r\n{header}\r\n{text}"
    ).encode()


def arrived(nodes: Sequence[DovecotNode], user: str, token: str) -> str:
    """The message with this token, unfolded."""

    def find() -> bytes:
        mails = [mail for node in nodes for mail in node.messages(user)]
        return next((mail for mail in mails if f"X-Token: {token}".encode() in mail), b"")

    found = wait_until(find, 20, f"the message {token} of {user}")
    return found.decode().replace("\r\n", "\n").replace("\n\t", " ")


def test_results_of_authentication_arrive(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode], key: bytes
) -> None:
    """SPF, DKIM and DMARC are written for the mailbox, and a forged field with our name is gone."""
    text = message("auth")
    signature = dkim.sign(text, b"s1", b"example.org", key)
    assert isinstance(signature, bytes)
    hostname = server.document["server"]["hostname"]
    forged = f"Authentication-Results: {hostname.upper()} (x); spf=pass smtp.mailfrom=forged.test\r\n".encode()
    code, said = say("192.0.2.10", server.smtp, forged + signature + text, "user0@example.edu")
    assert (code, said.rpartition(" ")[2]) == (250, "delivered")
    mail = arrived(three_nodes, "kinds0", "auth")
    assert f"Authentication-Results: {hostname}; spf=pass " in mail
    assert "dkim=pass header.d=example.org" in mail
    assert "dmarc=pass header.from=example.org" in mail
    assert "forged.test" not in mail


def test_a_forged_sender_is_refused(server: MailfrontServer) -> None:
    """DMARC says reject: the client that is not the sender's hears it, over IPv4 and IPv6."""
    for ip in ("198.18.0.1", "2001:db9::1"):
        code, said = say(ip, server.smtp, message(), "user1@example.edu", sender="ann@example.org")
        assert (code, said) == (550, "5.7.26 not accepted by the DMARC policy of example.org")
    assert say("2001:db8::1", server.smtp, message(), "user1@example.edu")[0] == 250


def notice_about(server: MailfrontServer, message_id: str) -> dict[str, Any]:
    """The one event that says what a sender was told."""
    found = wait_until(
        lambda: [each for each in server.events("notice") if each["id"] == message_id], 20, "what the sender is told"
    )
    assert len(found) == 1
    return found[0]


def test_a_sender_whose_domain_denies_it_hears_no_bounce(server: MailfrontServer) -> None:
    """Two messages are given up: the sender that nothing speaks against is told, the one that SPF denies is not."""
    told = {}
    for sender in ("victim@denies.test", "somebody@plain.test"):
        code, said = say("198.18.0.1", server.smtp, message(sender="x@denies.test"), "user8@example.edu", sender=sender)
        assert (code, said.rpartition(" ")[2]) == (250, "queued")
        message_id = said.split()[1]
        assert server.cli_json("queue", "show", message_id)["recipients"][0]["state"] == "quarantined"
        server.cli_json("queue", "bounce", "--id", message_id)
        told[sender] = notice_about(server, message_id)
    assert (told["victim@denies.test"]["notice"], "denies" in told["victim@denies.test"]["reason"]) == ("", True)
    kept = [row["recipient"] for row in server.cli_json("queue", "list")]
    assert kept == ["somebody@plain.test"]
    assert told["somebody@plain.test"]["notice"]
    server.cli_json("queue", "delete", "--everything")


def test_dns_trouble_lets_mail_pass(server: MailfrontServer, three_nodes: Sequence[DovecotNode]) -> None:
    """A sender whose name servers fail, from a client that a list cannot be asked about."""
    mail = message("trouble", sender="a@fails.test")
    assert say("192.0.2.67", server.smtp, mail, "user2@example.edu", sender="a@fails.test")[0] == 250
    assert "spf=temperror" in arrived(three_nodes, "kinds2", "trouble")


def test_listed_clients_are_refused_before_the_greeting(server: MailfrontServer) -> None:
    """They hear 521 with the name of the list in place of a greeting, over IPv4 and IPv6."""
    for ip in ("192.0.2.66", "2001:db8::66"):
        code, said = say(ip, server.smtp, message(), "user3@example.edu")
        assert (code, said) == (521, f"5.7.1 {ip} is listed by bl.test")


def test_early_talkers_are_refused_and_servers_are_not(server: MailfrontServer) -> None:
    """A bot that talks at once hears 521; a client that waits is greeted, and the next time at once."""
    with pytest.raises(smtplib.SMTPConnectError) as refused:
        ClientFrom(f"{SLOW}66", server.smtp, eager=b"EHLO bot\r\n")
    assert refused.value.smtp_code == 521
    with ClientFrom(f"{SLOW}10", server.smtp) as client:
        assert client.greeting[0] == 220
    with ClientFrom(f"{SLOW}11", server.smtp) as client:
        assert client.ehlo()[0] == 250


def test_greylisting_lets_pass_who_comes_again(server: MailfrontServer) -> None:
    """451 at first, 250 when the same sender comes again after the delay."""
    sender = "bot@elsewhere.test"
    mail = message(sender=sender)
    code, said = say(f"{GREY}5", server.smtp, mail, "user4@example.edu", sender=sender)
    assert (code, said.partition(",")[0]) == (451, "4.7.1 greylisted")
    wait_until(
        lambda: say(f"{GREY}9", server.smtp, mail, "user4@example.edu", sender=sender)[0] == 250, 30, "mail to pass"
    )


def test_a_limit_holds_across_workers_and_a_restart_of_the_keeper(server: MailfrontServer) -> None:
    """Three messages for one recipient in an hour; the fourth is refused, also by a keeper that was killed and came
    back."""
    assert len(server.workers()) > 1

    def said() -> tuple[int, str]:
        code, text = say("192.0.2.10", server.smtp, message(), "user5@example.edu")
        return code, text.partition(",")[0]

    assert [said()[0] for _ in range(3)] == [250, 250, 250]
    refused = (450, "4.7.1 too many messages by recipient")
    assert said() == refused
    # Three units of 20 minutes each are in the database when the key's time lies most of an hour ahead.
    wait_until(lambda: latest_rate_s(server) > time.time() + 3000, 20, "the counters to be written")
    killed = server.keeper_pid()
    os.kill(killed, signal.SIGKILL)
    server.wait_for_parts(other_than=[killed])
    # Each worker finds the new keeper for itself, and one that has not yet says 451 to whoever comes next.
    wait_until(lambda: all(said() == refused for _ in range(10)), 60, "the new keeper's counters in all workers")


def latest_rate_s(server: MailfrontServer) -> float:
    """How far ahead the furthest key of the filter `rate` is."""
    database = server.state_dir / "state.db"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        found = connection.execute("SELECT max(at_s) FROM tally WHERE key LIKE 'rate:%'").fetchone()[0]
    connection.close()
    return float(found or 0)


def test_forbidden_attachments_are_refused(server: MailfrontServer) -> None:
    """552 with the name; too many parts as well."""
    header = 'MIME-Version: 1.0\r\nContent-Type: application/octet-stream; name="invoice.pdf.EXE"\r\n'
    code, said = say("192.0.2.10", server.smtp, message(header=header), "user6@example.edu")
    assert (code, said) == (552, "5.7.1 attachments like this are not accepted: name invoice.pdf.EXE")
    parts = message(header="Content-Type: multipart/mixed; boundary=b\r\n", text="--b\r\n\r\nx\r\n" * 2000)
    code, said = say("192.0.2.10", server.smtp, parts, "user6@example.edu")
    assert (code, said) == (552, "5.6.0 the message has too many parts")


MONSTERS: dict[str, tuple[str, Callable[[], str]]] = {
    "ten thousand parts": ("multipart/mixed; boundary=b", lambda: "--b\r\n\r\nx\r\n" * 10_000),
    "nested without end": ("message/rfc822", lambda: "Content-Type: message/rfc822\r\n\r\n" * 300_000),
    "parts that contain their parents": (
        "multipart/mixed; boundary=b",
        lambda: "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 100_000,
    ),
    "a header of 100 MB": ("text/plain\r\nX-Endless: " + "y" * 100, lambda: ""),
}


def test_messages_that_no_program_should_send_cost_little_time_and_memory(server: MailfrontServer) -> None:
    """Each is refused while others' mail goes on, and no worker grows by more than a small part of the largest."""
    sender = "bot@elsewhere.test"
    endless = ("X-Filler: " + "z" * 960 + "\r\n") * 104_000
    for name, (kind, text) in MONSTERS.items():
        before = {pid: resident_bytes(pid) for pid in server.workers()}
        header = f"MIME-Version: 1.0\r\nContent-Type: {kind}\r\n" + (endless if "100 MB" in name else "")
        mail = message(sender=sender, header=header, text=text())
        begun_s = time.monotonic()
        code, said = say("203.0.114.10", server.smtp, mail, "user8@example.edu", sender=sender)
        took_s = time.monotonic() - begun_s
        assert code == 552, (name, said)
        assert took_s < 20, (name, took_s)
        grown = {pid: peak_bytes(pid) - was for pid, was in before.items()}
        assert max(grown.values()) < 64 * 2**20, (name, grown)
    mail = message(sender=sender)
    assert say("203.0.114.10", server.smtp, mail, "user8@example.edu", sender=sender)[0] == 250


def resident_bytes(pid: int) -> int:
    """Memory of a process now; from here on `peak_bytes` counts."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def test_a_rehearsal_asks_every_filter_and_counts_nothing(server: MailfrontServer, tmp_path: Path) -> None:
    """`filter test` shows what each kind says; afterwards the limit of the recipient is still whole."""
    path = tmp_path / "rehearsal.eml"
    path.write_bytes(message())
    envelope = ["--from", "ann@example.org", "--to", "user7@example.edu", "--ip", "192.0.2.10"]
    for _ in range(5):
        found = server.cli_json("filter", "test", str(path), *envelope)
    for name in ("dnsbl", "rate", "auth", "mime"):
        assert name in str(found)
    assert [say("192.0.2.10", server.smtp, message(), "user7@example.edu")[0] for _ in range(3)] == [250] * 3
