"""Short ways to make queue rows, a small map of homes, and a store for tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from mailfront.base.clock import Clock
from mailfront.base.ids import MessageId
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RELAY, RESOLVE, next_hop_key
from mailfront.queue.dsn import Reporter
from mailfront.queue.notices import NoticePolicy
from mailfront.queue.rows import QueuedMessage, QueuedRecipient
from mailfront.store.writer import Store

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
RETRY_S = (60.0, 300.0, 900.0)
HOPS = {(NEXT_HOP_BUCKET, next_hop_key(hop)): hop for hop in (RELAY, RESOLVE)}
NOTICES = NoticePolicy(
    reporter=Reporter(hostname="mx1.example.edu", postmaster="postmaster@example.edu"),
    lifetime_s=432_000.0,
    warn_after_s=14_400.0,
    warn_networks=(ip_network("192.0.2.0/24"),),
)


@dataclass(frozen=True)
class FakeHomes:
    """Buckets go round robin to `nodes`; `pins` name mailboxes that live elsewhere."""

    nodes: tuple[NodeId, ...] = (A, B)
    pins: Mapping[tuple[int, MailboxKey], NodeId] = field(default_factory=dict)

    def buckets_of(self, node: NodeId) -> Sequence[int]:
        """See `Homes`."""
        return range(self.nodes.index(node), 4096, len(self.nodes)) if node in self.nodes else ()

    def pins_in(self, bucket: int) -> Mapping[MailboxKey, NodeId]:
        """See `Homes`."""
        return {key: node for (where, key), node in self.pins.items() if where == bucket}

    def home_of(self, key: MailboxKey, bucket: int) -> NodeId:
        """See `Homes`."""
        if bucket == NEXT_HOP_BUCKET:
            return NodeId(key)
        return self.pins.get((bucket, key), self.nodes[bucket % len(self.nodes)])


def message_id(number: int) -> MessageId:
    """A well-formed id; ids sort by number."""
    return MessageId(f"{number:016d}")


def queued_message(number: int, arrived_s: float, lifetime_s: float = 432_000.0) -> QueuedMessage:
    """A message from `sender@out.example`."""
    return QueuedMessage(
        id=message_id(number),
        reverse_path="sender@out.example",
        arrived_s=arrived_s,
        expires_s=arrived_s + lifetime_s,
        size_bytes=0,
    )


def queued_recipient(number: int, user: str, bucket: int, next_attempt_s: float = 0.0) -> QueuedRecipient:
    """A waiting recipient `user@example.edu` after its first attempt."""
    return QueuedRecipient(
        number=number,
        address=f"{user}@example.edu",
        mailbox_key=MailboxKey(user),
        bucket=bucket,
        node_user=NodeUser(user),
        next_attempt_s=next_attempt_s,
        attempts=1,
    )


def open_store(directory: Path, clock: Clock) -> Store:
    """A store in `directory` whose gate ignores how full the disk is."""
    return Store.open(f"sqlite:///{directory}/state.db", clock, free_space_bytes=0)
