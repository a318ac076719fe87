"""Every scanner is killed while mail streams in, and started again: mail goes on as each filter's `on_error` says."""

from collections.abc import Iterator, Sequence
from itertools import count

import pytest

from tests.support.clamd import Clamd
from tests.support.fault_cluster import Case, FaultCluster
from tests.support.processes import wait_until
from tests.support.rspamd import Rspamd
from tests.support.senders import Letter, Stream
from tests.support.spamd import Spamd

pytestmark = pytest.mark.serial

NODES = ("store1", "store2")
PEOPLE_PER_NODE = 10


@pytest.fixture(scope="module")
def scanners() -> Iterator[tuple[Rspamd, Clamd, Spamd]]:
    """Scanners of this module's own: they are killed here."""
    started = Rspamd(), Clamd(), Spamd()
    for scanner in started:
        scanner.process.launch()
    for scanner in started:
        scanner.process.wait_for(scanner.answers, 60.0, "an answer")
    yield started
    for scanner in started:
        scanner.kill9()


def chain(scanners: tuple[Rspamd, Clamd, Spamd], *, virus_on_error: str) -> list[dict[str, object]]:
    """The filters. SpamAssassin is slow, so it looks at some of the mail only."""
    rspamd, clamd, spamd = scanners
    return [
        {"name": "spam", "kind": "rspamd", "on_error": "accept", "timeout": "2s", "settings": {"url": rspamd.url}},
        {
            "name": "virus",
            "kind": "clamd",
            "on_error": virus_on_error,
            "timeout": "2s",
            "settings": {"address": clamd.address},
        },
        {
            "name": "slow",
            "kind": "spamd",
            "on_error": "accept",
            "timeout": "2s",
            "only_for": {"max_size": "1KiB"},
            "settings": {"address": spamd.address},
        },
    ]


@pytest.fixture(scope="module")
def cluster(scanners: tuple[Rspamd, Clamd, Spamd]) -> Iterator[FaultCluster]:
    """Two Dovecots, and a front end with three scanners."""
    settings = {"filter": chain(scanners, virus_on_error="accept")}
    with FaultCluster.of_dovecots(2, with_proxies=False, settings=settings) as running:  # type: ignore[arg-type]
        yield running


def stream_of(case: Case, people: Sequence[str]) -> Stream:
    """Letters to one person each, one in twenty small enough for SpamAssassin."""
    numbers = count()

    def next_letter() -> Letter:
        number = next(numbers)
        return case.letter_to(people[number % len(people)], size_bytes=0 if number % 20 == 0 else 3000)

    return Stream(case.cluster.server.smtp, next_letter, clients=4)


def people_of(cluster: FaultCluster) -> list[str]:
    return [cluster.fresh_mailbox(node) for _ in range(PEOPLE_PER_NODE) for node in NODES]


def filters_in_trouble(cluster: FaultCluster) -> set[str]:
    """The filters that `health` complains of."""
    conditions = cluster.server.cli_json("health")["conditions"]
    return {each["name"] for each in conditions if each["name"].startswith("filter.") and each["state"] != "ok"}


def test_with_accept_mail_flows_on_and_health_says_what_is_dead(
    cluster: FaultCluster, scanners: tuple[Rspamd, Clamd, Spamd]
) -> None:
    """No letter is refused or sent twice; each is in its mailbox once; the scanners are found again."""
    case, people = cluster.case(), people_of(cluster)
    with stream_of(case, people) as stream:
        wait_until(lambda: stream.answered_count >= 60, 60.0, "the first 60 replies")
        for scanner in scanners:
            scanner.kill9()
        killed_at = stream.answered_count
        wait_until(lambda: {"filter.spam", "filter.virus"} <= filters_in_trouble(cluster), 60.0, "health", 0.5)
        wait_until(lambda: stream.answered_count >= killed_at + 150, 60.0, "150 replies without scanners")
    events = case.answers()
    unscanned = [each for each in events if any(found.get("error") for found in each["filters"])]
    assert len(unscanned) > 100
    with stream_of(case, people) as stream:
        for scanner in scanners:
            scanner.start()
        wait_until(lambda: not filters_in_trouble(cluster), 90.0, "all scanners found again", 0.5)
        wait_until(lambda: stream.answered_count >= 60, 60.0, "60 replies after their return")
    case.settle(60.0)
    report = case.check("scanners killed, on_error accept")
    assert (report.delivered, report.acknowledged) == (report.sent, report.sent)
    assert report.excused_duplicates == 0
    assert all(len(letter.tries) == 1 for letter in case.letters)


def test_with_tempfail_mail_waits_at_its_senders_and_nothing_is_lost(
    cluster: FaultCluster, scanners: tuple[Rspamd, Clamd, Spamd]
) -> None:
    """While clamd is dead every letter hears 451 and none is delivered unscanned; afterwards each arrives once."""
    cluster.server.change({"filter": chain(scanners, virus_on_error="tempfail")})
    assert cluster.server.reload()
    _, clamd, _ = scanners
    case, people = cluster.case(), people_of(cluster)
    with stream_of(case, people) as stream:
        wait_until(lambda: stream.answered_count >= 60, 60.0, "the first 60 replies")
        clamd.kill9()
        wait_until(lambda: sum(len(each.tries) > 1 for each in case.letters) >= 4, 60.0, "letters that are sent again")
        clamd.start()
        resumed_at = stream.answered_count
        wait_until(lambda: stream.answered_count >= resumed_at + 60, 90.0, "60 replies after its return")
    case.settle(60.0)
    report = case.check("clamd killed, on_error tempfail")
    assert (report.delivered, report.acknowledged) == (report.sent, report.sent)
    assert report.excused_duplicates == 0
    refused = {attempt.code for letter in case.letters for attempt in letter.tries if not attempt.ok}
    assert refused == {451}
