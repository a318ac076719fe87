"""Who logs in, and is the password right? LDAP behind a memory of what was right a moment ago.

Two questions. `account`: whose login name is this (the node will judge the password). `authenticate`: is this the
password of that name; the directory judges, by a bind as the entry.

    right           `Found`, remembered for `directory.login_cache` under a keyed hash of name, mechanism and password
    wrong           `Denied`; also for a name that nobody has: the two are not told apart. Never remembered
    cannot tell     `CannotSay`: the directory is away, or the name belongs to several entries. Never "wrong password"

An entry found by its login name is kept as long as a recipient's (`directory.cache`); while no server answers it still
counts for `directory.stale`, for `account` only. The same question twice at once is asked once. Cancellation of one
caller takes nothing from another. Sizes are bounded by `directory.cache_entries`; nothing survives the process.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mailfront.base.clock import Clock
from mailfront.base.errors import Unavailable
from mailfront.base.printable import printable
from mailfront.base.secret import Secret
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.directory.answers import ALARM_AMBIGUOUS, ALARM_UNREACHABLE, CannotSay, DirectoryRecord, Found, Source
from mailfront.directory.canonical import login_key
from mailfront.directory.entries import Entry, EntryReader
from mailfront.directory.filter_template import LOGIN_PLACEHOLDERS, FilterTemplate
from mailfront.directory.settings import LdapSettings
from mailfront.mail.address import Address, parse_path

MAX_FLIGHTS = 1000


@dataclass(frozen=True, slots=True)
class Denied:
    """No such name, or not its password: the directory said so."""


DENIED = Denied()
LoginAnswer = Found | Denied | CannotSay


class Accounts(Protocol):
    """Servers that find entries and check passwords."""

    async def find(self, wanted: str, attributes: tuple[str, ...]) -> list[Entry]:
        """The entries that match a filter, with these attributes. Raises Unavailable."""
        ...

    async def verify(self, dn: str, password: Secret) -> bool:
        """Whether this is the entry's password. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class _Account:
    dn: str
    record: DirectoryRecord
    learned_s: float


_Key = TypeVar("_Key", str, bytes)
_Answer = TypeVar("_Answer")


