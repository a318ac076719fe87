"""Forwards and groups at RCPT: whom they reach, by whom, and when they are refused."""

from collections.abc import Iterable, Mapping

import pytest

from mailfront.cluster.hashing import BUCKETS_COUNT, Node
from mailfront.cluster.placement import ClusterMap, Placement
from mailfront.directory.answers import (
    Answer,
    Audience,
    ByDn,
    ByUid,
    CannotSay,
    DirectoryRecord,
    Found,
    Group,
    Member,
    NoSuch,
    Posters,
    Source,
    Status,
)
from mailfront.intake.leaves import Expanded, HopLeaf, Target
from mailfront.intake.recipients import Recipients
from mailfront.mail.address import Address, parse_path
from mailfront.mail.envelope import NO_OPTIONS, RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.next_hop import RELAY
from mailfront.mail.reply import Reply
from mailfront.queue.dsn import NoticeKind

STORE1 = NodeId("store1")
MAP = ClusterMap(version=1, cluster="c", nodes=[Node(STORE1, 100, "")], owners=[STORE1] * BUCKETS_COUNT)
SUCCESS = RecipientOptions(notify="SUCCESS,FAILURE", orcpt="rfc822;first@example.edu")


def at(text: str) -> Address:
    """An address; one without a domain is ours."""
    address = parse_path(text if "@" in text else f"{text}@example.edu")
    assert address is not None
    return address


def user(
    name: str,
    *forwards: str,
    copy: bool = False,
    status: Status = Status.ACTIVE,
    over_quota: bool = False,
    mailbox: bool = True,
) -> DirectoryRecord:
    """A person, with or without forwards."""
    return DirectoryRecord(
        key=MailboxKey(f"{name}@example.edu" if mailbox else ""),
        mailbox=name if mailbox else "",
        address=at(name),
        status=status,
        over_quota=over_quota,
        forwards=tuple(map(at, forwards)),
        keeps_copy=copy,
        entry=f"uid={name}",
    )


def group(
    name: str, *members: Member | str, owner: Address | ByDn | None = None, posters: Posters | None = None
) -> DirectoryRecord:
    """A list. A member that is a text is an address."""
    return DirectoryRecord(
        key=MailboxKey(""),
        mailbox="",
        address=at(name),
        group=Group(
            members=tuple(at(member) if isinstance(member, str) else member for member in members),
            owner=owner,
            posters=posters or Posters(),
        ),
        entry=f"cn={name}",
    )


class Table:
    """A directory that is a dict; `cannot_say` names whom it cannot look up."""

    def __init__(self, records: Iterable[DirectoryRecord], cannot_say: str = "") -> None:
        self.records = {record.address.key: record for record in records}
        self.by_entry = {record.entry: record for record in self.records.values()}
        self.cannot_say = cannot_say
        self.asked: list[Member] = []

    async def recipient(self, address: Address) -> Answer:
        self.asked.append(address)
        base, detail = address.split_detail()
        if base.local == self.cannot_say:
            return CannotSay("LDAP is down", "directory.unreachable")
        record = self.records.get(base.key)
        return NoSuch(Source.LDAP) if record is None else Found(record, Source.LDAP, 0.0, detail)

    async def member(self, member: Member) -> Answer:
        if isinstance(member, Address):
            return await self.recipient(member)
        self.asked.append(member)
        record = self.by_entry.get(member.dn if isinstance(member, ByDn) else f"uid={member.uid}")
        return NoSuch(Source.LDAP) if record is None else Found(record, Source.LDAP)


class OneNode:
    """Everybody lives on store1."""

    async def locate(self, record: DirectoryRecord) -> Placement:
        return MAP.place(record.key)


class Alarms:
    """Notes alarms."""

    def __init__(self) -> None:
        self.raised: dict[str, str] = {}

    def raise_alarm(self, name: str, text: str) -> None:
        self.raised[name] = text


