"""Lists and forwards over a real OpenLDAP: every way to name a member, and never a part of a list."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailfront.base.clock import SystemClock
from mailfront.cluster.hashing import BUCKETS_COUNT, Node
from mailfront.cluster.placement import ClusterMap, Placement
from mailfront.directory.answers import DirectoryRecord
from mailfront.directory.directory import Directory
from mailfront.directory.settings import LdapSettings
from mailfront.intake.leaves import Expanded, Target
from mailfront.intake.recipients import Recipients
from mailfront.mail.address import Address
from mailfront.mail.envelope import NO_OPTIONS
from mailfront.mail.names import NodeId
from mailfront.mail.reply import Reply
from tests.support.doc_blocks import blocks_of
from tests.support.ldap import BIND_DN, BIND_PASSWORD, PEOPLE, SUFFIX, Person, Slapd, ordinary_people

STORE1 = NodeId("store1")
MAP = ClusterMap(version=1, cluster="c", nodes=[Node(STORE1, 100, "")], owners=[STORE1] * BUCKETS_COUNT)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "mailing-lists-in-ldap.md"
OUTSIDER = Address("x", "example.org")


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
    """Recipients over a directory."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.alarms = Alarms()
        self.recipients = Recipients(
            directory,
            OneNode(),
            self.alarms,
            local_domains=frozenset({"example.edu"}),
            postmaster=Address("user0000", "example.edu"),
            node_user="{mailbox}",
            handoff_mailbox=None,
            relays=True,
        )

    async def resolve(self, local: str, sender: Address | None = OUTSIDER) -> Target | Expanded | Reply:
        """What RCPT comes to."""
        return await self.recipients.resolve(Address(local, "example.edu"), NO_OPTIONS, sender)

    async def reaches(self, local: str, sender: Address | None = OUTSIDER) -> dict[str, str | None]:
        """Whom it reaches, with the owner of each."""
        answer = await self.resolve(local, sender)
        assert isinstance(answer, Expanded), answer
        return {leaf.node_user: leaf.list_owner for leaf in answer.leaves}

    async def refusal(self, local: str, sender: Address | None = OUTSIDER) -> str:
        """How it is refused."""
        answer = await self.resolve(local, sender)
        assert isinstance(answer, Reply), answer
        return f"{answer.code} {answer.enhanced}"


Make = Callable[..., Awaitable[Case]]


@pytest.fixture(scope="module")
def server() -> Iterator[Slapd]:
    """One server with forty people and lists of every kind."""
    people = [
        *ordinary_people(40),
        Person(uid="mover", mail=("mover@example.edu",), forwards=("mover@out.example", "mover@example.edu")),
        Person(uid="star*", mail=("star*@example.edu",)),
    ]
    slapd = Slapd(people=people)
    slapd.start()
    dn = slapd.dn
    inner = slapd.add_list("inner", f"member: {dn('user0004')}", f"member: {dn('user0001')}", domain=None)
    slapd.add_list(
        "all",
        *(f"member: {dn(uid)}" for uid in ("user0001", "user0002", "mover")),
        f"member: {inner}",
        f"member: cn=mailfront-was-here,{PEOPLE}",
        "mgrpRFC822MailMember: guest@out.example",
        "mgrpRFC822MailMember: first0003.last@example.edu",
        f"mgrpErrorsTo: {dn('user0009')}",
        f"mgrpAllowedBroadcaster: {dn('user0030')}",
        "mgrpAllowedBroadcaster: members",
        "mgrpAllowedBroadcaster: @example.org",
    )
    names = ("user0005", "*", "star*", "user0006)(uid=*")
    slapd.add_list("posix", "gidNumber: 500", *(f"memberUid: {name}" for name in names), kind="posixGroup")
    plain = ("mgrpRFC822MailMember: user0007@example.edu", "mgrpErrorsTo: mailto:boss@out.example")
    slapd.add_list("plain", *plain, kind="mailGroup")
    slapd.add_list("circle", f"member: cn=circle,{PEOPLE}", "mgrpRFC822MailMember: circle@example.edu")
    yield slapd
    slapd.kill9()


@pytest.fixture
async def make(server: Slapd, tmp_path: Path) -> AsyncIterator[Make]:
    """Make cases over the server; it runs again at the end."""
    (tmp_path / "password").write_text(BIND_PASSWORD)
    made: list[Directory] = []

    async def make_one(*, keeps_snapshot: bool = False, **changes: Any) -> Case:
        base = {
            "kind": "ldap",
            "urls": [server.url],
            "base": PEOPLE,
            "bind_dn": BIND_DN,
            "password_file": str(tmp_path / "password"),
        }
        settings = LdapSettings.model_validate(base | changes)
        directory = Directory(settings, state_dir=tmp_path, clock=SystemClock(), keeps_snapshot=keeps_snapshot)
        made.append(directory)
        await directory.open()
        return Case(directory)

    yield make_one
    for directory in made:
        await directory.close()
    if not server.process.running:
        server.start()


