"""At RCPT each address gets one of a few answers, and our own trouble is never 5xx."""

from collections.abc import Mapping
from typing import Any

import pytest

from mailfront.base.errors import Unavailable
from mailfront.cluster.hashing import BUCKETS_COUNT, Node
from mailfront.cluster.placement import ClusterMap, Placement
from mailfront.directory.answers import Answer, CannotSay, DirectoryRecord, Found, Member, NoSuch, Source, Status
from mailfront.intake.leaves import Expanded, Target
from mailfront.intake.recipients import Recipients
from mailfront.mail.address import Address, parse_path
from mailfront.mail.envelope import NO_OPTIONS
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.reply import Reply

STORE1 = NodeId("store1")
MAP = ClusterMap(version=1, cluster="c", nodes=[Node(STORE1, 100, "")], owners=[STORE1] * BUCKETS_COUNT)


class TableDirectory:
    """A directory that is a dict, with `user+detail` found as `user`; everybody else is unknown."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    async def recipient(self, address: Address) -> Answer:
        base, detail = address.split_detail()
        if (answer := self._answers.get(address.key)) is not None:
            return answer
        found = self._answers.get(base.key)
        if isinstance(found, Found):
            return Found(found.record, found.source, found.age_s, detail)
        return found or NoSuch(Source.LDAP)

    async def member(self, member: Member) -> Answer:
        return await self.recipient(member) if isinstance(member, Address) else NoSuch(Source.LDAP)


class OneNode:
    """Everybody lives on store1, unless placement is in trouble."""

    def __init__(self, trouble: str = "") -> None:
        self._trouble = trouble

    async def locate(self, record: DirectoryRecord) -> Placement:
        if self._trouble:
            raise Unavailable(self._trouble)
        return MAP.place(record.key)

    def may_try(self, node: NodeId) -> bool:
        return True

    def handoff_order(self, placement: Placement) -> tuple[NodeId, ...]:
        return ()


class NotedAlarms:
    """Notes the names of alarms."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def raise_alarm(self, name: str, text: str) -> None:
        self.names.append(name)


def record(name: str = "ana", **changes: Any) -> Found:
    fields: dict[str, Any] = {"key": MailboxKey(f"{name}@example.edu"), "mailbox": name}
    fields["address"] = address_of(f"{name}@example.edu")
    return Found(DirectoryRecord(**(fields | changes)), Source.LDAP)


def address_of(text: str) -> Address:
    address = parse_path(text)
    assert address is not None
    return address


async def resolve(
    text: str,
    answers: Mapping[str, Answer] | None = None,
    *,
    node_user: str = "{mailbox}",
    trouble: str = "",
    alarms: "NotedAlarms | None" = None,
) -> Target | Expanded | Reply:
    known: dict[str, Answer] = {"postmaster-reader@example.edu": record("reader"), "ana@example.edu": record()}
    for name, answer in (answers or {}).items():
        known[f"{name}@example.edu"] = answer
    recipients = Recipients(
        TableDirectory(known),
        OneNode(trouble),
        alarms or NotedAlarms(),
        local_domains=frozenset({"example.edu"}),
        postmaster=address_of("postmaster-reader@example.edu"),
        node_user=node_user,
        handoff_mailbox=address_of("handoff@example.edu"),
    )
    return await recipients.resolve(address_of(text), NO_OPTIONS)


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("ana@elsewhere.org", {}, "550 5.7.1"),
        ("nobody@example.edu", {}, "550 5.1.1"),
        ("handoff@example.edu", {"handoff": record("handoff")}, "550 5.1.1"),
        ("handoff+x@example.edu", {"handoff": record("handoff")}, "550 5.1.1"),
        ("alias@example.edu", {"alias": record("handoff")}, "550 5.1.1"),
        ("bob@example.edu", {"bob": record("bob", status=Status.SUSPENDED)}, "550 5.2.1"),
        ("bob@example.edu", {"bob": record("bob", over_quota=True)}, "452 4.2.2"),
        ("bob@example.edu", {"bob": CannotSay("LDAP is down")}, "451 4.4.3"),
        ("bob@example.edu", {"bob": CannotSay("two entries", "directory.ambiguous")}, "451 4.3.5"),
        ("postmaster@example.edu", {"postmaster": CannotSay("LDAP is down")}, "451 4.4.3"),
    ],
)
async def test_refusals(text: str, answers: dict[str, Answer], expected: str) -> None:
    """Each reason has its own code; the directory's trouble is 4xx."""
    answer = await resolve(text, answers)
    assert isinstance(answer, Reply)
    assert str(answer).startswith(expected)


async def test_placement_trouble_is_temporary() -> None:
    """A mailbox whose home cannot be decided now is deferred, never refused."""
    answer = await resolve("ana@example.edu", trouble="no map yet")
    assert isinstance(answer, Reply)
    assert answer.is_transient


@pytest.mark.parametrize(
    ("text", "answers", "alarm"),
    [
        ("bob@example.edu", {"bob": CannotSay("two entries", "directory.ambiguous")}, "directory.ambiguous"),
        ("postmaster", {"postmaster-reader": NoSuch(Source.LDAP)}, "directory.no_postmaster"),
    ],
)
async def test_what_an_administrator_must_mend_raises_an_alarm(
    text: str, answers: dict[str, Answer], alarm: str
) -> None:
    """The client hears 4xx; who can mend it hears why."""
    alarms = NotedAlarms()
    answer = await resolve(text, answers, alarms=alarms)
    assert isinstance(answer, Reply)
    assert answer.is_transient
    assert alarms.names == [alarm]


@pytest.mark.parametrize("text", ["postmaster", "Postmaster", "postmaster@example.edu", "POSTMASTER@example.edu"])
async def test_postmaster_is_always_accepted(text: str) -> None:
    """RFC 5321 section 4.5.1: with or without a domain, in any case, whether or not the directory knows it."""
    target = await resolve(text)
    assert isinstance(target, Target)
    assert target.node_user == "reader"


@pytest.mark.parametrize(
    ("template", "text", "mailbox", "node_user"),
    [
        ("{mailbox}", "ana@example.edu", "ana", "ana"),
        ("{mailbox}", "ana+lists@example.edu", "ana", "ana+lists"),
        ("{mailbox}@{domain}", "ana+lists@example.edu", "ana", "ana+lists@example.edu"),
        ("{mailbox}", "ana+lists@example.edu", "ana@mail.example.edu", "ana+lists@mail.example.edu"),
    ],
)
async def test_the_node_is_told_its_own_name_of_the_mailbox(
    template: str, text: str, mailbox: str, node_user: str
) -> None:
    """The directory's raw value with the detail at its right place; the key is another thing."""
    target = await resolve(text, {"ana": record(mailbox=mailbox)}, node_user=template)
    assert isinstance(target, Target)
    assert target.node_user == node_user
    assert target.mailbox_key == "ana@example.edu"
    assert target.placement.home == STORE1
