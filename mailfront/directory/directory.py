"""The directory as the rest of mailfront sees it: a question, three answers, whatever is behind.

Order of calls: `Directory(...)`, `open()`, any number of `recipient(...)`, `close()`. A reload makes a new one. The
caller checks that a domain is local: nothing here knows which domains are ours. Logins have two questions of their own
(`account`, `authenticate`); see `logins`.
"""

import asyncio
import logging
from pathlib import Path

from mailfront.base.backoff import jittered_s
from mailfront.base.clock import Clock
from mailfront.base.errors import Unavailable
from mailfront.base.secret import Secret
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.directory.answers import Answer, Member
from mailfront.directory.cache import AnswerTable
from mailfront.directory.counters import CountersReport, DirectoryCounters
from mailfront.directory.ldap import LdapDirectory
from mailfront.directory.logins import LoginAnswer, LoginTable
from mailfront.directory.settings import LdapSettings, StaticSettings
from mailfront.directory.snapshot import SnapshotRefused, SnapshotStore
from mailfront.directory.static import StaticDirectory
from mailfront.mail.address import Address

SNAPSHOT_RETRY_S = 300.0
COUNTERS_EVERY_S = 2.0

_log = logging.getLogger(__name__)


class Directory:
    """Who is this address? One per process."""

    def __init__(
        self,
        settings: LdapSettings | StaticSettings,
        *,
        state_dir: Path,
        clock: Clock,
        keeps_snapshot: bool = False,
    ) -> None:
        """Read the files that the settings name; connect to nothing. Raises ConfigError.

        `keeps_snapshot`: this process writes the snapshot, if one is configured; one process per `state_dir` does.
        """
        self.counters = DirectoryCounters()
        self._answers: AnswerTable | StaticDirectory
        self._behind: LdapDirectory | StaticDirectory
        self._logins: LoginTable | StaticDirectory
        self._snapshot: SnapshotStore | None = None
        self._snapshot_s: float | None = None
        self._snapshot_problem = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._report = CountersReport(self.counters)
        if isinstance(settings, StaticSettings):
            self._answers = self._behind = self._logins = StaticDirectory(settings)
            return
        if settings.snapshot is not None:
            self._snapshot = SnapshotStore(settings, state_dir=state_dir, clock=clock)
            self._snapshot_s = settings.snapshot if keeps_snapshot else None
        self._behind = ldap = LdapDirectory(settings, counters=self.counters)
        self._answers = AnswerTable(ldap, self._snapshot, settings=settings, clock=clock, counters=self.counters)
        self._logins = LoginTable(ldap, settings=settings, clock=clock)

    async def open(self) -> None:
        """Begin to keep the snapshot, and to tell the metrics. Never fails because a server is down."""
        self._tasks.append(spawn(self._tell_metrics(), name="directory-metrics"))
        if self._snapshot is not None and self._snapshot_s is not None and isinstance(self._behind, LdapDirectory):
            keeping = self._keep_snapshot(self._behind, self._snapshot, self._snapshot_s)
            self._tasks.append(spawn(keeping, name="directory-snapshot"))

    async def recipient(self, address: Address) -> Answer:
        """Who is this address?

        Tried as it stands, then without `+detail`. A fresh copy is answered without yielding to the event loop;
        otherwise the answer comes within `directory.timeout`. Never raises for directory trouble: that is `CannotSay`.
        Cancellation is safe.
        """
        self.counters.lookups += 1
        return await self._answers.recipient(address)

    async def account(self, name: str) -> LoginAnswer:
        """Whose login name is this? For logins that the node judges. Never raises for directory trouble."""
        return await self._logins.account(name)

    async def authenticate(self, name: str, password: Secret, mechanism: str) -> LoginAnswer:
        """Is this the password of that name? A password that was right a moment ago is answered without yielding to the
        event loop. Never raises for directory trouble: that is `CannotSay`, never `Denied`. Cancellation is safe."""
        return await self._logins.authenticate(name, password, mechanism)

    async def member(self, member: Member) -> Answer:
        """Who is it that an entry names as its member, owner or poster? As `recipient`; a name that leads to an entry
        without mailbox, forward and members is `NoSuch`."""
        self.counters.lookups += 1
        return await self._answers.member(member)

    async def reachable(self) -> tuple[str, ...]:
        """Try every server now: connect, bind, one search. One line for each thing that is wrong, with what to do
        about it; none if all is well. Takes at most `directory.timeout`."""
        return await self._behind.reachable()

    def troubles(self) -> tuple[str, ...]:
        """What is wrong as far as this process knows, without asking anybody: servers down, snapshot not kept."""
        lines = self._behind.troubles() if isinstance(self._behind, LdapDirectory) else ()
        if self._snapshot is not None and self._snapshot.problem:
            lines += (self._snapshot.problem,)
        return (*lines, self._snapshot_problem) if self._snapshot_problem else lines

    async def close(self) -> None:
        """End all work and close all connections."""
        await cancel_and_wait(*self._tasks)
        if isinstance(self._answers, AnswerTable):
            await self._answers.close()
        if isinstance(self._logins, LoginTable):
            await self._logins.close()
        await self._behind.close()

    async def _tell_metrics(self) -> None:
        while True:
            await asyncio.sleep(COUNTERS_EVERY_S)
            self._report.tell()

    async def _keep_snapshot(self, ldap: LdapDirectory, store: SnapshotStore, every_s: float) -> None:
        while True:
            age_s = store.age_s()
            if age_s is not None and age_s < every_s:
                await asyncio.sleep(jittered_s(every_s - age_s))
                continue
            try:
                await store.write(await ldap.all_entries())
            except (Unavailable, SnapshotRefused, OSError) as error:
                self._snapshot_problem = f"the directory snapshot was not written: {error}"
                _log.warning("%s", self._snapshot_problem)
                await asyncio.sleep(jittered_s(min(every_s, SNAPSHOT_RETRY_S)))
            else:
                self._snapshot_problem = ""
