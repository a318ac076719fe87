"""The queue read directly from the database, for the command line while no server runs. Nothing is written."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.queues import QueueReader
from mailfront.base.clock import SystemClock
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.queue.exports import QueueExport
from mailfront.queue.views import QueueViews
from mailfront.store import placement_rows
from mailfront.store.location import database_path
from mailfront.store.writer import Store

_NOBODY = NodeId("")


class StoredHomes:
    """Where mailboxes live, by the stored rows alone. For reading: it does not say which pins a bucket has."""

    def __init__(self, owners: Mapping[int, NodeId], pins: Mapping[MailboxKey, NodeId]) -> None:
        self._owners = owners
        self._pins = pins

    def buckets_of(self, node: NodeId) -> Sequence[int]:
        """The buckets that a node owns."""
        return [bucket for bucket, owner in self._owners.items() if owner == node]

    def pins_in(self, _bucket: int) -> Mapping[MailboxKey, NodeId]:
        """All pins: readers only ask whether a bucket may have some."""
        return self._pins

    def home_of(self, key: MailboxKey, bucket: int) -> NodeId:
        """The node where a mailbox lives; '' if no server has assigned the buckets yet."""
        return self._pins.get(key) or self._owners.get(bucket, _NOBODY)


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[QueueReader]:
    """Open the database of a server that does not run. Raises AdminError, StoreFailed or StoreRefused."""
    path = database_path(url)
    if not path.exists():
        raise AdminError(f"{path}: there is no database yet; no server has run with this configuration", Kind.LATER)
    clock = SystemClock()
    store = Store.open_to_read(url, clock)
    try:
        owners = await store.read(placement_rows.load_owners)
        pins = await store.read(placement_rows.load_pins)
        placed = {key: row.node for key, row in pins.items() if row.node is not None}
        views = QueueViews(store, StoredHomes(owners, placed))
        yield QueueReader(views, QueueExport(store, views), clock)
    finally:
        await store.close()
