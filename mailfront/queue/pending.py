"""Which buckets have something due, in memory: the reason why scheduling costs the same with a million rows.

One number per slot: not later than the earliest `next_attempt_s` of its waiting rows (too early is allowed: it costs
one visit, which corrects it). A slot is a bucket, or the part of a bucket that is pinned to one node, so that rows of a
node that is down are never looked at for the sake of another node. Rows of unknown outcome are bound to a node and have
one number per node. A kick makes every slot of a node due at once; kicked slots take turns, each claim at the end of
the line again, so that a mailbox with a thousand rows does not keep everybody else waiting.

Nothing here survives a crash: `load` fills it from the rows. One owner: `Queue`.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.next_hop import NEXT_HOP_BUCKET

BUCKETS_COUNT = NEXT_HOP_BUCKET + 1
"""The buckets of the placement, and one for recipients that are no mailboxes: each next hop has its pinned part of it.
"""


class Homes(Protocol):
    """Where mailboxes live now, by bucket. A frozen snapshot; a new map is a new object."""

    def buckets_of(self, node: NodeId) -> Sequence[int]:
        """The buckets that `node` owns."""
        ...

    def pins_in(self, bucket: int) -> Mapping[MailboxKey, NodeId]:
        """Mailboxes of a bucket that live on a named node, whoever owns the bucket. At most a few dozen."""
        ...

    def home_of(self, key: MailboxKey, bucket: int) -> NodeId:
        """The node where a mailbox lives."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One look into one bucket for one node: which mailboxes of it, and whether it is a kick (see `due_rows`)."""

    bucket: int
    pinned: NodeId | None = None
    keys_in: frozenset[MailboxKey] | None = None
    keys_not_in: frozenset[MailboxKey] = frozenset()
    kicked_s: float | None = None


