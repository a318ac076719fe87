"""Every scanner is killed while mail streams in, and started again: mail goes on as each filter's `on_error` says.

Every kind that asks somebody else is here: rspamd, clamd, spamd, a milter, a program, and the name server of `auth` and
`dnsbl`, which is asked anew for each client because each comes from an address of its own.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.support.clamd import Clamd
from tests.support.dns_server import DnsServer
from tests.support.fault_cluster import Case, FaultCluster
from tests.support.milters import OpenDkim
from tests.support.ports import free_port
from tests.support.processes import new_directory, wait_until
from tests.support.rspamd import Rspamd
from tests.support.senders import Letter, Stream
from tests.support.spamd import Spamd

pytestmark = pytest.mark.serial

NODES = ("store1", "store2")
PEOPLE_PER_NODE = 10
PROGRAM = """
import os, signal, sys
text = sys.stdin.buffer.read()
if os.path.exists({flag!r}):
    os.kill(os.getpid(), signal.SIGKILL)
"""
WITH_BREAKERS = {"filter.spam", "filter.virus", "filter.milter"}
"""Filters whose scanner has a connection that can be refused; `slow` sees too few messages to be sure of."""


@dataclass(frozen=True, slots=True)
class Scanners:
    """Scanners of this module's own: they are killed here."""

    rspamd: Rspamd
    clamd: Clamd
    spamd: Spamd
    milter: OpenDkim
    dns: DnsServer
    flag: Path
    """While this file is there, the program is killed in the middle of each message."""

    def kill(self) -> None:
        """All of them at once."""
        for scanner in (self.rspamd, self.clamd, self.spamd):
            scanner.kill9()
        self.milter.stop()
        self.dns.stop()
        self.flag.touch()

    def start(self) -> None:
        """All of them again, and wait until they answer."""
        self.flag.unlink(missing_ok=True)
        self.dns.start()
        self.milter.start()
        for scanner in (self.rspamd, self.clamd, self.spamd):
            scanner.process.launch()
        for scanner in (self.rspamd, self.clamd, self.spamd):
            scanner.process.wait_for(scanner.answers, 60.0, "an answer")


@pytest.fixture(scope="module")
def scanners() -> Iterator[Scanners]:
    dns = DnsServer({"example.org": {"TXT": ["v=spf1 ip4:192.0.2.0/24 exists:%{i}.spf.test -all"]}, "bl.test": {}})
    found = Scanners(Rspamd(), Clamd(), Spamd(), OpenDkim(), dns, new_directory("program") / "killed")
    found.start()
    yield found
    found.kill()


def chain(scanners: Scanners, *, virus_on_error: str) -> list[dict[str, object]]:
    """The filters. SpamAssassin is slow, so it looks at some of the mail only."""
    program = scanners.flag.with_name("check.py")
    program.write_text(PROGRAM.format(flag=str(scanners.flag)))
    dns: dict[str, object] = {"name_servers": [scanners.dns.address], "dns_timeout": "200ms"}

    def table(name: str, kind: str, settings: dict[str, object], on_error: str = "accept") -> dict[str, object]:
        return {"name": name, "kind": kind, "on_error": on_error, "timeout": "2s", "settings": settings}

    return [
        table("lists", "dnsbl", {**dns, "lists": [{"zone": "bl.test"}]}),
        table("spam", "rspamd", {"url": scanners.rspamd.url}),
        table("virus", "clamd", {"address": scanners.clamd.address}, virus_on_error),
        {**table("slow", "spamd", {"address": scanners.spamd.address}), "only_for": {"max_size": "1KiB"}},
        table("milter", "milter", {"address": scanners.milter.address}),
        table("program", "command", {"command": [sys.executable, "-I", "-S", str(program)]}),
        table("auth", "auth", dns),
    ]