class Case:
    """Recipients over a table."""

    def __init__(self, *records: DirectoryRecord, relays: bool = True, most: int = 5000, cannot_say: str = "") -> None:
        self.table, self.alarms = Table(records, cannot_say), Alarms()
        self.recipients = Recipients(
            self.table,
            OneNode(),
            self.alarms,
            local_domains=frozenset({"example.edu"}),
            postmaster=at("root"),
            node_user="{mailbox}",
            handoff_mailbox=at("handoff"),
            relays=relays,
            most_members=most,
        )

    async def resolve(
        self, name: str, options: RecipientOptions = NO_OPTIONS, sender: str | None = "x@example.org"
    ) -> Target | Expanded | Reply:
        """What RCPT comes to."""
        return await self.recipients.resolve(at(name), options, None if sender is None else at(sender))

    async def leaves(self, name: str, sender: str | None = "x@example.org") -> dict[str, tuple[str, str | None]]:
        """Whom it reaches: `mailbox` or `address` with who brought it and the owner."""
        answer = await self.resolve(name, sender=sender)
        if isinstance(answer, Target):
            return {answer.node_user: (answer.via, answer.list_owner)}
        assert isinstance(answer, Expanded), answer
        return {leaf.node_user: (leaf.via, leaf.list_owner) for leaf in answer.leaves}

    async def refusal(self, name: str, sender: str | None = "x@example.org") -> str:
        """How it is refused: code and status."""
        answer = await self.resolve(name, sender=sender)
        assert isinstance(answer, Reply), answer
        return f"{answer.code} {answer.enhanced}"


async def test_a_forward_leads_elsewhere_and_names_who_forwards() -> None:
    """A local one to the other mailbox, an external one to the smarthost."""
    case = Case(user("ana", "ben"), user("ben"), user("cleo", "friend@out.example"))
    assert await case.leaves("ana") == {"ben": ("ana@example.edu", None)}
    answer = await case.resolve("cleo")
    assert isinstance(answer, Expanded)
    (leaf,) = answer.leaves
    assert isinstance(leaf, HopLeaf)
    assert (leaf.hop, str(leaf.address), leaf.via) == (RELAY, "friend@out.example", "cleo@example.edu")


async def test_a_forward_of_a_forward_names_the_last_one() -> None:
    """The one whose own forward sent it out knows it again when it comes back."""
    case = Case(user("ana", "ben"), user("ben", "friend@out.example"))
    assert await case.leaves("ana") == {"friend@out.example": ("ben@example.edu", None)}


@pytest.mark.parametrize("ana", [user("ana", "ben", copy=True), user("ana", "ana", "ben"), user("ana", "ana+x", "ben")])
async def test_a_copy_is_kept_by_attribute_or_by_a_forward_to_oneself(ana: DirectoryRecord) -> None:
    """Both ways to say it lead to both mailboxes; the detail that the client wrote stays with the own copy."""
    case = Case(ana, user("ben"))
    assert await case.leaves("ana+lists") == {"ana+lists": ("", None), "ben": ("ana@example.edu", None)}


async def test_a_circle_ends_at_the_first_mailbox() -> None:
    """ana -> ben -> ana: ana's mailbox. Nobody else gets it, and nothing is lost."""
    case = Case(user("ana", "ben"), user("ben", "ana"))
    assert await case.leaves("ana") == {"ana": ("", None)}


async def test_a_circle_without_a_mailbox_is_refused() -> None:
    """Names that only point at each other: 550 5.4.6."""
    case = Case(user("a", "b", mailbox=False), user("b", "a", mailbox=False))
    assert await case.refusal("a") == "550 5.4.6"


async def test_members_are_found_by_dn_by_login_name_and_by_address() -> None:
    """Each once, however often and in whatever nested groups they stand."""
    case = Case(
        group("all", ByDn("uid=ana"), ByUid("ben"), "cleo", "friend@out.example", ByDn("cn=some"), ByDn("uid=ana")),
        group("some", ByUid("ana"), "dora", ByDn("cn=all")),
        *map(user, ("ana", "ben", "cleo", "dora")),
    )
    assert set(await case.leaves("all")) == {"ana", "ben", "cleo", "dora", "friend@out.example"}


