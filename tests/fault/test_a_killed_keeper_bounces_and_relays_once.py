"""kill -9 of the keeper between every two steps of a bounce and of a relayed message.

A bounce is: the row ends and its notice is kept (one commit), the notice is claimed, looked up, claimed for the
smarthost, sent, settled. strace stops the keeper when one of these commits is durable and nobody has heard of it, and
in the middle of writing one; the smarthost stops it at each step of the dialogue. Afterwards: nobody's mail ended
without a notice, nobody was told twice, and a second copy of a notice only where the record says that its outcome was
unknown.
"""

import os
import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import pytest

from mailfront.admin.client import AdminClient
from tests.support.fault_cluster import is_unknown
from tests.support.ledger import id_of, token_of
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer
from tests.support.mailfront_server import ROOT, MailfrontServer
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.senders import Letter, Posting
from tests.support.slow_syscall import stopped_at

COMMITS = range(1, 6)
"""Bounce, claim for the look-up, its result, claim for the smarthost, settle."""
WRITES = (20,)
"""Writes to the database within those commits: a commit that is cut short there never was."""
STEPS = (("RCPT", "DATA"), ("body", "dot"))
"""Two at a time: so many a hop gets at once that nobody has tried yet."""
KILLS_COUNT = 4
"""A keeper that is killed again and again is started later and later; after so many the whole server is."""
_MESSAGE_ID = re.compile(rb"^Message-ID: <([^>@]+)@", re.MULTILINE | re.IGNORECASE)
_numbers = count(1)
_kills: list[int] = []


