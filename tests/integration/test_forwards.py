"""Forwards and lists with real servers: Dovecot at home, Postfix as the smarthost, everything that leaves in a sink."""

import secrets
import smtplib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.postfix import PostfixSender, SmtpSink
from tests.support.processes import wait_until
from tests.support.toml_text import toml_text

USERS: list[dict[str, object]] = [
    {"address": "fiona@example.edu", "mailbox": "fiona"},
    {"address": "fred@example.edu", "mailbox": "fred", "forward": ["fred@example.edu", "fred@out.example"]},
    {"address": "flora@example.edu", "mailbox": "flora", "forward": "fred@example.edu"},
    {"address": "tiny@example.edu", "mailbox": "tiny39"},
    {"address": "postmaster@example.edu", "mailbox": "postmaster"},
]
GROUPS: list[dict[str, object]] = [
    {
        "address": "team@example.edu",
        "members": ["fiona@example.edu", "flora@example.edu", "guest@out.example"],
        "owner": "boss@example.edu",
        "may_post": ["@example.org"],
    },
    {"address": "crowd@example.edu", "members": ["fred@example.edu", *(f"m{n}@out.example" for n in range(5))]},
]
MOST_MEMBERS = 6
"""Fred and his forward are two."""


@pytest.fixture(scope="module")
def sink() -> Iterator[SmtpSink]:
    with SmtpSink(dump=True) as running:
        yield running


@pytest.fixture(scope="module")
def front(
    three_nodes: tuple[DovecotNode, ...], sink: SmtpSink, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MailfrontServer]:
    people = tmp_path_factory.mktemp("people") / "users.toml"
    people.write_text(toml_text({"user": USERS, "group": GROUPS}))
    with PostfixSender(sink.host, sink.port) as smarthost:
        server = MailfrontServer(
            three_nodes[:2],
            {"kind": "static", "file": people, "max_members": MOST_MEMBERS},
            listen=[{"role": "smtp", "address": f"127.0.0.1:{free_port()}", "tls": "off", "dsn": True}],
            settings={
                "storage": {"secondaries": 0},
                "outbound": {"smarthost": f"{smarthost.host}:{smarthost.port}", "tls": "off"},
            },
        )
        server.start()
        yield server
        server.stop()


class Post:
    """One message, and where it is found again."""

    def __init__(self, front: MailfrontServer, nodes: tuple[DovecotNode, ...], sink: SmtpSink) -> None:
        self.front = front
        self.nodes = nodes
        self.sink = sink
        self.token = secrets.token_hex(8)

    def send(
        self,
        to: str,
        *,
        sender: str = "x@example.org",
        options: Sequence[str] = (),
        header: str = "",
    ) -> str:
        """Send it. Returns the last reply."""
        body = f"{header}Subject: {self.token}\r\nMessage-ID: <{self.token}@x>\r\n\r\nhello\r\n"
        with smtplib.SMTP(*self.front.smtp, timeout=30) as client:
            client.ehlo("mx.example.org")
            client.mail(sender)
            code, text = client.rcpt(f"{to}@example.edu", list(options))
            if code == 250:
                code, text = client.data(body.encode())
            return f"{code} {text.decode()}"

    def at_home(self, name: str) -> list[bytes]:
        """Its copies in a mailbox."""
        return [text for node in self.nodes for text in node.messages(name) if self.token.encode() in text]

    def outside(self) -> list[bytes]:
        """Its copies, and notices about it, that have left."""
        return [text for text in self.sink.messages() if self.token.encode() in text]

    def queue_is_empty(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.front.cli_json("queue", "stats")["total"] == 0)


@pytest.fixture
def post(front: MailfrontServer, three_nodes: tuple[DovecotNode, ...], sink: SmtpSink) -> Post:
    return Post(front, three_nodes[:2], sink)


def test_a_forward_with_a_copy_is_one_message_at_home_and_outside(post: Post) -> None:
    """The copy is at home when the client hears 250; the other leaves with the forward's name on it, sender kept."""
    assert post.send("fred").endswith("queued")
    assert len(post.at_home("fred")) == 1
    (outside,) = wait_until(post.outside, 60.0, "the copy outside")
    assert outside.count(b"Delivered-To: fred@example.edu") == 1
    assert b"x@example.org" in outside
    wait_until(post.queue_is_empty, 60.0, "an empty queue")
    assert len(post.at_home("fred")) == 1


def test_what_comes_back_from_a_forward_goes_home_and_no_further(post: Post) -> None:
    """The other side sends it back here: the copy is delivered, nothing leaves a second time."""
    assert post.send("fred", header="Delivered-To: fred@example.edu\r\n").endswith("delivered")
    assert len(post.at_home("fred")) == 1
    assert post.queue_is_empty()
    assert post.outside() == []