async def test_the_owner_takes_the_senders_place_for_all_below() -> None:
    """An inner list's owner comes before the outer's; a forward of a member keeps it; an owner may be named by DN."""
    case = Case(
        group("outer", "ana", ByDn("cn=inner"), owner=at("boss")),
        group("inner", "ben", owner=ByDn("uid=cleo")),
        user("ana", "out@out.example"),
        user("ben"),
        user("cleo"),
    )
    assert await case.leaves("outer") == {
        "ben": ("inner@example.edu", "cleo@example.edu"),
        "out@out.example": ("ana@example.edu", "boss@example.edu"),
    }


async def test_an_owner_who_cannot_be_reached_leaves_the_sender_in_place() -> None:
    """The mail goes on, and an alarm says what to mend."""
    case = Case(group("all", "ana", "ben", owner=ByDn("uid=gone")), user("ana"), user("ben"))
    assert await case.leaves("all") == dict.fromkeys(("ana", "ben"), ("all@example.edu", None))
    assert "uid=gone" in case.alarms.raised["directory.left_out"]


async def test_who_is_suspended_or_gone_is_left_out_of_a_list() -> None:
    """The others get it; an alarm names the one that does not exist: that is a mistake, to be suspended is none."""
    case = Case(group("all", "ana", "ben", "gone"), user("ana"), user("ben", status=Status.SUSPENDED))
    assert set(await case.leaves("all")) == {"ana"}
    assert "gone@example.edu" in case.alarms.raised["directory.left_out"]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([user("ana", "ben"), user("ben", status=Status.SUSPENDED)], "550 5.2.1"),
        ([user("ana", "ben"), user("ben", over_quota=True)], "452 4.2.2"),
        ([user("ana", "gone")], "550 5.1.1"),
        ([user("ana", "handoff"), user("handoff")], "550 5.1.1"),
        ([group("ana")], "550 5.1.1"),
    ],
)
async def test_an_address_that_leads_to_nobody_is_refused_at_rcpt(
    records: list[DirectoryRecord], expected: str
) -> None:
    """The reason is that of the one that it leads to."""
    assert await Case(*records).refusal("ana") == expected


async def test_a_directory_that_cannot_answer_stops_the_whole_expansion() -> None:
    """451, whoever of five hundred it is about: never a part of a list."""
    names = [f"u{number}" for number in range(500)]
    case = Case(group("all", *names), *map(user, names), cannot_say="u499")
    assert await case.refusal("all") == "451 4.4.3"
    assert "directory.unreachable" in case.alarms.raised


async def test_without_a_smarthost_nothing_is_forwarded_outside() -> None:
    """451 at RCPT, with an alarm: the mail stays at its sender until somebody sets it up."""
    case = Case(user("ana", "ben", "x@out.example"), user("ben"), relays=False)
    assert await case.refusal("ana") == "451 4.3.5"
    assert "outbound.no_smarthost" in case.alarms.raised


async def test_a_list_that_is_too_long_is_refused_for_now_and_alarmed() -> None:
    """Nested lists count together."""
    names = [f"u{number}" for number in range(6)]
    case = Case(
        group("all", "one", "two"), group("one", *names[:3]), group("two", *names[3:]), *map(user, names), most=5
    )
    assert await case.refusal("all") == "451 4.3.5"
    assert "directory.list_too_long" in case.alarms.raised
    assert len(await Case(group("all", *names[:5]), *map(user, names), most=5).leaves("all")) == 5


BOSS_ONLY = Posters(audiences=frozenset(), addresses=frozenset({"boss@out.example"}))


