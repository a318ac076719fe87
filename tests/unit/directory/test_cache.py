"""The cache: what is remembered, for how long, and what is said while the source is away."""

import asyncio
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.errors import Unavailable
from mailfront.base.tasks import spawn
from mailfront.directory.answers import Answer, ByDn, ByUid, CannotSay, DirectoryRecord, Found, Member, NoSuch, Source
from mailfront.directory.cache import MAX_FLIGHTS, AnswerTable
from mailfront.directory.counters import DirectoryCounters
from mailfront.directory.settings import LdapSettings
from mailfront.mail.address import Address
from mailfront.mail.names import MailboxKey


def address(local: str) -> Address:
    """An address of the test domain."""
    return Address(local, "example.edu")


def record(local: str) -> DirectoryRecord:
    """The record of a user."""
    return DirectoryRecord(key=MailboxKey(local), mailbox=local, address=address(local))


def named(asked: Member) -> str:
    """What is asked for, as a word."""
    if isinstance(asked, Address):
        return asked.local
    return asked.dn if isinstance(asked, ByDn) else asked.uid


class FakeSource:
    """A directory of a few names that can be down, slow, or wrong."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.down = False
        self.unclear: set[str] = set()
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def look_up(self, asked: Member) -> Found | NoSuch | CannotSay:
        """See `Asked`."""
        local = named(asked)
        self.asked.append(local)
        await self.may_answer.wait()
        if self.down:
            raise Unavailable("all servers are down")
        if local in self.unclear:
            return CannotSay("two entries", "directory.ambiguous")
        if local in self.names:
            return Found(record(local), Source.LDAP)
        return NoSuch(Source.LDAP)


class FakeSnapshot:
    """A snapshot of a few names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    async def look_up(self, asked: Member) -> Answer | None:
        """See `Remembered`."""
        local = named(asked)
        if local in self.names:
            return Found(record(local), Source.SNAPSHOT, 60.0)
        return NoSuch(Source.SNAPSHOT, 60.0)


class Case:
    """A table with everything around it."""

    def __init__(self, *names: str, snapshot: FakeSnapshot | None = None, **changes: Any) -> None:
        base = {"kind": "ldap", "urls": ["ldap://x"], "base": "dc=x"}
        self.clock = ManualClock()
        self.source = FakeSource(*names)
        self.counters = DirectoryCounters()
        self.table = AnswerTable(
            self.source,
            snapshot,
            settings=LdapSettings.model_validate(base | changes),
            clock=self.clock,
            counters=self.counters,
        )

    async def ask(self, local: str) -> Answer:
        """Look up one address."""
        return await self.table.recipient(address(local))


async def test_a_detail_in_quotes_is_not_split_off() -> None:
    """`"ana+x y"` is not ana: no node could be told that detail."""
    case = Case("ana")
    assert isinstance(await case.ask("ana+x y"), NoSuch)
    assert case.source.asked == ["ana+x y"]


async def test_a_record_is_asked_for_once_and_then_remembered() -> None:
    """Within `cache` seconds no look-up reaches the source, whatever the case of the letters."""
    case = Case("ana")
    assert await case.ask("ana") == Found(record("ana"), Source.LDAP)
    case.clock.advance(299)
    assert await case.ask("ANA") == Found(record("ana"), Source.CACHE, 299.0)
    assert case.source.asked == ["ana"]
    case.clock.advance(2)
    assert await case.ask("ana") == Found(record("ana"), Source.LDAP)
    assert case.source.asked == ["ana", "ana"]


async def test_a_warm_lookup_does_not_yield_to_the_event_loop() -> None:
    """The coroutine of a warm look-up ends at its first step."""
    case = Case("ana")
    await case.ask("ana")
    warm = case.table.recipient(address("ana"))
    with pytest.raises(StopIteration) as stopped:
        warm.send(None)
    assert isinstance(stopped.value.value, Found)


