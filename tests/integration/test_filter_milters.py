"""Milters in the chain of a running mailfront, before real nodes: what clients hear, and what arrives."""

from collections.abc import Iterator, Sequence
from itertools import count

import pytest

from tests.support.clients_from import say
from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.milters import EditingMilter, OpenDkim
from tests.support.ports import free_port
from tests.support.processes import wait_until

_numbers = count(1)
USERS = [{"address": f"user{number}@example.edu", "mailbox": f"milters{number}"} for number in range(20)]


@pytest.fixture(scope="module")
def editing() -> Iterator[EditingMilter]:
    server = EditingMilter(unix=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def opendkim() -> Iterator[OpenDkim]:
    server = OpenDkim()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(three_nodes: Sequence[DovecotNode], editing: EditingMilter, opendkim: OpenDkim) -> Iterator[MailfrontServer]:
    """mailfront with opendkim and a milter that makes every edit."""
    started = MailfrontServer(
        three_nodes,
        [*USERS, {"address": "postmaster@example.edu", "mailbox": "postmaster"}],
        listen=[{"role": "smtp", "address": f"127.0.0.1:{free_port()}", "proxy_protocol": ["127.0.0.0/8"]}],
        settings={
            "filter": [
                {"name": "opendkim", "kind": "milter", "settings": {"address": opendkim.address}},
                {"name": "editing", "kind": "milter", "settings": {"address": editing.address}},
            ]
        },
        name="milters",
    )
    started.start()
    yield started
    started.stop()


def message(*wishes: str, token: str) -> bytes:
    header = "".join(f"X-Wish: {each}\r\n" for each in wishes)
    return (
        f"From: ann@example.org\r\nTo: user@example.edu\r\nSubject: plain\r\nX-Gone: yes\r\nX-Token: {token}\r\n"
        f"{header}Message-Id: <{next(_numbers)}@example.org>\r\n\r\ngood morning\r\n"
    ).encode()


def arrived(nodes: Sequence[DovecotNode], user: str, token: str) -> bytes:
    """The message with this token, wherever its home is; Dovecot stores LF."""

    def find() -> bytes:
        mails = [mail for node in nodes for mail in node.messages(user)]
        return next((mail for mail in mails if f"X-Token: {token}".encode() in mail), b"")

    return wait_until(find, 20, f"the message {token} of {user}").replace(b"\r\n", b"\n")


def test_edits_arrive_with_the_message(server: MailfrontServer, three_nodes: Sequence[DovecotNode]) -> None:
    """Headers that one milter adds, changes and removes, and what the other signs, are in the delivered message."""
    code, text = say("192.0.2.10", server.smtp, message("edit", "body", token="edits"), "user0@example.edu")
    assert (code, text.rpartition(" ")[2]) == (250, "delivered")
    mail = arrived(three_nodes, "milters0", "edits")
    assert b"X-Top: top\n\tfolded\n" in mail
    assert b"Subject: changed\n" in mail
    assert b"X-Gone" not in mail
    assert b"X-Step: connect [192.0.2.10]" in mail
    assert b"Authentication-Results: mx.example.test; dkim=none" in mail.replace(b";\n\t", b"; ")
    assert mail.endswith(b"\n\nnew\nbody\n")


@pytest.mark.parametrize(("wish", "path"), [("sender", "bounces@example.edu"), ("null sender", "")])
def test_a_changed_sender_is_the_one_that_the_node_hears(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode], wish: str, path: str
) -> None:
    """MAIL FROM at the node is the milter's."""
    token = wish.replace(" ", "-")
    assert say("192.0.2.10", server.smtp, message(wish, token=token), "user5@example.edu")[0] == 250
    assert f"Return-Path: <{path}>\n".encode() in arrived(three_nodes, "milters5", token)


def test_recipients_are_added_and_removed(server: MailfrontServer, three_nodes: Sequence[DovecotNode]) -> None:
    """Who is added gets the message, who is removed does not."""
    mail = message("redirect", token="others")
    assert say("192.0.2.10", server.smtp, mail, "user6@example.edu")[0] == 250
    arrived(three_nodes, "milters7", "others")
    assert not [each for node in three_nodes for each in node.messages("milters6") if b"X-Token: others" in each]


def test_refusals_reach_the_client_in_the_milters_words(server: MailfrontServer) -> None:
    """5xx and 4xx replies of a milter are what the client hears, and nothing is delivered."""
    refused = say("192.0.2.10", server.smtp, message("reject at once", token="no"), "user1@example.edu")
    assert refused == (550, "5.7.1 100% sure, no")
    later = say("192.0.2.10", server.smtp, message("tempfail", token="later"), "user1@example.edu")
    assert later == (451, "4.7.1 later, please")


def test_a_discarded_message_is_accepted_and_gone(server: MailfrontServer, three_nodes: Sequence[DovecotNode]) -> None:
    """The client hears 250, and the mailbox gets only what came after."""
    assert say("192.0.2.10", server.smtp, message("discard", token="gone"), "user2@example.edu")[0] == 250
    assert say("192.0.2.10", server.smtp, message(token="kept"), "user2@example.edu")[0] == 250
    arrived(three_nodes, "milters2", "kept")
    assert not [mail for node in three_nodes for mail in node.messages("milters2") if b"X-Token: gone" in mail]


def test_quarantine_keeps_a_message_in_the_queue(server: MailfrontServer) -> None:
    """A quarantined message is accepted, and waits in the queue under that state."""
    code, text = say("192.0.2.10", server.smtp, message("quarantine", token="odd"), "user3@example.edu")
    assert code == 250
    rows = server.cli_json("queue", "list", "--state", "quarantined")
    assert [row["recipient"] for row in rows] == ["user3@example.edu"]
    assert rows[0]["id"] in text


def test_a_milter_that_dies_does_as_its_policy_says(server: MailfrontServer, editing: EditingMilter) -> None:
    """Without the milter the client hears 451 (the default), and mail flows again when it is back."""
    editing.stop()
    code, text = say("192.0.2.10", server.smtp, message(token="down"), "user4@example.edu")
    assert (code, text[:3]) == (451, "4.3")
    editing.start()
    wait_until(
        lambda: say("192.0.2.10", server.smtp, message(token="up"), "user4@example.edu")[0] == 250, 60, "mail to flow"
    )
