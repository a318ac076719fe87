"""Looking through the handoff mailboxes, hourly and whenever a node returns, for copies that the rows do not explain.

| the copy | what is done |
|---|---|
| has live rows | nothing: the drain brings it home |
| its rows are all over (at home, superseded, expunged) | it is expunged |
| has no row (a restored database, a row long forgotten) | it is adopted: searched for at home first, then drained |
| does not verify | it stays, and an alarm is raised |

Nothing is ever deleted here that is not known to be somewhere else.
"""

import asyncio
import re
from collections.abc import Callable, Sequence

from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.cluster.node_states import Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import ClusterMap
from mailfront.delivery.handoff_block import BlockInvalid
from mailfront.mail.names import NodeId
from mailfront.observe import metrics
from mailfront.observe.log import emit, get
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.rows import HandoffRow, HandoffState
from mailfront.transfer.copies import INBOX, HandoffCopies, HandoffCopy, NoCopy
from mailfront.transfer.imap import ImapSession
from mailfront.transfer.node_imap import MasterSearch, NodeImap

SCAN_EVERY_S = 3600.0
LOOK_EVERY_S = 5.0
HEAD_BYTES = 16 * 1024
_ID_AND_HOME = re.compile(rb"^Mailfront-Handoff: v1 id=([0-9a-z]{16}) home=([!-~]{1,255})\r?$", re.MULTILINE)
_OVER = (HandoffState.DONE, HandoffState.SUPERSEDED, HandoffState.EXPUNGED)

log = get("scan")


class HandoffScan:
    """See the module. One per keeper."""

    def __init__(
        self,
        nodes: Sequence[NodeId],
        table: HandoffTable,
        copies: HandoffCopies,
        imap: NodeImap,
        states: NodeStateTable,
        current_map: Callable[[], ClusterMap],
        *,
        alarm: Callable[[str, str], None],
        adopted: Callable[[], None],
    ) -> None:
        self._nodes = tuple(nodes)
        self._table = table
        self._copies = copies
        self._imap = imap
        self._search = MasterSearch(imap)
        self._states = states
        self._current_map = current_map
        self._alarm = alarm
        self._adopted = adopted

    async def run(self) -> None:
        """Scan each node when it comes up and every hour after that, until cancelled."""
        due_s = dict.fromkeys(self._nodes, 0.0)
        # A node that went and came back between two looks has been up at both: its state is a new one all the same.
        scanned_state_s: dict[NodeId, float] = {}
        loop = asyncio.get_running_loop()
        while True:
            for node in self._nodes:
                if not self._states.is_up(node, Service.IMAP):
                    due_s[node] = 0.0
                    continue
                state_s = self._states.state(node, Service.IMAP).since_s
                if loop.time() >= due_s[node] or state_s != scanned_state_s.get(node):
                    try:
                        await self.scan(node)
                        scanned_state_s[node] = state_s
                        due_s[node] = loop.time() + SCAN_EVERY_S
                    except Unavailable as error:
                        log.warning("a handoff mailbox cannot be scanned now", node=node, reason=str(error))
                    except Exception as error:
                        scanned_state_s[node] = state_s
                        due_s[node] = loop.time() + SCAN_EVERY_S
                        log.error("a scan failed by our fault", node=node, exc_info=error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def scan(self, holder: NodeId) -> None:
        """Look at every copy in one handoff mailbox. Raises ImapFailed, StoreFailed."""
        async with self._imap.as_handoff(holder) as session:
            for uid in await session.search_all(INBOX):
                await self._look_at(session, holder, uid)

    async def _look_at(self, session: ImapSession, holder: NodeId, uid: int) -> None:
        head = bytearray()

        async def take(data: bytes) -> None:
            head.extend(data)

        if await session.fetch(INBOX, uid, take, limit_bytes=2 * HEAD_BYTES, head_bytes=HEAD_BYTES) is None:
            return
        match = _ID_AND_HOME.search(head)
        if match is None:
            self._alarm(
                "handoff.foreign", f"{holder} keeps a message in the handoff mailbox that is not ours (UID {uid})"
            )
            return
        message_id, home = MessageId(match[1].decode()), NodeId(match[2].decode())
        rows = [row for row in await self._table.find([message_id], holder) if row.home == home]
        if not rows:
            await self._adopt(session, holder, uid)
        elif all(row.state in _OVER for row in rows):
            await self._expunge(session, holder, uid, rows)

    async def _expunge(self, session: ImapSession, holder: NodeId, uid: int, rows: Sequence[HandoffRow]) -> None:
        await session.delete(INBOX, [uid])
        await self._table.expunged(rows[0].id, holder)
        metrics.TRANSFER_DRAINS.inc("expunged")
        emit("drain", id=rows[0].id, holder=holder, home=rows[0].home, step="expunged", uid=uid)

    async def _adopt(self, session: ImapSession, holder: NodeId, uid: int) -> None:
        """A copy without a row: find out for each recipient whether it is at home already, then drain the rest."""
        try:
            copy = await self._copies.read(session, uid)
        except NoCopy:
            return
        except BlockInvalid as error:
            self._alarm("handoff.damaged", f"a copy at {holder} (UID {uid}) stays where it is: {error}")
            return
        envelope = copy.envelope
        found = await self._at_home_already(copy)
        if found is None:
            return  # Its home cannot be asked now; the next scan will.
        # Handed to the writer together: the drain must not claim what is at home already.
        await asyncio.gather(self._table.begin(envelope, holder), self._table.at_home(envelope.id, holder, found))
        metrics.TRANSFER_DRAINS.inc("adopted")
        emit("drain", id=envelope.id, holder=holder, home=envelope.home, step="adopted", uid=uid)
        self._adopted()

    async def _at_home_already(self, copy: HandoffCopy) -> list[int] | None:
        """Numbers of the recipients whose mailbox has the message; None: somebody's home is not up now."""
        found: list[int] = []
        for recipient in copy.envelope.recipients:
            home = self._current_map().place(recipient.mailbox_key).home
            if not self._states.is_up(home, Service.IMAP):
                return None
            if await self._search.find(home, recipient.node_user, copy.envelope.id, copy.envelope.arrived_s):
                found.append(recipient.number)
        return found