class LoginTable:
    """See the module. One per process; event loop only."""

    def __init__(self, accounts: Accounts, *, settings: LdapSettings, clock: Clock) -> None:
        self._source = accounts
        self._clock = clock
        self._template = FilterTemplate(settings.login_filter, LOGIN_PLACEHOLDERS)
        self._reader = EntryReader(settings)
        self._cache_s = settings.cache
        self._stale_s = settings.stale
        self._proof_s = settings.login_cache
        self._most = settings.cache_entries
        self._key = os.urandom(32)
        self._accounts: dict[str, _Account] = {}
        self._proofs: dict[bytes, tuple[DirectoryRecord, float]] = {}
        self._searches: dict[str, asyncio.Task[_Account | Denied | CannotSay]] = {}
        self._checks: dict[bytes, asyncio.Task[LoginAnswer]] = {}

    async def account(self, name: str) -> LoginAnswer:
        """Whose login name is this? Never raises for directory trouble."""
        login = login_key(name)
        if login is None:
            return DENIED
        found = await self._find(login, may_be_stale=True)
        return Found(found.record, Source.LDAP) if isinstance(found, _Account) else found

    async def authenticate(self, name: str, password: Secret, mechanism: str) -> LoginAnswer:
        """Is this the password of that name? Never raises for directory trouble."""
        login = login_key(name)
        if login is None or not password.reveal():
            return DENIED
        proof = self._proof(login, password, mechanism)
        known = self._proofs.get(proof)
        if known is not None and self._clock.monotonic_s() < known[1]:
            return Found(known[0], Source.CACHE)
        return await _together(self._checks, proof, lambda: self._check(login, password, proof))

    async def close(self) -> None:
        """End the questions under way; who waits for one is cancelled."""
        await cancel_and_wait(*self._searches.values(), *self._checks.values())

    def _proof(self, login: str, password: Secret, mechanism: str) -> bytes:
        secret = password.reveal()
        text = b"%b\0%b\0%b" % (login.encode("utf-8", "surrogatepass"), mechanism.encode(), secret)
        return hashlib.blake2b(text, key=self._key, digest_size=16).digest()

    async def _check(self, login: str, password: Secret, proof: bytes) -> LoginAnswer:
        try:
            found = await self._verified(login, password)
        except Unavailable as error:
            return CannotSay(str(error), ALARM_UNREACHABLE)
        if not isinstance(found, _Account):
            return found
        if self._proof_s:
            _make_room(self._proofs, self._most)
            self._proofs[proof] = (found.record, self._clock.monotonic_s() + self._proof_s)
        return Found(found.record, Source.LDAP)

    async def _verified(self, login: str, password: Secret) -> _Account | Denied | CannotSay:
        """The entry, if this is its password. Raises Unavailable."""
        remembered = self._accounts.get(login)
        found = await self._find(login, may_be_stale=False)
        if not isinstance(found, _Account) or await self._source.verify(found.dn, password):
            return found
        if found is not remembered:
            return DENIED
        # The entry may have got another name since it was found: then this was no wrong password.
        self._accounts.pop(login, None)
        again = await self._find(login, may_be_stale=False)
        if not isinstance(again, _Account) or (again.dn != found.dn and await self._source.verify(again.dn, password)):
            return again
        return DENIED

    async def _find(self, login: str, *, may_be_stale: bool) -> _Account | Denied | CannotSay:
        kept, now_s = self._accounts.get(login), self._clock.monotonic_s()
        if kept is not None and now_s < kept.learned_s + self._cache_s:
            return kept
        found = await _together(self._searches, login, lambda: self._search(login))
        is_away = isinstance(found, CannotSay) and found.alarm == ALARM_UNREACHABLE
        if is_away and may_be_stale and kept is not None and now_s < kept.learned_s + self._stale_s:
            return kept
        return found

    async def _search(self, login: str) -> _Account | Denied | CannotSay:
        try:
            entries = await self._source.find(self._template.fill_login(login), self._reader.wanted_of_people)
        except Unavailable as error:
            return CannotSay(str(error), ALARM_UNREACHABLE)
        if len(entries) > 1:
            names = "; ".join(printable(entry.dn) for entry in entries)
            text = f"the login name {printable(login)} belongs to {len(entries)} entries: {names}; give it to one only"
            return CannotSay(text, ALARM_AMBIGUOUS)
        answer = self._reader.answer(entries, parse_path(login) or Address(login, ""))
        if isinstance(answer, Found):
            self._accounts.pop(login, None)
            _make_room(self._accounts, self._most)
            account = self._accounts[login] = _Account(entries[0].dn, answer.record, self._clock.monotonic_s())
            return account
        return answer if isinstance(answer, CannotSay) else DENIED


async def _together(
    flights: dict[_Key, "asyncio.Task[_Answer]"], key: _Key, ask: Callable[[], Coroutine[Any, Any, _Answer]]
) -> "_Answer | CannotSay":
    """Ask, or wait for the same question that is under way."""
    flight = flights.get(key)
    if flight is None:
        if len(flights) >= MAX_FLIGHTS:
            return CannotSay(f"{MAX_FLIGHTS} logins are being checked", ALARM_UNREACHABLE)
        flight = flights[key] = spawn(ask(), name="directory-login")
        flight.add_done_callback(lambda _: flights.pop(key, None))
    return await asyncio.shield(flight)


def _make_room(table: dict[str, _Account] | dict[bytes, tuple[DirectoryRecord, float]], most: int) -> None:
    while len(table) >= most:
        del table[next(iter(table))]  # type: ignore[arg-type]