async def test_no_such_is_remembered_for_a_shorter_time() -> None:
    """A new user is known after `negative` seconds at the latest."""
    case = Case()
    assert await case.ask("new") == NoSuch(Source.LDAP)
    case.source.names.add("new")
    case.clock.advance(29)
    assert await case.ask("new") == NoSuch(Source.CACHE, 29.0)
    case.clock.advance(2)
    assert isinstance(await case.ask("new"), Found)


async def test_who_was_removed_is_forgotten_after_the_cache_time() -> None:
    """A fresh "no such" replaces the old record for good: it is not served as stale later."""
    case = Case("ana")
    await case.ask("ana")
    case.source.names.clear()
    case.clock.advance(301)
    assert await case.ask("ana") == NoSuch(Source.LDAP)
    case.source.down = True
    case.clock.advance(31)
    assert isinstance(await case.ask("ana"), CannotSay)


async def test_many_look_ups_of_one_address_are_one_question() -> None:
    """A hundred callers at once wait for one answer."""
    case = Case("ana")
    case.source.may_answer.clear()
    callers = [spawn(case.ask("ana"), name=f"caller-{number}") for number in range(100)]
    await asyncio.sleep(0)
    case.source.may_answer.set()
    answers = await asyncio.gather(*callers)
    assert case.source.asked == ["ana"]
    assert {type(answer) for answer in answers} == {Found}
    assert case.counters.joined == 99


async def test_a_caller_that_goes_away_takes_nothing_from_the_others() -> None:
    """The first caller is cancelled; the second gets the answer of the same question."""
    case = Case("ana")
    case.source.may_answer.clear()
    first, second = spawn(case.ask("ana"), name="first"), spawn(case.ask("ana"), name="second")
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    case.source.may_answer.set()
    assert isinstance(await second, Found)
    assert first.cancelled()
    assert case.source.asked == ["ana"]


async def test_a_stale_record_is_used_only_while_the_source_is_down() -> None:
    """Down: the old copy with its age, for 24 hours. Back: a fresh answer at once."""
    case = Case("ana")
    await case.ask("ana")
    case.source.down = True
    case.clock.advance(3600)
    assert await case.ask("ana") == Found(record("ana"), Source.STALE, 3600.0)
    case.source.down = False
    assert await case.ask("ana") == Found(record("ana"), Source.LDAP)
    case.source.down = True
    case.clock.advance(86401)
    assert isinstance(await case.ask("ana"), CannotSay)


async def test_an_unknown_address_is_never_denied_while_the_source_is_down() -> None:
    """Neither an address never asked before nor one that did not exist earlier becomes "no such"."""
    case = Case()
    await case.ask("old")
    case.source.down = True
    case.clock.advance(31)
    for local in ("old", "new", "old+x", "new+x"):
        answer = await case.ask(local)
        assert isinstance(answer, CannotSay), local
        assert answer.alarm == "directory.unreachable"


async def test_a_contradiction_replaces_what_was_known() -> None:
    """An address that became ambiguous is not answered from an old copy, with the source up or down."""
    case = Case("ana")
    await case.ask("ana")
    case.source.unclear.add("ana")
    case.clock.advance(301)
    assert await case.ask("ana") == CannotSay("two entries", "directory.ambiguous")
    case.source.down = True
    case.clock.advance(31)
    assert await case.ask("ana") == CannotSay("two entries", "directory.ambiguous")


async def test_the_snapshot_answers_when_nothing_else_can() -> None:
    """A cold start without servers: known users are found, the others are not denied."""
    case = Case(snapshot=FakeSnapshot("ana"))
    case.source.down = True
    assert await case.ask("ana") == Found(record("ana"), Source.SNAPSHOT, 60.0)
    assert await case.ask("ana+x") == Found(record("ana"), Source.SNAPSHOT, 60.0, "x")
    for unknown in ("bob", "bob+x"):
        answer = await case.ask(unknown)
        assert isinstance(answer, CannotSay)
        assert answer.alarm == "directory.unreachable"
    assert case.counters.snapshot == 2