async def test_members_by_dn_and_address_nested_with_an_owner_named_by_dn(make: Make) -> None:
    """Everybody once, in the owner's name, with the forward of a member followed; a DN that leads nowhere is left out
    and alarmed."""
    case = await make()
    owner = "user0009@example.edu"
    expected = ("user0001", "user0002", "user0003", "user0004", "mover", "mover@out.example", "guest@out.example")
    assert await case.reaches("all") == dict.fromkeys(expected, owner)
    assert "mailfront-was-here" in case.alarms.raised["directory.left_out"]


async def test_members_by_login_name_are_searched_for_as_they_are_written(make: Make) -> None:
    """A posixGroup whose member is a filter finds the one person of that very name, or nobody."""
    case = await make()
    assert set(await case.reaches("posix")) == {"user0005", "star*"}
    assert case.directory.troubles() == ()
    assert case.directory.counters.ldap_failures == 0


async def test_a_list_of_addresses_needs_no_entries_of_people(make: Make) -> None:
    """mailGroup: members and owner are addresses; one member with an owner is still a list."""
    assert await (await make()).reaches("plain") == {"user0007": "boss@out.example"}


async def test_who_may_post_is_looked_up_in_the_directory(make: Make) -> None:
    """By DN, as a member under any of the own addresses, by domain; nobody else, and no null sender."""
    case = await make()
    for sender in ("user0030", "first0030.last", "user0004", "mover"):
        assert await case.reaches("all", Address(sender, "example.edu"))
    assert await case.reaches("all", Address("guest", "out.example"))
    for refused in (Address("user0031", "example.edu"), Address("x", "out.example"), None):
        assert await case.refusal("all", refused) == "550 5.7.2"


async def test_a_group_that_holds_only_itself_leads_to_nobody(make: Make) -> None:
    """It ends, and it is refused with a reason."""
    assert await (await make()).refusal("circle") == "550 5.4.6"


async def test_a_warm_list_asks_no_server(make: Make, server: Slapd) -> None:
    """The second message to a list makes no LDAP search, who may post included."""
    case = await make()
    sender = Address("user0004", "example.edu")
    first = await case.reaches("all", sender)
    searches = case.directory.counters.ldap_searches
    assert await case.reaches("all", sender) == first
    assert case.directory.counters.ldap_searches == searches


async def test_ldap_that_goes_away_stops_a_cold_list_and_not_a_warm_one(make: Make, server: Slapd) -> None:
    """Cold: 451, although the list itself is known. Warm: it goes on with what is known, for a day."""
    warm, cold = await make(cache="1s"), await make()
    everybody = await warm.reaches("all")
    assert not isinstance(await cold.resolve("plain"), Reply)
    server.stop()
    assert await warm.reaches("all") == everybody
    assert await cold.refusal("all") == "451 4.4.3"


async def test_a_cold_start_from_the_snapshot_knows_lists_and_members(
    make: Make, server: Slapd, tmp_path: Path
) -> None:
    """Members by address, DN and login name are found in the copy; one that is not in it stops the list: 451."""
    writer = await make(snapshot="1h", keeps_snapshot=True)
    snapshot = writer.directory._snapshot
    assert snapshot is not None
    async with asyncio.timeout(60):
        while snapshot.age_s() is None:
            await asyncio.sleep(0.02)
    server.stop()
    cold = await make(snapshot="1h")
    assert await cold.reaches("plain") == {"user0007": "boss@out.example"}
    assert await cold.refusal("posix") == "451 4.4.3"
    assert await cold.refusal("all") == "451 4.4.3"


async def test_the_list_of_the_documentation(make: Make, server: Slapd) -> None:
    """The entry of docs/how-to/mailing-lists-in-ldap.md as it stands there: OpenLDAP takes it, its members are found in
    their own branch, its owner is set, and who may post is who the page says."""
    (entry,) = [block.text for block in blocks_of(PAGE) if block.text.startswith("dn: ")]
    head, rest = entry.split("\n", 1)
    people = [
        f"dn: uid={uid},{PEOPLE}\nchangetype: add\nobjectClass: inetOrgPerson\nobjectClass: mailfrontUser\n"
        f"uid: {uid}\ncn: {uid}\nsn: {uid}\nmail: {uid}@example.edu\n"
        for uid in ("ana", "ben", "cid")
    ]
    branch = f"dn: ou=groups,{SUFFIX}\nchangetype: add\nobjectClass: organizationalUnit\nou: groups\n"
    guests = (
        f"dn: cn=physics-guests,ou=groups,{SUFFIX}\nchangetype: add\nobjectClass: groupOfNames\n"
        f"cn: physics-guests\nmember: uid=cid,{PEOPLE}\n"
    )
    server.apply_ldif("\n".join([*people, branch, guests, f"{head}\nchangetype: add\n{rest}"]))
    case = await make(base=SUFFIX)
    everybody = dict.fromkeys(("ana", "ben", "cid", "partner@example.org"), "physics-secretary@example.edu")
    for sender in (Address("partner", "example.org"), Address("user0001", "example.edu")):
        assert await case.reaches("physics-staff", sender) == everybody
    assert await case.refusal("physics-staff", OUTSIDER) == "550 5.7.2"