def test_a_forward_of_a_forward_reaches_both_ends(post: Post) -> None:
    """flora forwards to fred, who keeps a copy and forwards outside: flora's own mailbox gets nothing."""
    assert post.send("flora").endswith("queued")
    wait_until(post.outside, 60.0, "the copy outside")
    assert (len(post.at_home("fred")), post.at_home("flora")) == (1, [])


def test_a_list_sends_in_its_owners_name(post: Post) -> None:
    """Members at home and outside get it from the owner; who may not post is refused."""
    assert post.send("team", sender="eve@out.example").startswith("550 5.7.2")
    assert post.send("team").endswith("queued")
    wait_until(lambda: len(post.outside()) == 2, 60.0, "both copies outside")
    outside = post.outside()
    assert all(b"boss@example.edu" in copy and b"<x@example.org>" not in copy.split(b"\r\n\r\n")[0] for copy in outside)
    (home,) = post.at_home("fiona")
    assert b"Return-Path: <boss@example.edu>" in home


def test_a_list_that_is_too_long_is_refused_for_now(post: Post) -> None:
    """Whom the members forward to counts too. The setting holds at RCPT and for an administrator's redirection."""
    assert post.send("crowd").startswith("451 4.3.5")
    alarms = {each["name"] for each in post.front.cli_json("health")["alarms"]}
    assert "directory.list_too_long" in alarms
    refused = post.front.cli("queue", "redirect", "--everything", "--to", "crowd@example.edu")
    assert (refused.returncode, "451 4.3.5" in refused.stderr) == (75, True)


def test_success_is_told_for_a_delivery_while_the_client_waits(post: Post) -> None:
    """NOTIFY=SUCCESS for a mailbox at home: delivered at once, and the sender hears it by a notice outside."""
    assert post.send("fiona", options=["NOTIFY=SUCCESS"]).endswith("delivered")
    assert len(post.at_home("fiona")) == 1
    (notice,) = wait_until(post.outside, 60.0, "the notice")
    assert b"Action: delivered" in notice


def test_a_full_mailbox_is_refused_at_rcpt_by_every_worker(post: Post) -> None:
    """One node's "over quota", heard by one worker, spares the next senders their data, whichever worker they meet."""
    filling = f"X-Fill: {'x' * 900}\r\n" * 11
    assert post.send("tiny", header=filling).startswith("250")
    answers = [post.send("tiny", header=filling)]
    assert answers[0].startswith("452 4.2.2")

    def refused_at_rcpt() -> bool:
        answers.append(post.send("tiny"))
        return len(answers) > 8 and all("is full" in answer for answer in answers[-8:])

    wait_until(refused_at_rcpt, 60.0, "eight refusals at RCPT in a row")


def test_a_lookup_draws_the_way_as_a_tree(front: MailfrontServer) -> None:
    """Forwards of members, copies and addresses outside, each below what brings it; the same in JSON."""
    document = front.cli_json("directory", "lookup", "team@example.edu")
    assert document["record"]["owner"] == "boss@example.edu"
    assert _outline(document["way"]) == [
        "0 team@example.edu list boss@example.edu",
        "1 guest@out.example elsewhere @relay",
        "1 fiona@example.edu mailbox fiona@example.edu",
        "1 flora@example.edu forward ",
        "2 fred@example.edu forward ",
        "3 fred@out.example elsewhere @relay",
        "3 fred@example.edu circle its own mailbox gets it",
    ]
    text = front.cli("directory", "lookup", "flora@example.edu").stdout
    assert "└─ fred@example.edu  forward\n   ├─ fred@out.example  elsewhere  @relay\n" in text


def _outline(way: dict[str, Any], depth: int = 0) -> list[str]:
    lines = [f"{depth} {way['name']} {way['what']} {way['detail']}"]
    for below in way["leads_to"]:
        lines += _outline(below, depth + 1)
    return lines


def test_ring_explain_says_where_each_of_a_list_lives(front: MailfrontServer) -> None:
    """A list has no home of its own; its members have, and the smarthost takes the others."""
    front_says = front.cli_json("ring", "explain", "flora@example.edu")
    assert front_says["accepted"] is True
    assert front_says["home"] is None
    assert {(leaf["address"], leaf["via"]) for leaf in front_says["leads_to"]} == {
        ("fred@example.edu", "flora@example.edu"),
        ("fred@out.example", "fred@example.edu"),
    }
    assert {leaf["at"] for leaf in front_says["leads_to"]} >= {"@relay"}