class PendingIndex:
    """See the module."""

    def __init__(self, homes: Homes) -> None:
        self._homes = homes
        self._earliest: dict[NodeId | None, list[float]] = {None: [inf] * BUCKETS_COUNT}
        self._kicked: dict[tuple[NodeId | None, int], float] = {}
        self._line: dict[tuple[NodeId | None, int], tuple[float, int, float]] = {}
        """Where a kicked slot stands: since when, its turn, its earliest row."""
        self._turns_count = 0
        self._unknown: dict[NodeId, float] = {}
        self._unknown_kicked: dict[NodeId, float] = {}

    @property
    def homes(self) -> Homes:
        """The map that slots are counted by."""
        return self._homes

    def load(self, per_bucket: Mapping[int, float], unknown: Mapping[NodeId, float]) -> None:
        """Start from what the rows say. Pinned parts get their bucket's number: early enough."""
        self._unknown = dict(unknown)
        for bucket, earliest_s in per_bucket.items():
            if 0 <= bucket < BUCKETS_COUNT:
                self._spread(bucket, earliest_s)

    def set_homes(self, homes: Homes) -> None:
        """Go on by another map. Slots of the old one keep nothing back: each bucket's parts get its earliest number."""
        self._homes = homes
        for bucket in range(BUCKETS_COUNT):
            earliest_s = min(column[bucket] for column in self._earliest.values())
            if earliest_s < inf:
                self._spread(bucket, earliest_s)

    def note(self, bucket: int, key: MailboxKey, next_attempt_s: float) -> None:
        """A waiting row was written."""
        column = self._column(self._homes.pins_in(bucket).get(key))
        if next_attempt_s < column[bucket]:
            column[bucket] = next_attempt_s

    def note_unknown(self, node: NodeId, next_attempt_s: float) -> None:
        """A row of unknown outcome at `node` was written."""
        self._unknown[node] = min(self._unknown.get(node, inf), next_attempt_s)

    def kick(self, node: NodeId, now_s: float) -> None:
        """Everything of `node` that waits because of the node is to be tried now. Its slots are due until a visit has
        seen all of it."""
        plain = self._column(None)
        for bucket in self._homes.buckets_of(node):
            if plain[bucket] < inf:
                self._kick_slot(None, bucket, now_s)
        pinned = self._column(node)
        for bucket, earliest_s in enumerate(pinned):
            if earliest_s < inf:
                self._kick_slot(node, bucket, now_s)
        if node in self._unknown:
            self._unknown_kicked[node] = now_s
            self._unknown[node] = 0.0

    def has_due(self, node: NodeId, now_s: float) -> bool:
        """Whether a claim for `node` may find something."""
        plain = self._column(None)
        return (
            self.unknown_is_due(node, now_s)
            or any(plain[bucket] <= now_s for bucket in self._homes.buckets_of(node))
            or any(earliest_s <= now_s for earliest_s in self._earliest.get(node, ()))
        )

    def next_due_s(self, nodes: Iterable[NodeId]) -> float:
        """When the earliest row of these nodes is due (infinity: nothing waits): how long a runner may sleep."""
        plain, earliest_s = self._column(None), inf
        for node in nodes:
            owned_s = min((plain[bucket] for bucket in self._homes.buckets_of(node)), default=inf)
            pinned_s = min(self._earliest[node]) if node in self._earliest else inf
            earliest_s = min(earliest_s, self._unknown.get(node, inf), owned_s, pinned_s)
        return earliest_s

    def visits(self, node: NodeId, now_s: float, limit: int) -> list[Visit]:
        """The slots of `node` that are due, the longest waiting first, at most `limit`."""
        plain, line = self._column(None), self._line
        due: list[tuple[tuple[float, int, float], int, bool]] = [
            (line.get((None, bucket)) or (plain[bucket], 0, 0.0), bucket, False)
            for bucket in self._homes.buckets_of(node)
            if plain[bucket] <= now_s
        ]
        due += [
            (line.get((node, bucket)) or (earliest_s, 0, 0.0), bucket, True)
            for bucket, earliest_s in enumerate(self._earliest.get(node, ()))
            if earliest_s <= now_s
        ]
        chosen = heapq.nsmallest(limit, due)
        return [self._visit(bucket, node if is_pinned else None) for _, bucket, is_pinned in chosen]

    def unknown_is_due(self, node: NodeId, now_s: float) -> bool:
        """Whether a row of unknown outcome at `node` is due."""
        return self._unknown.get(node, inf) <= now_s

    def unknown_kicked_s(self, node: NodeId) -> float | None:
        """Since when everything unknown at `node` is wanted; None: no kick."""
        return self._unknown_kicked.get(node)

    def visited(self, visit: Visit, earliest_s: float | None, *, is_exhausted: bool, now_s: float) -> None:
        """A visit found what it found; `earliest_s` is the exact number now, None: nothing waits there."""
        slot = (visit.pinned, visit.bucket)
        if is_exhausted and self._kicked.get(slot) == visit.kicked_s:
            self._kicked.pop(slot, None)
            self._line.pop(slot, None)
        exact_s = inf if earliest_s is None else earliest_s
        if slot in self._kicked:
            self._turns_count += 1
            self._line[slot] = (now_s, self._turns_count, exact_s)
        self._column(visit.pinned)[visit.bucket] = 0.0 if slot in self._kicked else exact_s

    def visited_unknown(
        self, node: NodeId, kicked_s: float | None, earliest_s: float | None, *, is_exhausted: bool
    ) -> None:
        """The unknown rows of `node` were looked at; see `visited`."""
        if is_exhausted and self._unknown_kicked.get(node) == kicked_s:
            self._unknown_kicked.pop(node, None)
        if node in self._unknown_kicked:
            self._unknown[node] = 0.0
        elif earliest_s is None:
            self._unknown.pop(node, None)
        else:
            self._unknown[node] = earliest_s

    def _kick_slot(self, pinned: NodeId | None, bucket: int, now_s: float) -> None:
        column = self._column(pinned)
        self._kicked[pinned, bucket] = now_s
        self._line.setdefault((pinned, bucket), (now_s, 0, column[bucket]))
        column[bucket] = 0.0

    def _visit(self, bucket: int, pinned: NodeId | None) -> Visit:
        pins = self._homes.pins_in(bucket)
        kicked_s = self._kicked.get((pinned, bucket))
        if pinned is None:
            return Visit(bucket=bucket, keys_not_in=frozenset(pins), kicked_s=kicked_s)
        keys = frozenset(key for key, node in pins.items() if node == pinned)
        return Visit(bucket=bucket, pinned=pinned, keys_in=keys, kicked_s=kicked_s)

    def _spread(self, bucket: int, earliest_s: float) -> None:
        self._column(None)[bucket] = earliest_s
        for node in set(self._homes.pins_in(bucket).values()):
            self._column(node)[bucket] = earliest_s
        for column in self._earliest.values():
            if column[bucket] < inf:
                column[bucket] = earliest_s

    def _column(self, pinned: NodeId | None) -> list[float]:
        column = self._earliest.get(pinned)
        if column is None:
            column = self._earliest[pinned] = [inf] * BUCKETS_COUNT
        return column
