"""Copies in a handoff mailbox, read over IMAP: found by id, fetched, opened, verified.

A fetched copy is a body like any other: in memory while small, else in a temporary file, within this process's budget.
Nothing here changes a mailbox.
"""

import asyncio
from dataclasses import dataclass, replace

from mailfront.base.errors import MailfrontError, Unavailable
from mailfront.base.ids import MessageId
from mailfront.base.secret import Secret
from mailfront.delivery.handoff_block import (
    MAX_BLOCK_BYTES,
    BlockInvalid,
    HandoffEnvelope,
    message_matches,
    open_block,
)
from mailfront.mail.body import BodyRef, RestOfBody
from mailfront.mail.names import NodeId
from mailfront.net.body import BodyBudget
from mailfront.transfer.imap import ImapSession
from mailfront.transfer.node_imap import ID_HEADER

INBOX = "INBOX"
LARGEST_COPY_BYTES = 1024 * 1024 * 1024


class NoCopy(MailfrontError):
    """The holder has no copy of this message."""


@dataclass(frozen=True, slots=True)
class HandoffCopy:
    """A verified copy. `body` is the message as it was handed off; `uids` are where the holder keeps it."""

    envelope: HandoffEnvelope
    body: BodyRef
    uids: tuple[int, ...]


class HandoffCopies:
    """See the module."""

    def __init__(self, secret: Secret, budget: BodyBudget) -> None:
        self._secret = secret
        self._budget = budget

    async def find(self, session: ImapSession, message_id: MessageId, home: NodeId) -> HandoffCopy:
        """Fetch and verify the copy of a message for one home (a mailbox may hold one for each of several homes).

        Raises NoCopy, BlockInvalid, ImapFailed, Unavailable.
        """
        copies = [await self.read(session, uid) for uid in await session.search_header(INBOX, ID_HEADER, message_id)]
        ours = [copy for copy in copies if copy.envelope.id == message_id and copy.envelope.home == home]
        if not ours:
            raise NoCopy(message_id)
        return replace(ours[0], uids=tuple(uid for copy in ours for uid in copy.uids))

    async def read(self, session: ImapSession, uid: int) -> HandoffCopy:
        """Fetch and verify the copy with this UID. Raises as `find`."""
        body = await self._fetch(session, uid)
        envelope, start, sha256 = open_block(body.head(MAX_BLOCK_BYTES), self._secret)
        message = RestOfBody(body, start)
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(None, lambda: message_matches(message.pieces(), sha256)):
            raise BlockInvalid("the message under the block was changed: its SHA-256 does not fit")
        return HandoffCopy(envelope, message, (uid,))

    async def _fetch(self, session: ImapSession, uid: int) -> BodyRef:
        writer = self._budget.open(None)
        if writer is None:
            raise Unavailable("no room for another message in memory or in server.spool_dir")
        try:

            async def take(data: bytes) -> None:
                if writer.write(data):
                    await writer.spill()

            if await session.fetch(INBOX, uid, take, limit_bytes=LARGEST_COPY_BYTES) is None:
                raise NoCopy(str(uid))
            if writer.must_spill:
                await writer.spill()
            return writer.finish()
        finally:
            writer.discard()
