"""Logins: what is asked, what is remembered, and what is never called a wrong password."""

import asyncio
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.errors import Unavailable
from mailfront.base.secret import Secret
from mailfront.directory.answers import ALARM_AMBIGUOUS, ALARM_UNREACHABLE, CannotSay, Found
from mailfront.directory.entries import Entry
from mailfront.directory.logins import DENIED, LoginTable
from mailfront.directory.settings import LdapSettings


class FakeAccounts:
    """Servers with a few entries that can be down."""

    def __init__(self) -> None:
        self.entries = {
            "ana": [Entry("uid=ana", {"uid": ("ana",), "mail": ("ana@example.edu",)})],
            "twin": [
                Entry("uid=t1", {"uid": ("t1",), "mail": ("t1@example.edu",)}),
                Entry("uid=t2", {"uid": ("t2",), "mail": ("t2@example.edu",)}),
            ],
        }
        self.passwords = {"uid=ana": b"secret"}
        self.is_down = self.refuses_binds = False
        self.filters: list[str] = []
        self.binds: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def find(self, search_filter: str, _attributes: tuple[str, ...]) -> list[Entry]:
        """See `Accounts`."""
        self.filters.append(search_filter)
        await self.may_answer.wait()
        if self.is_down:
            raise Unavailable("all servers are down")
        return self.entries.get(search_filter.removeprefix("(uid=").removesuffix(")"), [])

    async def verify(self, dn: str, password: Secret) -> bool:
        """See `Accounts`."""
        self.binds.append(dn)
        if self.is_down or self.refuses_binds:
            raise Unavailable("all servers are down")
        return self.passwords.get(dn) == password.reveal()


class Case:
    """A table with everything around it."""

    def __init__(self, **changes: Any) -> None:
        self.clock = ManualClock()
        self.source = FakeAccounts()
        base = {"kind": "ldap", "urls": ["ldap://x"], "base": "dc=x"}
        self.table = LoginTable(
            self.source, settings=LdapSettings.model_validate({**base, **changes}), clock=self.clock
        )

    async def try_(self, name: str, password: bytes = b"secret", mechanism: str = "PLAIN") -> object:
        """Log in."""
        return await self.table.authenticate(name, Secret(password), mechanism)


async def test_a_right_password_is_remembered_for_a_while_and_a_wrong_one_never() -> None:
    """Within `login_cache` nobody is asked again; afterwards the server is."""
    case = Case(login_cache="1m")
    assert isinstance(await case.try_("ana"), Found)
    assert isinstance(await case.try_("ANA"), Found)
    assert case.source.binds == ["uid=ana"]
    case.clock.advance(61)
    assert isinstance(await case.try_("ana"), Found)
    assert len(case.source.binds) == 2
    for _ in range(2):
        assert await case.try_("ana", b"wrong") is DENIED
    assert len(case.source.binds) == 4


async def test_what_is_remembered_is_bound_to_name_password_and_mechanism() -> None:
    """A proof for one says nothing about another."""
    case = Case()
    assert isinstance(await case.try_("ana"), Found)
    assert await case.try_("ana", b"secret ") is DENIED
    assert isinstance(await case.try_("ana", mechanism="LOGIN"), Found)
    assert len(case.source.binds) == 3


@pytest.mark.parametrize("name", ["nobody", "", "ana\x00", "ana\u200b", " ana", "x" * 300])
async def test_unknown_and_impossible_names_are_denied(name: str) -> None:
    """The same answer as for a wrong password."""
    case = Case()
    assert await case.try_(name) is DENIED
    assert case.source.binds == []


async def test_an_empty_password_is_denied_without_asking() -> None:
    """Servers would take it for an anonymous bind, and say yes."""
    case = Case()
    assert await case.try_("ana", b"") is DENIED
    assert case.source.filters == case.source.binds == []


async def test_a_directory_that_is_down_cannot_say() -> None:
    """Neither for the look-up nor for the bind; what was proved a moment ago still counts."""
    case = Case()
    case.source.refuses_binds = True
    answer = await case.try_("ana")
    assert isinstance(answer, CannotSay)
    assert answer.alarm == ALARM_UNREACHABLE
    case.source.refuses_binds = False
    assert isinstance(await case.try_("ana"), Found)
    case.source.is_down = True
    assert isinstance(await case.try_("ana"), Found)
    assert isinstance(await case.try_("ben"), CannotSay)


async def test_an_entry_that_was_moved_is_found_again() -> None:
    """A bind to its old name fails; that is not the user's mistake. A wrong password stays one."""
    case = Case()
    assert isinstance(await case.try_("ana"), Found)
    (entry,) = case.source.entries["ana"]
    case.source.entries["ana"] = [Entry("uid=ana,ou=staff", entry.values)]
    case.source.passwords = {"uid=ana,ou=staff": b"changed"}
    assert isinstance(await case.try_("ana", b"changed"), Found)
    assert await case.try_("ana", b"wrong") is DENIED


async def test_one_name_of_two_people_cannot_say() -> None:
    """Whose password should be checked?"""
    answer = await Case().try_("twin")
    assert isinstance(answer, CannotSay)
    assert answer.alarm == ALARM_AMBIGUOUS


async def test_an_account_is_known_while_the_directory_is_down() -> None:
    """For logins that the node judges: as long as a recipient's record is. Afterwards nobody can say."""
    case = Case(cache="5m", stale="1h")
    assert isinstance(await case.table.account("ana"), Found)
    case.source.is_down = True
    case.clock.advance(301)
    assert isinstance(await case.table.account("ana"), Found)
    case.clock.advance(3600)
    assert isinstance(await case.table.account("ana"), CannotSay)


async def test_the_same_login_many_times_at_once_is_asked_once() -> None:
    """A client opens five connections; one that leaves takes nothing from the others."""
    case = Case()
    case.source.may_answer.clear()
    tries = [asyncio.ensure_future(case.try_("ana")) for _ in range(5)]  # noqa: TID251
    await asyncio.sleep(0)
    tries[0].cancel()
    case.source.may_answer.set()
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert all(isinstance(answer, Found) for answer in answers[1:])
    assert len(case.source.binds) == 1


async def test_names_are_escaped_in_the_filter() -> None:
    """What a client writes is a value, never a part of the filter."""
    case = Case(login_filter="(|(uid={local})(mail={login})(ou={domain}))")
    await case.try_("a*)(uid=b@x")
    assert case.source.filters == ["(|(uid=a\\2a\\29\\28uid\\3db)(mail=a\\2a\\29\\28uid\\3db@x)(ou=x))"]
