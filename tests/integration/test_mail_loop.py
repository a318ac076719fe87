"""A mail loop through two front ends that send to each other ends by itself, and its sender hears of it once."""

import email
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from flufl.bounce import all_failures

from tests.support.lmtp_peer import ScriptedLmtpPeer
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.processes import wait_until

SUE = "sue@a.example"
MOST_RECEIVED = 10


@dataclass(frozen=True)
class Pair:
    """Two front ends, each with a node of its own; `a_node` has sue's mailbox."""

    a: MailfrontServer
    b: MailfrontServer
    a_node: ScriptedLmtpPeer
    b_node: ScriptedLmtpPeer

    def send(self, to: str) -> None:
        """Sue sends a message."""
        with smtplib.SMTP(*self.a.smtp, timeout=30) as client:
            client.sendmail(SUE, [to], b"Subject: round and round\r\nMessage-ID: <loop@a.example>\r\n\r\nhello\r\n")

    def ended(self) -> None:
        """Wait until neither has anything to do."""
        for front in (self.a, self.b):
            wait_until(partial(_is_idle, front), 60.0, "an empty queue")

    def passages(self) -> int:
        """How often a message of sue's was taken in or refused, by either."""
        return sum(event["reverse_path"] == SUE for front in (self.a, self.b) for event in front.events("message"))

    def told(self) -> list[bytes]:
        """What sue has got."""
        return [each.body for each in self.a_node.received() if "sue" in each.accepted]


def front_end(
    name: str, node: ScriptedLmtpPeer, ports: dict[str, tuple[int, int]], users: list[dict[str, object]]
) -> MailfrontServer:
    """One front end for NAME.example; the other one is its smarthost, and the server of its route for loop.example."""
    other = "b" if name == "a" else "a"
    smtp, lmtp = ports[name]
    users = [*users, {"address": f"postmaster@{name}.example", "mailbox": "postmaster"}]
    server = MailfrontServer(
        [{"id": "store1", "host": "127.0.0.1", "lmtp": node.port, "imap": free_port()}],
        users,
        listen=[
            {"role": "smtp", "address": f"127.0.0.1:{smtp}", "tls": "off"},
            {"role": "lmtp", "address": f"127.0.0.1:{lmtp}", "tls": "off"},
        ],
        settings={
            "server": {"hostname": f"mx.{name}.example", "workers": 1},
            "domains": {"local": [f"{name}.example"]},
            "postmaster": {"address": f"postmaster@{name}.example"},
            "storage": {"secondaries": 0},
            "queue": {"retry": ["1s"]},
            "intake": {"max_received": MOST_RECEIVED},
            "outbound": {"smarthost": f"127.0.0.1:{ports[other][0]}", "tls": "off"},
        },
        name=f"mailfront-{name}",
    )
    server.change({"route": [{"domain": "loop.example", "host": "127.0.0.1", "lmtp": ports[other][1]}]})
    return server


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    ports = {name: (free_port(), free_port()) for name in ("a", "b")}
    with ScriptedLmtpPeer() as a_node, ScriptedLmtpPeer() as b_node:
        a = front_end(
            "a",
            a_node,
            ports,
            [
                {"address": SUE, "mailbox": "sue"},
                {"address": "x@a.example", "mailbox": "x", "forward": "y@b.example"},
            ],
        )
        b = front_end("b", b_node, ports, [{"address": "y@b.example", "mailbox": "y", "forward": "x@a.example"}])
        for server in (a, b):
            server.launch()
        for server in (a, b):
            server.wait_ready()
        yield Pair(a, b, a_node, b_node)
        for server in (a, b):
            server.stop()


@pytest.mark.parametrize(
    ("to", "most_passages"),
    [("x@a.example", 3), ("anybody@loop.example", MOST_RECEIVED + 2)],
    ids=["forwards", "routes"],
)
def test_a_loop_ends_with_one_notice(pair: Pair, to: str, most_passages: int) -> None:
    """Two forwards that lead to each other know their mail when it comes back (Delivered-To). Two routes do not: there
    the count of Received lines ends it. Either way one notice, which says that it went in a circle."""
    notices, passages = len(pair.told()), pair.passages()
    pair.send(to)
    wait_until(lambda: len(pair.told()) > notices, 60.0, "the notice")
    pair.ended()
    (notice,) = pair.told()[notices:]
    assert len(all_failures(email.message_from_bytes(notice))[1]) == 1
    assert b"5.4.6" in notice
    assert 3 <= pair.passages() - passages <= most_passages


def _is_idle(front: MailfrontServer) -> bool:
    return bool(front.cli_json("queue", "stats")["total"] == 0)
