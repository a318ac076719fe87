"""Where mailboxes live and which nodes are worth trying, as one worker knows it: intake's `Locator`.

The map and the nodes' states are pushed by the keeper and swapped whole. Asking costs no wait, except for a mailbox
whose first placement must be remembered first (only where the directory has a host attribute).
"""

from mailfront.app.keeper_news import KeeperNews
from mailfront.base.clock import Clock
from mailfront.cluster.node_states import Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import MapReceiver, Placement
from mailfront.directory.answers import DirectoryRecord
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.net.channel import Channel

PIN_TIMEOUT_S = 10.0
MOST_LEARNED = 10_000


class WorkerLocator:
    """See the module. `secondaries_count` is `storage.secondaries`."""

    def __init__(
        self,
        received: MapReceiver,
        states: NodeStateTable,
        keeper: Channel,
        news: KeeperNews,
        clock: Clock,
        secondaries_count: int,
    ) -> None:
        self._received = received
        self._states = states
        self._keeper = keeper
        self._news = news
        self._clock = clock
        self._secondaries_count = secondaries_count
        # What pin_first answered, until the page of the map that says so arrives.
        self._learned: dict[MailboxKey, NodeId | None] = {}

    async def locate(self, record: DirectoryRecord) -> Placement:
        """The home and the secondaries. Raises Unavailable if there is no map, or a first placement cannot be kept."""
        known, key = self._received.require(), record.key
        if known.first_placements and key not in known.pins:
            if key not in self._learned:
                await self._announce(record)
                known = self._received.require()
            pinned = self._learned[key]
            return known.place(key) if pinned is None else known.place_at(key, pinned)
        if record.host is not None and not known.agrees(key, record.host):
            home = known.place(key).home
            self._news.tell("move_wanted", key, {"key": key, "home": home, "host": record.host})
        return known.place(key)

    async def _announce(self, record: DirectoryRecord) -> None:
        """Have the keeper remember this first placement before any mail goes there."""
        answer = await self._keeper.request(
            "pin_first", {"key": record.key, "host": record.host}, timeout_s=PIN_TIMEOUT_S
        )
        if len(self._learned) >= MOST_LEARNED:
            self._learned.clear()
        self._learned[record.key] = None if answer["node"] is None else NodeId(answer["node"])

    def may_try(self, node: NodeId) -> bool:
        """Whether a delivery to this node is worth starting now."""
        return self._states.admit(node, Service.LMTP, self._clock.monotonic_s())

    def handoff_order(self, placement: Placement) -> tuple[NodeId, ...]:
        """The secondaries that may take a copy now, best first."""
        willing = [node for node in placement.secondaries if self._states.may_hold(node)]
        return tuple(willing[: self._secondaries_count])