async def test_a_detail_is_tried_stripped_after_the_address_itself() -> None:
    """`ana+x` is ana's, with the detail reported; an address that has the plus in it is its own."""
    case = Case("ana", "ana+own")
    assert await case.ask("ana+x") == Found(record("ana"), Source.LDAP, 0.0, "x")
    assert await case.ask("ana+own") == Found(record("ana+own"), Source.LDAP)
    assert await case.ask("ana+y+z") == Found(record("ana"), Source.CACHE, 0.0, "y+z")
    assert await case.ask("bob+x") == NoSuch(Source.LDAP)


async def test_a_detail_survives_the_outage_if_the_plain_address_is_known() -> None:
    """With both spellings asked before, `ana+x` is still ana's while no server answers."""
    case = Case("ana")
    await case.ask("ana+x")
    case.source.down = True
    case.clock.advance(1000)
    assert await case.ask("ana+x") == Found(record("ana"), Source.STALE, 1000.0, "x")


async def test_spellings_that_cannot_exist_reach_no_server() -> None:
    """Look-alikes and over-long names are answered from the rule alone, with the source up or down."""
    case = Case("ana")
    case.source.down = True
    for local in ("ａｎａ", "a\u00adna", "x" * 65, "ana\x00"):
        assert await case.ask(local) == NoSuch(Source.CACHE)
    assert case.source.asked == []


async def test_the_tables_are_bounded_and_guesses_drive_no_record_out() -> None:
    """A flood of unknown names leaves the records alone; a flood of known ones drops the oldest."""
    case = Case("ana", *(f"user{number}" for number in range(1000)), cache_entries=1000)
    await case.ask("ana")
    for number in range(3000):
        await case.ask(f"guess{number}")
    case.source.asked.clear()
    await case.ask("ana")
    await case.ask("guess2999")
    assert case.source.asked == []
    await case.ask("guess0")
    for number in range(1000):
        await case.ask(f"user{number}")
    case.source.asked.clear()
    await case.ask("user999")
    await case.ask("ana")
    assert case.source.asked == ["ana"]


async def test_too_many_look_ups_at_once_are_refused_not_queued() -> None:
    """With a thousand addresses under way the next one gets `CannotSay` at once."""
    case = Case()
    case.source.may_answer.clear()
    callers = [spawn(case.ask(f"u{number}"), name=f"u{number}") for number in range(MAX_FLIGHTS)]
    await asyncio.sleep(0)
    assert isinstance(await case.ask("one-more"), CannotSay)
    case.source.may_answer.set()
    await asyncio.gather(*callers)


async def test_closing_ends_what_is_under_way() -> None:
    """No look-up outlives the table."""
    case = Case()
    case.source.may_answer.clear()
    caller = spawn(case.ask("ana"), name="caller")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await case.table.close()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_members_are_remembered_like_addresses_and_apart_from_them() -> None:
    """A DN is one question however it is spelled; the same word as a login name is another."""
    case = Case("uid=ana,dc=x", "ana")
    first = await case.table.member(ByDn("uid=ana,dc=x"))
    assert isinstance(first, Found)
    again = await case.table.member(ByDn("UID=Ana, DC=x"))
    assert isinstance(again, Found)
    assert again.source is Source.CACHE
    assert isinstance(await case.table.member(ByUid("ana")), Found)
    assert isinstance(await case.table.member(address("ana")), Found)
    assert case.source.asked == ["uid=ana,dc=x", "ana", "ana"]


async def test_a_member_that_only_an_old_copy_does_not_know_is_not_gone() -> None:
    """While no server answers, a list is not sent to a part of its members."""
    case = Case(snapshot=FakeSnapshot("uid=ana,dc=x"))
    case.source.down = True
    assert isinstance(await case.table.member(ByDn("uid=ana,dc=x")), Found)
    assert isinstance(await case.table.member(ByDn("uid=ben,dc=x")), CannotSay)
