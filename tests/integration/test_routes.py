"""Routes with real servers: a Cyrus takes a domain, a Dovecot that is no storage node takes an address.

The front end's only node is another Dovecot. People and lists are in the static directory.
"""

import secrets
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.cyrus import CyrusNode
from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.outside import Outside
from tests.support.ports import free_port
from tests.support.processes import wait_until

ANA, HELP = "ana@example.edu", "help@example.edu"
ANNA, BOB = "anna@lists.example.edu", "bob@lists.example.edu"
TICKET, NOBODY = "ticket@desk.example.edu", "nobody@desk.example.edu"
USERS: list[dict[str, object]] = [
    {"address": f"{name}@example.edu", "mailbox": name} for name in ("ana", "help", "postmaster")
]
USERS.append({"address": "fred@example.edu", "mailbox": "fred", "forward": [ANNA, ANA]})


@dataclass(frozen=True)
class World:
    """All servers."""

    front: MailfrontServer
    node: DovecotNode
    desk: DovecotNode
    cyrus: CyrusNode
    outside: Outside

    def empty(self) -> None:
        """Wait until nothing is left in the queue."""
        wait_until(lambda: self.front.cli_json("queue", "stats")["total"] == 0, 40.0, "an empty queue")


@pytest.fixture(scope="module")
def world(cyrus_node: CyrusNode) -> Iterator[World]:
    port = free_port()
    node, desk = DovecotNode("store1"), DovecotNode("desk", users=[HELP, TICKET])
    here = "127.0.0.1"
    routes = [
        {"domain": "lists.example.edu", "host": here, "lmtp": cyrus_node.lmtp},
        {"address": HELP, "host": here, "lmtp": desk.lmtp},
        {"domain": "desk.example.edu", "host": here, "lmtp": desk.lmtp},
        {"domain": "away.example.edu", "host": here, "lmtp": free_port()},
    ]
    with Outside(front_port=port, domain="example.edu") as outside:
        node.launch()
        desk.launch()
        front = MailfrontServer(
            [node],
            USERS,
            listen=[{"role": "smtp", "address": f"{here}:{port}", "tls": "off", "dsn": True}],
            settings={
                "storage": {"secondaries": 0},
                "queue": {"retry": ["1s"]},
                "outbound": {"smarthost": outside.smarthost, "tls": "off"},
            },
        )
        front.change({"route": routes})
        node.wait_ready()
        desk.wait_ready()
        front.start()
        yield World(front, node, desk, cyrus_node, outside)
        front.stop()
        node.kill9()
        desk.kill9()


@dataclass
class Post:
    """One message that can be found again."""

    world: World
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def send(self, *recipients: str, sender: str = "her@out.example") -> list[str]:
        """Send it. Returns the reply to each RCPT, and the last one."""
        with smtplib.SMTP(*self.world.front.smtp, timeout=30) as client:
            client.ehlo("mx.out.example")
            client.mail(sender)
            replies = [client.rcpt(each) for each in recipients]
            if any(code == 250 for code, _ in replies):
                replies.append(client.data(f"Subject: {self.token}\r\n\r\nhello {self.token}\r\n".encode()))
        return [f"{code} {text.decode()}" for code, text in replies]

    def copies(self, server: DovecotNode | CyrusNode, user: str) -> int:
        """How many of it are in a mailbox."""
        return sum(self.token.encode() in each for each in server.messages(user))

    def arrives(self, server: DovecotNode | CyrusNode, user: str) -> None:
        """Wait until it is in a mailbox, once, and nothing more is to come."""
        wait_until(lambda: self.copies(server, user), 40.0, f"{self.token} for {user}")
        self.world.empty()
        assert self.copies(server, user) == 1


@pytest.fixture
def post(world: World) -> Post:
    return Post(world)


def test_a_domain_without_a_directory_entry_goes_to_its_server(world: World, post: Post) -> None:
    """The address is accepted and kept before the 250; Cyrus has it a moment later, and a neighbour at home too."""
    assert post.send(ANNA, ANA)[-1].startswith("250 2.0.0")
    post.arrives(world.cyrus, "anna")
    assert post.copies(world.node, "ana") == 1
    attempts = [each for each in world.front.events("delivery") if each["node"] == "@route:lists.example.edu"]
    assert attempts[-1]["outcome"] == "delivered"


def test_the_route_of_an_address_goes_before_the_directory(world: World, post: Post) -> None:
    """The directory has a mailbox of this name at the node; a detail changes nothing."""
    post.send("Help+printer@example.edu")
    post.arrives(world.desk, HELP)
    assert post.copies(world.node, "help") == 0


def test_a_forward_may_lead_to_a_route(world: World, post: Post) -> None:
    """One copy goes to the list server, the other home."""
    post.send("fred@example.edu")
    post.arrives(world.cyrus, "anna")
    assert post.copies(world.node, "ana") == 1


def test_two_recipients_of_a_route_are_one_transaction(world: World, post: Post) -> None:
    """Each gets it once."""
    post.send(ANNA, BOB)
    post.arrives(world.cyrus, "anna")
    assert post.copies(world.cyrus, "bob") == 1


def test_a_notice_to_a_sender_behind_a_route_goes_there(world: World, post: Post) -> None:
    """The reader of a notice is looked up like a recipient: his server gets it."""
    post.send("x@away.example.edu", sender=BOB)
    bounced = world.front.cli_json("queue", "bounce", "--recipient", "x@away.example.edu")
    assert bounced["changed"] == 1
    wait_until(lambda: post.copies(world.cyrus, "bob"), 40.0, "the notice")
    world.empty()
    assert any(b"Action: failed" in each and post.token.encode() in each for each in world.cyrus.messages("bob"))


def test_a_server_that_is_away_keeps_its_mail_waiting(world: World, post: Post) -> None:
    """Nobody listens there: 250, the row says where it waits and why, and health says it too."""
    assert post.send("x@away.example.edu")[-1].endswith("queued")

    def tried() -> list[dict[str, object]]:
        rows = world.front.cli_json("queue", "list", "--recipient", "x@away.example.edu")
        return [row for row in rows if "cannot connect" in str(row["last_reply"])]

    (row,) = wait_until(tried, 60.0, "the failed attempt")
    assert row["home"] == "@route:away.example.edu"
    alarms = {each["name"] for each in world.front.cli_json("health")["alarms"]}
    assert "queue.hop_fails.@route:away.example.edu" in alarms
    world.front.cli("queue", "delete", "--recipient", "x@away.example.edu")


def test_other_domains_are_still_refused(post: Post) -> None:
    """A route opens no relay."""
    assert post.send("x@elsewhere.example")[0].startswith("550 5.7.1")
    assert post.send("x@sub.lists.example.edu")[0].startswith("550 5.7.1")


def test_who_is_unknown_there_is_refused_while_the_client_waits(world: World, post: Post) -> None:
    """Dovecot's own 550 at RCPT, and nothing is kept: nobody hears later of what a stranger sent in his name."""
    assert post.send(NOBODY)[0].startswith("550 5.1.1")
    assert post.send(TICKET)[-1].startswith("250")
    post.arrives(world.desk, TICKET)
