"""One of three Dovecots is stopped while mail streams in, and comes back while mail streams in."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.support.fault_cluster import Case, FaultCluster
from tests.support.processes import wait_until
from tests.support.senders import DOMAIN, Letter, Stream

pytestmark = pytest.mark.serial
PEOPLE_PER_NODE = 20
NODES = ("store1", "store2", "store3")


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Three Dovecots, with nothing in between."""
    with FaultCluster.of_dovecots(3, with_proxies=False) as running:
        yield running


def stream_of(case: Case, people: list[str]) -> Stream:
    """Letters to one or two people in turn, so that every node gets as much as every other."""
    numbers = count()

    def next_letter() -> Letter:
        number = next(numbers)
        to = [people[number % len(people)]]
        if number % 4 == 0:
            to.append(people[(number + 1) % len(people)])
        return case.letter_to(*to, size_bytes=4000)

    return Stream(case.cluster.server.smtp, next_letter)


def test_all_250_nothing_lost_and_all_at_home_in_the_end(cluster: FaultCluster) -> None:
    """While the node is away its mail is in the secondaries' handoff mailboxes; after its return all of it is at home,
    once, and the handoff mailboxes are empty. No client ever had to send twice."""
    case = cluster.case()
    people = [cluster.fresh_mailbox(node) for _ in range(PEOPLE_PER_NODE) for node in NODES]
    with stream_of(case, people) as stream:
        wait_until(lambda: stream.answered_count >= 200, 60.0, "the first 200 replies")
        cluster.dovecot("store1").stop()
        wait_until(lambda: stream.answered_count >= 600, 60.0, "600 replies")
    away = case.check("one node stopped")
    assert away.acknowledged == away.sent
    assert away.handed_off > 50
    assert {hint.home for hint in case.hints()} == {"store1"}
    assert {hint.holder for hint in case.hints()} == {"store2", "store3"}
    with stream_of(case, people) as stream:
        cluster.dovecot("store1").start()
        wait_until(lambda: stream.answered_count >= 200, 60.0, "200 replies after the return")
    case.settle(60.0)
    report = case.check("one node stopped, back again")
    assert (report.delivered, report.acknowledged) == (report.sent, report.sent)
    assert report.excused_duplicates == 0
    assert all(len(letter.tries) == 1 for letter in case.letters)
    assert not any(cluster.dovecot(node).handoff_messages() for node in NODES)
    for mailbox in people[:3]:
        explained = cluster.server.cli_json("ring", "explain", f"{mailbox}@{DOMAIN}")
        assert explained["home"] == cluster.home_of(mailbox)
