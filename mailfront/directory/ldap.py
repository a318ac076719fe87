"""Several LDAP servers as one directory: the first that works answers; one that fails is left alone until it is back.

A server that could not be used (`ServerDown`) gets no look-up until a probe in the background, tried again and again
with back-off, has bound and searched: no recipient ever waits for a server that is known to be down. With all of them
down a look-up fails at once. A server that refuses one search stays in use for the others, so that no single address
can take a directory away from everybody.

One look-up ends within `directory.timeout`, shared out over the servers that are left to try.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from mailfront.base.backoff import exponential_s, jittered_s
from mailfront.base.errors import Unavailable
from mailfront.base.secret import Secret
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.directory.answers import ByDn, ByUid, CannotSay, Found, Member, NoSuch
from mailfront.directory.counters import DirectoryCounters
from mailfront.directory.entries import BadEntry, Entry, EntryReader
from mailfront.directory.filter_template import UID_PLACEHOLDERS, FilterTemplate
from mailfront.directory.ldap_connection import SearchRefused, ServerDown
from mailfront.directory.ldap_server import LdapServer
from mailfront.directory.settings import LdapSettings
from mailfront.mail.address import Address

FIRST_PROBE_S = 0.25
MOST_PROBE_S = 10.0
ALL_ENTRIES_S = 1800.0

_PROBED = Address("mailfront-probe", "localhost.invalid")

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Member:
    server: LdapServer
    logins: LdapServer
    down_reason: str = ""
    down_since_s: float = 0.0
    revival: asyncio.Task[None] | None = None


class LdapDirectory:
    """The directory on its servers, without any memory. Event loop only."""

    def __init__(self, settings: LdapSettings, *, counters: DirectoryCounters) -> None:
        """Reads the password and CA files. Raises ConfigError. Does not connect."""
        self._timeout_s = settings.timeout
        self._counters = counters
        self._template = FilterTemplate(settings.recipient_filter)
        self._uid_template = FilterTemplate(settings.groups.uid_filter, UID_PLACEHOLDERS)
        self._reader = EntryReader(settings)
        self._members = tuple(_Member(LdapServer(url, settings), LdapServer(url, settings)) for url in settings.urls)

    @property
    def connects_count(self) -> int:
        """How many connections were opened so far, to all servers."""
        return sum(member.server.connects_count for member in self._members)

    async def look_up(self, asked: Member) -> Found | NoSuch | CannotSay:
        """Ask about exactly this canonical address, name or login name. Ends within `directory.timeout`.

        Raises Unavailable if no server can answer. Cancellation is safe.
        """
        entries = await self.find(self._wanted(asked), self._reader.wanted)
        return self._reader.answer(entries, asked)

    def _wanted(self, asked: Member) -> str | ByDn:
        if isinstance(asked, ByDn):
            return asked
        return (self._uid_template if isinstance(asked, ByUid) else self._template).fill(asked)

    async def all_entries(self) -> list[Entry]:
        """Every entry that some address could find, with the attributes that the snapshot needs.

        Takes seconds to minutes. Raises Unavailable.
        """
        templates = (self._template, self._uid_template)
        wanted = tuple(sorted({*self._reader.wanted, *(name for each in templates for name in each.attributes)}))
        for member in self._members:
            if not member.down_reason:
                return await member.server.search_all(self._template.presence(), wanted, limit_s=ALL_ENTRIES_S)
        raise Unavailable(self._all_down())

    async def reachable(self) -> tuple[str, ...]:
        """Try every server: connect, bind, one search. One line per thing that is wrong, with what to do about it."""
        tried = await asyncio.gather(*(self._try(member.server) for member in self._members))
        return tuple(line for line in tried if line)

    def troubles(self) -> tuple[str, ...]:
        """One line per server that is left alone now, and why."""
        now_s = time.monotonic()
        return tuple(
            f"{member.down_reason} (down for {now_s - member.down_since_s:.0f}s)"
            for member in self._members
            if member.down_reason
        )

    async def close(self) -> None:
        """Close every connection and end the probes."""
        await cancel_and_wait(*(member.revival for member in self._members if member.revival is not None))
        for member in self._members:
            await member.server.close()
            await member.logins.close()

    async def find(self, wanted: str | ByDn, attributes: tuple[str, ...]) -> list[Entry]:
        """The entries that match a filter, a few at most, or the one of this name. Ends within `directory.timeout`.
        Raises Unavailable."""
        return await self._first_that_works(
            lambda member, limit_s: member.server.search(wanted, attributes, limit_s=limit_s)
        )

    async def verify(self, dn: str, password: Secret) -> bool:
        """Whether a server says that this is the entry's password. On connections of their own, so that slow password
        hashes hold up no look-up. Ends within `directory.timeout`. Raises Unavailable."""
        return await self._first_that_works(lambda member, limit_s: member.logins.verify(dn, password, limit_s=limit_s))

    async def _first_that_works(self, call: Callable[[_Member, float], Awaitable[T]]) -> T:
        members = [member for member in self._members if not member.down_reason]
        end_s = time.monotonic() + self._timeout_s
        refusal = ""
        for number, member in enumerate(members):
            share_s = (end_s - time.monotonic()) / (len(members) - number)
            try:
                answer = await call(member, share_s)
            except SearchRefused as error:
                self._count(failed=True)
                refusal = str(error)
            except ServerDown as error:
                self._count(failed=True)
                self._leave_alone(member, str(error))
            else:
                self._count(failed=False)
                return answer
        raise Unavailable(refusal or self._all_down())

    def _count(self, *, failed: bool) -> None:
        """Count a call that has ended, both numbers at once: what is told in between must add up."""
        self._counters.ldap_searches += 1
        self._counters.ldap_failures += failed

    def _all_down(self) -> str:
        reasons = "; ".join(member.down_reason for member in self._members)
        return f"no directory server can be used: {reasons}"

    def _leave_alone(self, member: _Member, reason: str) -> None:
        if member.down_reason:
            return  # several look-ups met the same fault
        member.down_reason = reason
        member.down_since_s = time.monotonic()
        _log.warning("directory server down: %s", reason)
        member.revival = spawn(self._revive(member), name="directory-probe")

    async def _revive(self, member: _Member) -> None:
        """Probe until the server works again."""
        failures_count = 1
        while True:
            await asyncio.sleep(jittered_s(exponential_s(failures_count, first_s=FIRST_PROBE_S, most_s=MOST_PROBE_S)))
            try:
                await member.server.probe(self._template.fill(_PROBED), self._reader.wanted, limit_s=self._timeout_s)
            except SearchRefused:
                pass  # it answers; what it refuses is said to the look-ups
            except ServerDown as error:
                failures_count += 1
                member.down_reason = str(error)
                continue
            _log.warning("directory server back: %s", member.server.url)
            member.down_reason, member.revival = "", None
            return

    async def _try(self, server: LdapServer) -> str:
        try:
            found = await server.probe(self._template.presence(), self._reader.wanted, limit_s=self._timeout_s)
        except (ServerDown, SearchRefused) as error:
            return str(error)
        if not found:
            return (
                f"{server.url}: no entry is found by {self._template.presence()}; check directory.base, "
                "directory.recipient_filter and what the server lets this account read"
            )
        problem = ""
        for entry in found:
            try:
                if not self._reader.read(entry, _PROBED).redirected:
                    return ""
            except BadEntry as error:
                problem = problem or f"{server.url}: {error}"
        return problem
