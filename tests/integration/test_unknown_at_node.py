"""People whom the directory knows and a real Dovecot does not: what their mail gets, and what the node is taken for."""

import smtplib
from collections.abc import Iterator

import pytest

from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.processes import wait_until

KNOWN = ("ana", "postmaster", "handoff")
GHOSTS = tuple(f"ghost{number}" for number in range(5))


@pytest.fixture(scope="module")
def node() -> Iterator[DovecotNode]:
    running = DovecotNode("store1", users=KNOWN)
    running.start()
    yield running
    running.kill9()


@pytest.fixture(scope="module")
def front(node: DovecotNode) -> Iterator[MailfrontServer]:
    users = [{"address": f"{name}@example.edu", "mailbox": name} for name in (*KNOWN[:2], *GHOSTS)]
    # One worker, so that one process has seen all three.
    server = MailfrontServer([node], users, settings={"server": {"workers": 1}, "storage": {"secondaries": 0}})
    server.start()
    yield server
    server.stop()


def send(front: MailfrontServer, name: str) -> tuple[int, str]:
    """Send one message; returns the reply after the dot."""
    with smtplib.SMTP(*front.smtp, timeout=30) as client:
        client.ehlo()
        client.mail("her@out.example")
        assert client.rcpt(f"{name}@example.edu")[0] == 250
        code, text = client.data(f"Subject: for {name}\r\n\r\nhello\r\n".encode())
    return code, text.decode()


def test_by_default_the_mail_waits_and_the_administrator_hears(front: MailfrontServer, node: DovecotNode) -> None:
    """451 to the sender, who tries again; nothing is kept here; an alarm names the node and the mailbox."""
    code, text = send(front, GHOSTS[0])
    assert (code, text[:5]) == (451, "4.3.0")
    assert front.cli_json("queue", "stats")["total"] == 0

    def alarm() -> list[str]:
        found = front.cli_json("health")["alarms"]
        return [each["text"] for each in found if each["name"] == "storage.unknown_at_node"]

    (shown,) = wait_until(alarm, 60.0, "the alarm")
    assert shown.startswith(f"store1 does not know {GHOSTS[0]}, whom the directory knows")
    assert send(front, "ana")[0] == 250


def test_a_node_that_denies_three_mailboxes_in_a_minute_is_suspected(front: MailfrontServer, node: DovecotNode) -> None:
    """Perhaps it has lost its user database. The third makes it SUSPECT, so that mail waits for a probe; and as Dovecot
    is well, the probe soon lifts that and mail goes on."""
    assert [send(front, name)[0] for name in GHOSTS[:3]] == [451, 451, 451]
    changes = wait_until(
        lambda: [each for each in front.events("node_state") if "mailboxes are unknown" in str(each.get("reason"))],
        60.0,
        "the suspicion",
    )
    assert (changes[0]["node"], changes[0]["state"]) == ("store1", "suspect")
    wait_until(lambda: send(front, "ana")[1].endswith("delivered"), 60.0, "a delivery")


def test_refuse_takes_the_nodes_word(front: MailfrontServer, node: DovecotNode) -> None:
    """With `unknown_at_node = "refuse"` the sender gets the node's own 550 while he waits; the alarm is the same."""
    front.change({"storage": {"unknown_at_node": "refuse"}})
    assert front.reload()
    code, text = send(front, GHOSTS[4])
    assert (code, text[:5]) == (550, "5.1.1")
    wait_until(lambda: any(GHOSTS[4] in each["text"] for each in front.cli_json("health")["alarms"]), 60.0, "the alarm")