@dataclass
class Bounce:
    """One message that waits for a node that is away, and what becomes of it when it is bounced."""

    front: MailfrontServer
    smarthost: ScriptedLmtpPeer
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def sender(self) -> str:
        """Who is told."""
        return f"friend{self.number}@out.example"

    @property
    def recipient(self) -> str:
        """Whose mail it is."""
        return f"user{self.number}@example.edu"

    def put(self) -> None:
        """Send it; it waits."""
        with smtplib.SMTP(*self.front.smtp, timeout=30) as client:
            client.ehlo()
            client.mail(self.sender)
            client.rcpt(self.recipient)
            code, text = client.data(b"Subject: for a node that is away\r\n\r\nhello\r\n")
        assert (code, text[-6:]) == (250, b"queued")

    def begin(self) -> "subprocess.Popen[bytes]":
        """Have an administrator bounce it; returns at once."""
        command = [sys.executable, "-m", "mailfront", "queue", "bounce", "--recipient", self.recipient]
        return subprocess.Popen(
            [*command, "-c", str(self.front.configuration_file)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def told(self) -> list[str]:
        """The ids of the notices that arrived, one for each copy."""
        found = [each.body for each in self.smarthost.received() if self.sender in each.accepted]
        return [match[1].decode() for body in found if (match := _MESSAGE_ID.search(body)) is not None]

    def check(self) -> int:
        """How many copies of its one notice arrived. Raises AssertionError for more than the record excuses."""
        return checked_copies(self.front, wait_until(self.told, 60.0, f"the notice to {self.sender}"))


@dataclass
class Forward:
    """One message to somebody who forwards all his mail outside."""

    front: MailfrontServer
    smarthost: ScriptedLmtpPeer
    letter: Letter = field(default_factory=lambda: Letter([f"fwd{next(_numbers)}"]))

    def arrived(self) -> list[str]:
        """The ids of the copies that arrived outside."""
        found = [each.body for each in self.smarthost.received() if token_of(each.body) == self.letter.token]
        return [id_of(body) or "" for body in found]

    def check(self) -> int:
        """How many copies arrived. Raises AssertionError for more than the record excuses."""
        return checked_copies(self.front, wait_until(self.arrived, 60.0, f"the mail of {self.letter.mailboxes}"))


def checked_copies(front: MailfrontServer, ids: list[str]) -> int:
    """How many copies of one message these are: one, or two with an unknown outcome on record."""
    assert len(set(ids)) == 1, f"several messages: {ids}"
    unknown = {event["id"] for event in front.events() if is_unknown(event)}
    assert len(ids) == 1 or ids[0] in unknown, f"{len(ids)} copies, and no unknown outcome on record"
    return len(ids)


@pytest.fixture(scope="module")
def smarthost() -> Iterator[ScriptedLmtpPeer]:
    with ScriptedLmtpPeer(smtp=True, extensions=("8BITMIME",)) as running:
        yield running


@pytest.fixture(scope="module")
def front(smarthost: ScriptedLmtpPeer) -> Iterator[MailfrontServer]:
    users = [{"address": f"user{number}@example.edu", "mailbox": f"user{number}"} for number in range(1, 50)]
    users += [
        {"address": f"fwd{n}@example.edu", "mailbox": f"fwd{n}", "forward": f"to{n}@out.example"} for n in range(50)
    ]
    users.append({"address": "postmaster@example.edu", "mailbox": "postmaster"})
    server = MailfrontServer(
        [{"id": "store1", "host": "127.0.0.1", "lmtp": free_port(), "imap": free_port()}],
        users,
        settings={
            "storage": {"secondaries": 0},
            "queue": {"retry": ["1s"]},
            "limits": {"free_space": "1MiB"},
            "outbound": {"smarthost": f"127.0.0.1:{smarthost.port}", "tls": "off", "reply_timeout": "20s"},
        },
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def calm(front: MailfrontServer, smarthost: ScriptedLmtpPeer) -> Iterator[None]:
    """Begin with keepers that start quickly, and leave a smarthost that does its work."""
    if len(_kills) >= KILLS_COUNT:
        front.stop()
        front.start()
        _kills.clear()
    yield
    smarthost.set_script({})


def killed(front: MailfrontServer) -> None:
    """The keeper was killed: wait for the next one."""
    front.wait_for_parts(other_than=_kills)


def emptied(front: MailfrontServer, *bounces: Bounce) -> None:
    """Bounce what the dead keeper may have left of these, never a notice about it, and wait for the end of it all."""
    with AdminClient(front.runtime_dir / "admin.sock") as client:
        client.call("queue.bounce", {"recipients": [bounce.recipient for bounce in bounces]})
    drained(front)


def drained(front: MailfrontServer) -> None:
    """Wait until nothing is left in the queue."""
    with AdminClient(front.runtime_dir / "admin.sock") as client:
        wait_until(lambda: client.call("queue.stats")["total"] == 0, 60.0, "an empty queue")


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize(
    ("calls", "when", "nth"),
    [("fdatasync,fsync", "after", nth) for nth in COMMITS] + [("pwrite64", "before", nth) for nth in WRITES],
)
def test_in_each_commit(
    front: MailfrontServer, smarthost: ScriptedLmtpPeer, calls: str, when: Literal["before", "after"], nth: int
) -> None:
    """The row or its notice is there, never both and never neither; what was sent before its result was committed is
    sent again, on record."""
    bounce = Bounce(front, smarthost)
    bounce.put()
    _kills.append(front.keeper_pid())
    with stopped_at(_kills[-1], calls, when, nth=nth) as stop:
        verb = bounce.begin()
        stop.wait()
        stop.kill9()
    killed(front)
    verb.wait(60.0)
    emptied(front, bounce)
    bounce.check()


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("steps", STEPS)
def test_at_each_step_with_the_smarthost(
    front: MailfrontServer, smarthost: ScriptedLmtpPeer, steps: tuple[str, ...]
) -> None:
    """Notices that are held at these steps when the keeper dies: one copy each, and two of the one that the smarthost
    had whole and had not answered."""
    bounces = [Bounce(front, smarthost) for _ in steps]
    for bounce in bounces:
        bounce.put()
    smarthost.set_script({step: [Action(then="stall")] for step in steps})
    stalls = smarthost.stalls
    verbs = [bounce.begin() for bounce in bounces]
    wait_until(lambda: smarthost.stalls == stalls + len(steps), 60.0, "a notice at each step")
    _kills.append(front.keeper_pid())
    os.kill(_kills[-1], signal.SIGKILL)
    smarthost.drop_connections()
    killed(front)
    assert [verb.wait(60.0) for verb in verbs] == [0] * len(steps)
    emptied(front, *bounces)
    assert sorted(bounce.check() for bounce in bounces) == ([1, 2] if "dot" in steps else [1, 1])


@pytest.mark.usefixtures("calm")
def test_in_the_commit_of_a_forward(front: MailfrontServer, smarthost: ScriptedLmtpPeer) -> None:
    """What the client heard 250 for arrives outside: once, or twice on record. The claim for the smarthost and its
    result are those of a notice, above."""
    forward = Forward(front, smarthost)
    _kills.append(front.keeper_pid())
    with stopped_at(_kills[-1], "fdatasync,fsync", "after") as stop:
        posting = Posting(front.smtp, forward.letter)
        stop.wait()
        stop.kill9()
    killed(front)
    assert posting.wait().ok
    drained(front)
    forward.check()


@pytest.mark.usefixtures("calm")
def test_a_forward_at_the_smarthost(front: MailfrontServer, smarthost: ScriptedLmtpPeer) -> None:
    """Held before the data and after the dot: one copy of the first, two of the other."""
    forwards = [Forward(front, smarthost) for _ in range(2)]
    smarthost.set_script({step: [Action(then="stall")] for step in ("DATA", "dot")})
    stalls = smarthost.stalls
    for forward in forwards:
        assert Posting(front.smtp, forward.letter).wait().text.endswith("queued")
    wait_until(lambda: smarthost.stalls == stalls + 2, 60.0, "a forward at each step")
    _kills.append(front.keeper_pid())
    os.kill(_kills[-1], signal.SIGKILL)
    smarthost.drop_connections()
    killed(front)
    drained(front)
    assert sorted(forward.check() for forward in forwards) == [1, 2]
