"""The disk of `state_dir` is full: mail for one node goes on, what may need the queue is asked to come again.

Real Dovecot nodes behind relays; the state is on a small disk in a mount namespace of the server's own. One worker, so
that the client's second try meets the worker that remembers the first.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fault_cluster import Case, FaultCluster
from tests.support.senders import Letter, send

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Two Dovecots behind relays, no secondaries, 24 MiB of disk."""
    settings: dict[str, dict[str, object]] = {
        "server": {"workers": 1},
        "storage": {"secondaries": 0},
        "limits": {"free_space": "4MiB"},
    }
    with FaultCluster.of_dovecots(2, settings=settings, disk_bytes=24 * MIB) as running:
        yield running


@contextmanager
def full_disk(cluster: FaultCluster) -> Iterator[None]:
    """Not one byte is left."""
    filler = cluster.state_dir / "filler"
    try:
        fill(filler)
        yield
    finally:
        filler.unlink()


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for piece in (b"x" * MIB, b"x" * 4096, b"x"):
            try:
                while file.write(piece):
                    pass
            except OSError:
                continue


def refused_at_second_node(case: Case) -> Letter | None:
    """A letter to two nodes whose second RCPT is refused; None while it is not."""
    letter = case.letter("store1", "store2")
    send(case.cluster.server.smtp, letter)
    return letter if letter.last.refused else None


def test_the_disk_is_full(cluster: FaultCluster) -> None:
    """One node: delivered. A second node: 451 at its RCPT. A node that is away: 451 after the dot. With space again,
    all of it is taken."""
    case = cluster.case()
    assert case.send(case.letter("store1", "store2")).endswith("delivered")
    with full_disk(cluster):
        letter = case.wait_until(lambda: refused_at_second_node(case), "the gate")
        assert list(letter.last.refused) == [letter.mailboxes[1]]
        code, text = letter.last.refused[letter.mailboxes[1]]
        assert (code, text[:6]) == (451, "4.5.3 ")
        assert letter.last.text.endswith("delivered")
        for to in (("store1",), ("store2",), ("store1", "store1", "store1")):
            assert case.send(case.letter(*to)).endswith("delivered")
        away = case.letter("store2")
        with cluster.proxies["store2"].breaks_at_rcpt(away.mailboxes[0]):
            assert case.send(away).startswith("451 4.3.0 ")
        case.wait_until(lambda: gate_state(cluster) == "failed" or None, "health to say so")
    assert not case.rows()
    case.wait_until(lambda: refused_at_second_node(case) is None or None, "the gate to open")
    with cluster.proxies["store2"].breaks_at_rcpt(away.mailboxes[0]):
        assert case.send(away).endswith("queued")
    case.settle()
    report = case.check("the disk was full")
    assert report.delivered == report.sent == report.acknowledged


def test_what_was_delivered_under_a_451_is_not_delivered_again(cluster: FaultCluster) -> None:
    """The disk fills up between RCPT and the commit: one mailbox has the message, the other cannot be kept, the client
    hears 451. It sends the same bytes again, and each mailbox has one copy."""
    case = cluster.case()
    letter = case.letter("store1", "store2")
    hold = cluster.hold("store2", "dot", letter.mailboxes[1])
    posting = case.post(letter, retries=False)
    hold.wait()
    with full_disk(cluster):
        hold.cut()
        assert posting.wait().text.startswith("4.3.0 ")
        assert letter.last.code == 451
        assert case.copies(letter) == {letter.mailboxes[0]: 1, letter.mailboxes[1]: 0}
    case.wait_until(lambda: refused_at_second_node(case) is None or None, "the gate to open")
    assert case.send(letter).endswith("delivered")
    case.settle()
    report = case.check("the disk filled up during a message")
    assert report.excused_duplicates == 0
    assert case.copies(letter) == dict.fromkeys(letter.mailboxes, 1)
    assert [
        event["duplicates_skipped_count"] for event in case.wait_until(lambda: answers_of(case, letter), "both")
    ] == [0, 1]


def answers_of(case: Case, letter: Letter) -> list[dict[str, object]] | None:
    """The `message` events of both tries."""
    ours = f"{letter.mailboxes[0]}@example.edu"
    found = [event for event in case.answers() if ours in {to["address"] for to in event["recipients"]}]
    return found if len(found) == 2 else None


def gate_state(cluster: FaultCluster) -> str:
    """What `health` says about the queue's gate."""
    parts = json.loads(cluster.server.cli("health", "--json").stdout)["conditions"]
    return next(str(part["state"]) for part in parts if part["name"] == "queue.gate")
