"""The main job on real servers: LDAP with 500 people, three Dovecot nodes, thousands of messages by smtp-source.

Every person has ten addresses, so that a run of smtp-source, which numbers its recipients, reaches all of them evenly.
A copy is known by its `Mailfront-Id`: as many copies as messages, and no id twice, is "exactly once".
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest

from tests.support.dovecot import DovecotNode, start_together
from tests.support.ldap import Person, Slapd
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.postfix import SourceResult, smtp_source
from tests.support.processes import wait_until

pytestmark = pytest.mark.serial

PEOPLE_COUNT = 500
MESSAGES_COUNT = 5000
_ID = re.compile(rb"^Mailfront-Id: ([0-9a-z]{16})\r?$", re.MULTILINE)


def _people() -> list[Person]:
    """500 people; number n of smtp-source belongs to person n mod 500."""
    numbers = range(MESSAGES_COUNT + 1)
    return [
        Person(
            uid=f"person{index}",
            mail=(f"person{index}@example.edu",),
            aliases=tuple(f"{number}load@example.edu" for number in numbers[index::PEOPLE_COUNT]),
        )
        for index in range(PEOPLE_COUNT)
    ]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Sequence[DovecotNode]]:
    """Three storage nodes of this module's own."""
    started = [DovecotNode(f"store{number}") for number in (1, 2, 3)]
    start_together(started)
    yield started
    for node in started:
        node.kill9()


@pytest.fixture(scope="module")
def directory() -> Iterator[Slapd]:
    """LDAP with 500 people."""
    with_people = Slapd(people=_people())
    with_people.start()
    yield with_people
    with_people.stop()


@pytest.fixture(scope="module")
def server(nodes: Sequence[DovecotNode], directory: Slapd) -> Iterator[MailfrontServer]:
    """mailfront in front of them, with the host attribute in use: first placements are remembered."""
    started = MailfrontServer(
        nodes,
        directory,
        listen=[
            {"role": "smtp", "address": f"127.0.0.1:{free_port()}"},
            {"role": "admin", "address": f"127.0.0.1:{free_port()}"},
        ],
    )
    started.start()
    yield started
    started.stop()


def _ids(node: DovecotNode) -> dict[str, list[str]]:
    """Ids of the copies in each mailbox of a node, the handoff mailbox left out."""
    found = {}
    for user, messages in node.all_messages().items():
        if not user.startswith("handoff"):
            found[user] = [match[1].decode() for message in messages if (match := _ID.search(message))]
            assert len(found[user]) == len(messages), "a copy without a Mailfront-Id"
    return found


def _all_ids(nodes: Sequence[DovecotNode]) -> list[str]:
    return list(chain.from_iterable(chain.from_iterable(_ids(node).values()) for node in nodes))


def _homes(server: MailfrontServer, users: Sequence[str]) -> dict[str, str]:
    def home(user: str) -> str:
        return str(server.cli_json("ring", "explain", f"{user}@example.edu", "--json")["home"])

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(users, pool.map(home, users), strict=True))


def _send(server: MailfrontServer, messages: int, sessions: int = 20) -> SourceResult:
    host, port = server.smtp
    return smtp_source(
        host,
        port,
        messages=messages,
        recipient="load@example.edu",
        sessions=sessions,
        options=("-N",),
        timeout_s=300.0,
    )


def test_five_thousand_messages_are_each_found_once_at_home(
    server: MailfrontServer, nodes: Sequence[DovecotNode], directory: Slapd
) -> None:
    """All are answered 250, each is in one mailbox, on the node that `ring explain` names; nothing was queued."""
    sent = _send(server, MESSAGES_COUNT)
    assert sent.ok, sent.output
    ids = _all_ids(nodes)
    assert len(ids) == MESSAGES_COUNT
    assert max(Counter(ids).values()) == 1
    users = {user: node.id for node in nodes for user in _ids(node)}
    assert len(users) == PEOPLE_COUNT
    sample = sorted(users)[::10]
    assert _homes(server, sample) == {user: users[user] for user in sample}
    stats = server.cli_json("queue", "stats", "--json")
    assert stats["total"] == 0
    assert {event["result"] for event in server.events("message")} == {"delivered"}
    assert not server.events("handoff"), "a healthy cluster writes nothing to the queue"


def test_the_warm_path_makes_no_ldap_call(server: MailfrontServer, directory: Slapd) -> None:
    """Recipients that every worker has looked up are not looked up again: the counters of slapd stand still."""

    def searches_of_a_pass() -> int:
        before = directory.searches()
        assert _send(server, 100, sessions=5).ok
        return directory.searches() - before

    # Each worker has a cache of its own, and the kernel chooses the worker: after some passes both know everybody.
    wait_until(lambda: not any(searches_of_a_pass() for _ in range(4)), 60, "both workers to know all recipients")


def test_a_node_that_stops_halfway_costs_nothing(server: MailfrontServer, nodes: Sequence[DovecotNode]) -> None:
    """All are answered 250 while a node is stopped, none is lost, and all are at home within a minute of its return."""
    before = set(_all_ids(nodes))
    victim = nodes[1]
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_send, server, MESSAGES_COUNT)
        wait_until(lambda: len(set(_all_ids([nodes[0]])) - before) > 300, 120, "the run to be under way")
        victim.stop()
        sent = sending.result()
    assert sent.ok, sent.output
    away = server.cli_json("queue", "stats", "--json")
    assert away["total"] > 0, "mail of the stopped node is kept somewhere"
    victim.start()

    def at_home() -> bool:
        return len(set(_all_ids(nodes)) - before) == MESSAGES_COUNT

    wait_until(at_home, 60, "every message to be at home")
    fresh = [message_id for message_id in _all_ids(nodes) if message_id not in before]
    duplicates = len(fresh) - len(set(fresh))
    unknown = sum(1 for event in server.events("delivery") if event["outcome"] == "unknown")
    print(f"duplicates {duplicates}, attempts with an unknown outcome {unknown}")
    assert duplicates <= unknown
    homes = {user: node.id for node in nodes for user in _ids(node)}
    assert len(homes) == PEOPLE_COUNT, "nobody has a second mailbox elsewhere"
    wait_until(lambda: server.cli_json("queue", "stats", "--json")["total"] == 0, 60, "the queue to be empty")
    wait_until(lambda: not any(node.handoff_messages() for node in nodes), 60, "the handoff mailboxes to be empty")