@pytest.fixture(scope="module")
def cluster(scanners: Scanners) -> Iterator[FaultCluster]:
    """Two Dovecots, and a front end with all these filters, which believes what a PROXY header says."""
    listen = {"role": "smtp", "address": f"127.0.0.1:{free_port()}", "proxy_protocol": ["127.0.0.0/8"]}
    settings = {"filter": chain(scanners, virus_on_error="accept"), "listen": [listen]}
    with FaultCluster.of_dovecots(2, with_proxies=False, settings=settings) as running:  # type: ignore[arg-type]
        yield running


_numbers = count()


def stream_of(case: Case, people: Sequence[str]) -> Stream:
    """Letters to one person each, each from another client, one in twenty small enough for SpamAssassin."""

    def next_letter() -> Letter:
        number = next(_numbers)
        letter = case.letter_to(people[number % len(people)], size_bytes=0 if number % 20 == 0 else 3000)
        letter.client_ip = f"198.51.{100 + (number >> 8) % 100}.{number & 255}"
        return letter

    return Stream(case.cluster.server.smtp, next_letter, clients=6)


def people_of(cluster: FaultCluster) -> list[str]:
    return [cluster.fresh_mailbox(node) for _ in range(PEOPLE_PER_NODE) for node in NODES]


def filters_in_trouble(cluster: FaultCluster) -> set[str]:
    """The filters that `health` complains of."""
    conditions = cluster.server.cli_json("health")["conditions"]
    return {each["name"] for each in conditions if each["name"].startswith("filter.") and each["state"] != "ok"}


def test_with_accept_mail_flows_on_and_health_says_what_is_dead(cluster: FaultCluster, scanners: Scanners) -> None:
    """No letter is refused or sent twice; each is in its mailbox once; the scanners are found again."""
    case, people = cluster.case(), people_of(cluster)
    with stream_of(case, people) as stream:
        wait_until(lambda: stream.answered_count >= 60, 60.0, "the first 60 replies")
        asked = {name.partition(".")[2] for name, _ in scanners.dns.asked}
        assert any(name.endswith("bl.test") for name in asked)
        assert any(name.endswith("spf.test") for name in asked)
        scanners.kill()
        killed_at = stream.answered_count
        wait_until(lambda: filters_in_trouble(cluster) >= WITH_BREAKERS, 60.0, "health", 0.5)
        listed = {row["name"]: row["hosts"] for row in cluster.server.cli_json("filter", "list")}
        assert listed["virus"][scanners.clamd.address].startswith("open: ")
        wait_until(lambda: stream.answered_count >= killed_at + 150, 60.0, "150 replies without scanners")
    failures = [{found["filter"] for found in each["filters"] if found.get("error")} for each in case.answers()]
    assert sum({"spam", "virus", "milter", "program"} <= each for each in failures) > 100
    assert "slow" in set().union(*failures)
    case.settle(60.0)
    stored = [mail for node in NODES for each in people for mail in cluster.dovecot(node).messages(each)]
    assert sum(b"spf=temperror" in mail for mail in stored) > 100
    already = len(scanners.dns.asked)
    with stream_of(case, people) as stream:
        scanners.start()
        wait_until(lambda: not filters_in_trouble(cluster), 90.0, "all scanners found again", 0.5)
        wait_until(lambda: stream.answered_count >= 60, 60.0, "60 replies after their return")
    assert len(scanners.dns.asked) > already
    case.settle(60.0)
    report = case.check("scanners killed, on_error accept")
    assert (report.delivered, report.acknowledged) == (report.sent, report.sent)
    assert report.excused_duplicates == 0
    assert all(len(letter.tries) == 1 for letter in case.letters)


def test_with_tempfail_mail_waits_at_its_senders_and_nothing_is_lost(cluster: FaultCluster, scanners: Scanners) -> None:
    """While clamd is dead every letter hears 451 and none is delivered unscanned; afterwards each arrives once."""
    cluster.server.change({"filter": chain(scanners, virus_on_error="tempfail")})
    assert cluster.server.reload()
    clamd = scanners.clamd
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