@pytest.mark.parametrize(
    ("posters", "sender", "may_post"),
    [
        (Posters(), "x@out.example", True),
        (Posters(), None, True),
        (BOSS_ONLY, "Boss@out.example", True),
        (BOSS_ONLY, "x@out.example", False),
        (BOSS_ONLY, None, False),
        (Posters(audiences=frozenset(), domains=frozenset({"out.example"})), "x@out.example", True),
        (Posters(audiences=frozenset(), domains=frozenset({"out.example"})), "x@sub.out.example", False),
        (Posters(audiences=frozenset(), entries=frozenset({"uid=eve"})), "eve", True),
        (Posters(audiences=frozenset({Audience.LOCAL})), "eve", True),
        (Posters(audiences=frozenset({Audience.LOCAL})), "x@out.example", False),
        (Posters(audiences=frozenset({Audience.MEMBERS})), "ana", True),
        (Posters(audiences=frozenset({Audience.MEMBERS})), "ana+work", True),
        (Posters(audiences=frozenset({Audience.MEMBERS})), "member@out.example", True),
        (Posters(audiences=frozenset({Audience.MEMBERS})), "eve", False),
        (Posters(audiences=frozenset({Audience.OWNER})), "boss", True),
        (Posters(audiences=frozenset({Audience.OWNER})), "ana", False),
    ],
)
async def test_only_who_may_post_is_accepted(posters: Posters, sender: str | None, may_post: bool) -> None:
    """Everybody else gets 550 5.7.2, the null sender too unless anyone may."""
    case = Case(
        group("all", ByDn("cn=inner"), "member@out.example", owner=at("boss"), posters=posters),
        group("inner", ByUid("ana"), posters=BOSS_ONLY),
        *map(user, ("ana", "eve", "boss")),
    )
    if may_post:
        assert set(await case.leaves("all", sender)) == {"ana", "member@out.example"}
    else:
        assert await case.refusal("all", sender) == "550 5.7.2"


async def test_a_forward_is_no_way_around_who_may_post() -> None:
    """A list that somebody forwards to asks who the sender is; a list that is a member of a list does not."""
    case = Case(user("ana", "staff"), group("staff", "ben", posters=BOSS_ONLY), user("ben"))
    assert await case.refusal("ana") == "550 5.7.2"


async def test_what_the_sender_wants_to_hear_follows_the_kind_of_expansion() -> None:
    """RFC 3461 section 5.2.7: one address passes his wishes on, several are `expanded`, a list with an owner is the end
    of the way."""
    case = Case(
        user("one", "ana"),
        user("two", "ana", "ben"),
        group("list", "ana", "ben", owner=at("boss")),
        *map(user, ("ana", "ben")),
    )
    one = await case.resolve("one", SUCCESS)
    assert isinstance(one, Expanded)
    assert ([leaf.options for leaf in one.leaves], one.success) == ([SUCCESS], None)
    two, listed = await case.resolve("two", SUCCESS), await case.resolve("list", SUCCESS)
    assert isinstance(two, Expanded)
    assert isinstance(listed, Expanded)
    assert (two.success, listed.success) == (NoticeKind.EXPANDED, NoticeKind.DELIVERED)
    assert {leaf.options.notify for leaf in two.leaves} == {"FAILURE"}
    assert {leaf.options for leaf in listed.leaves} == {NO_OPTIONS}


async def test_a_plain_mailbox_costs_one_question() -> None:
    """Nothing is asked for the sake of forwards and lists that are not there."""
    case = Case(user("ana"))
    assert isinstance(await case.resolve("ana"), Target)
    assert case.table.asked == [at("ana")]


async def test_a_group_over_a_hundred_goes_through_the_queue() -> None:
    """Nobody waits for it; a hundred are delivered at once."""

    async def through(count: int) -> Mapping[bool, int]:
        names = [f"u{number}" for number in range(count)]
        answer = await Case(group("all", *names), *map(user, names)).resolve("all")
        assert isinstance(answer, Expanded)
        queued = sum(isinstance(leaf, Target) and leaf.through_queue for leaf in answer.leaves)
        return {True: queued, False: count - queued}

    assert await through(100) == {True: 0, False: 100}
    assert await through(101) == {True: 101, False: 0}
