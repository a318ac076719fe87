"""kill -9 of the keeper and of the workers between the steps of a forward that keeps a copy: the commit before the
fan-out, the delivery at home, the end of its row, the copy that leaves.

Real Dovecot nodes behind relays that stop a message at its step; the copies that leave end in smtp-sink.
"""

import os
import signal
from collections.abc import Iterator
from typing import Literal

import pytest

from tests.support.fault_cluster import USERS_COUNT, Case, FaultCluster
from tests.support.holding_proxy import Hold, Step
from tests.support.postfix import SmtpSink
from tests.support.processes import wait_until
from tests.support.senders import DOMAIN, Letter, Posting
from tests.support.slow_syscall import stopped_at
from tests.support.toml_text import toml_text

HOME = "store1"
STEPS: tuple[Step, ...] = ("RCPT", "body", "dot", "answer")
FORWARDERS = [f"user{number:04}" for number in range(USERS_COUNT - 20, USERS_COUNT)]
_fresh = iter(FORWARDERS)


@pytest.fixture(scope="module")
def sink() -> Iterator[SmtpSink]:
    """The other sites."""
    with SmtpSink(dump=True) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(sink: SmtpSink) -> Iterator[FaultCluster]:
    """One Dovecot behind a relay; the last people of it forward outside and keep a copy."""
    outside = {"smarthost": f"{sink.host}:{sink.port}", "tls": "off"}
    with FaultCluster.of_dovecots(1, settings={"outbound": outside, "storage": {"secondaries": 0}}) as running:
        users: list[dict[str, object]] = [{"address": f"postmaster@{DOMAIN}", "mailbox": "postmaster"}]
        for name in (f"user{number:04}" for number in range(USERS_COUNT)):
            user: dict[str, object] = {"address": f"{name}@{DOMAIN}", "mailbox": name}
            if name in FORWARDERS:
                user["forward"] = [f"{name}@{DOMAIN}", f"{name}@out.example"]
            users.append(user)
        (running.server.directory / "users.toml").write_text(toml_text({"user": users}))
        assert running.server.reload()
        yield running


def left(sink: SmtpSink, letter: Letter) -> int:
    """How often a letter has left."""
    return sum(letter.token.encode() in message for message in sink.messages())


def kill_keeper(cluster: FaultCluster) -> None:
    """kill -9 the keeper, and wait until the supervisor has started another."""
    victim = cluster.server.keeper_pid()
    os.kill(victim, signal.SIGKILL)
    cluster.server.wait_for_parts(other_than=[victim])


def ended(case: Case, sink: SmtpSink, letter: Letter) -> tuple[int, int]:
    """Wait until nothing is queued. Returns how many copies are at home and how many have left."""
    case.settle()
    wait_until(lambda: left(sink, letter) > 0, 60.0, "the copy outside")
    case.check("a forward with a copy")
    return sum(case.copies(letter).values()), left(sink, letter)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_keeper_dies_in_the_commit_before_the_fan_out(
    cluster: FaultCluster, sink: SmtpSink, when: Literal["before", "after"]
) -> None:
    """Nothing was delivered yet; the worker asks the next keeper, and there is one copy at each end."""
    cluster.wait_until_well()
    case = cluster.case()
    letter = case.letter_to(next(_fresh))
    victim = cluster.server.keeper_pid()
    with stopped_at(victim, "fdatasync,fsync", when) as stop:
        posting = case.post(letter)
        stop.wait()
        stop.kill9()
        assert posting.wait().text.endswith("queued")
    assert len(letter.tries) == 1
    cluster.server.wait_for_parts(other_than=[victim])
    assert ended(case, sink, letter) == (1, 1)


def held_at_each_step(case: Case) -> list[tuple[Letter, Posting, Hold]]:
    """A letter to a forwarder at each step of its way home, all of them committed."""
    held = []
    for step in STEPS:
        letter = case.letter_to(next(_fresh))
        hold = case.cluster.hold(HOME, step, letter.mailboxes[0])
        posting = case.post(letter)
        hold.wait()
        held.append((letter, posting, hold))
    assert {row.mailbox for row in case.rows() if row.state == "active"} >= {held[-1][0].mailboxes[0]}
    assert {row.mailbox for row in case.rows()} >= {letter.mailboxes[0] for letter, _, _ in held}
    return held


def test_the_keeper_dies_during_the_fan_out(cluster: FaultCluster, sink: SmtpSink) -> None:
    """All rows are committed, those at home are active in the worker: its results wait for the next keeper, and there
    is one copy of each at each end."""
    case = cluster.case()
    held = held_at_each_step(case)
    kill_keeper(cluster)
    for _, posting, hold in held:
        hold.go()
        assert posting.wait().text.endswith("queued")
    for letter, _, _ in held:
        assert ended(case, sink, letter) == (1, 1)


def test_the_workers_die_during_the_fan_out(cluster: FaultCluster, sink: SmtpSink) -> None:
    """The rows are found as unknown and searched for; the clients, who heard nothing, send again: both messages of each
    are at home and outside once, and nothing is lost."""
    case = cluster.case()
    held = held_at_each_step(case)
    victims = cluster.server.workers()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    cluster.server.wait_for_parts(other_than=victims)
    for _, posting, hold in held:
        hold.cut()
        assert posting.wait().ok
    for letter, _, _ in held:
        copies = len(letter.tries)
        assert ended(case, sink, letter) == (copies, copies)
