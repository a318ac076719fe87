"""IMAP sessions with the storage nodes, opened with the right credentials: as the handoff account, or as any user.

Holds no open session: each caller opens one, uses it and closes it. The passwords are read once, at start.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mailfront.base.ids import MessageId
from mailfront.base.secret import Secret
from mailfront.mail.names import NodeId
from mailfront.transfer.imap import ImapFailed, ImapRefused, ImapSession
from mailfront.transfer.imap_wire import ImapEndpoint

TIMEOUT_S = 30.0
ID_HEADER = "Mailfront-Id"


@dataclass(frozen=True, slots=True)
class Login:
    """An account on every node."""

    user: str
    password: Secret


class NodeImap:
    """See the module. `handoff` and `master` are None where the configuration names none."""

    def __init__(
        self,
        endpoints: Mapping[NodeId, ImapEndpoint],
        context: ssl.SSLContext,
        *,
        handoff: Login | None,
        master: Login | None,
    ) -> None:
        self._endpoints = endpoints
        self._context = context
        self.handoff = handoff
        self.master = master

    @asynccontextmanager
    async def as_handoff(self, node: NodeId, *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[ImapSession]:
        """A session of the handoff account. Raises ImapFailed."""
        assert self.handoff is not None
        session = await ImapSession.connect(self._endpoints[node], self._context, timeout_s=timeout_s)
        try:
            await session.login(self.handoff.user, self.handoff.password)
            yield session
        finally:
            await session.close()

    @asynccontextmanager
    async def as_user(self, node: NodeId, user: str) -> AsyncIterator[ImapSession]:
        """A session of somebody's mailbox, by the master user. Raises ImapFailed."""
        assert self.master is not None
        session = await ImapSession.connect(self._endpoints[node], self._context, timeout_s=TIMEOUT_S)
        try:
            await session.login_as(self.master.user, self.master.password, user)
            yield session
        finally:
            await session.close()


class MasterSearch:
    """Looks for a message in a mailbox by its `Mailfront-Id`, as the master user. See `runner.MailboxSearch`."""

    def __init__(self, imap: NodeImap) -> None:
        self._imap = imap

    @property
    def can_search(self) -> bool:
        """Whether a master user is configured."""
        return self._imap.master is not None

    async def find(self, node: NodeId, node_user: str, message_id: MessageId, arrived_s: float) -> bool | None:
        """Whether the mailbox has the message, in whatever folder; None: it cannot be looked at.

        Folders are searched from the day before the message arrived. One that is listed and may not be opened (somebody
        else's, or just removed) is passed over: no delivery ends there.
        """
        if self._imap.master is None:
            return None
        try:
            since = datetime.fromtimestamp(arrived_s, tz=UTC).date() - timedelta(days=1)
            async with self._imap.as_user(node, without_detail(node_user)) as session:
                for folder in await session.folders():
                    try:
                        if await session.search_header(folder, ID_HEADER, message_id, since=since):
                            return True
                    except ImapRefused:
                        if folder.upper() == "INBOX":
                            raise
            return False
        except ImapFailed:
            return None


def without_detail(node_user: str) -> str:
    """The account of a node user: `ana+lists@example.edu` logs in as `ana@example.edu`."""
    local, at, domain = node_user.rpartition("@") if "@" in node_user else (node_user, "", "")
    base = local.partition("+")[0]
    return f"{base or local}{at}{domain}"
