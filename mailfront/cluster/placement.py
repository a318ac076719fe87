"""The map: which node is the home of a mailbox, and who stands in for it.

`ClusterMap` is a frozen snapshot; the keeper makes it (`registry`), workers get it pushed and swap it whole. `place` is
on the path of every recipient: one keyed hash, one dict look-up, one list look-up.

Precedence: a pin (this mailbox lives on that node), else the stored owner of the mailbox's bucket. Health plays no
part here: it never changes the home.

Pins remember first placements too. Where the directory has a host attribute, `first_placements` is true and a mailbox
that is not yet in `pins` must be announced to the keeper before its first delivery; the answer is a node, or None for
"by its bucket". So a host attribute that changes later is seen as a request to move, not obeyed.

Travel: `as_push` cuts a map into pages that fit the worker-keeper socket, `MapReceiver` puts them together. New pins
alone travel as a small page on top of the version before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from mailfront.base.errors import Unavailable
from mailfront.cluster.hashing import BUCKETS_COUNT, BucketHash, Node, ranking, secondaries
from mailfront.mail.names import MailboxKey, NodeId

PINS_PER_PAGE_COUNT = 20_000


class Reason(Enum):
    """Why a mailbox has the home that it has."""

    BUCKET = "bucket"
    PIN = "pin"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one mailbox lives. `secondaries` are all other nodes, best first; how many are used is the caller's."""

    home: NodeId
    secondaries: tuple[NodeId, ...]
    bucket: int
    reason: Reason


class _Choices:
    """Placements per bucket, made when first asked for. Maps that differ only in pins share one."""

    def __init__(self, cluster: str, nodes: Sequence[Node], owners: Sequence[NodeId]) -> None:
        self.bucket = BucketHash(cluster).bucket
        self.by_bucket: list[Placement | None] = [None] * BUCKETS_COUNT
        self._cluster = cluster
        self._nodes = nodes
        self._owners = owners
        self._pinned: dict[tuple[int, NodeId], Placement] = {}

    def of_bucket(self, bucket: int) -> Placement:
        placement = self._make(bucket, self._owners[bucket], Reason.BUCKET)
        self.by_bucket[bucket] = placement
        return placement

    def of_pin(self, bucket: int, home: NodeId) -> Placement:
        placement = self._pinned.get((bucket, home))
        if placement is None:
            placement = self._pinned[bucket, home] = self._make(bucket, home, Reason.PIN)
        return placement

    def _make(self, bucket: int, home: NodeId, reason: Reason) -> Placement:
        ranked = ranking(bucket, self._nodes, self._cluster)
        return Placement(home, secondaries(home, ranked), bucket, reason)


class ClusterMap:
    """One version of the map. Treat as a value: nothing in it changes after it is made.

    `nodes` are the configured nodes, `hosts` maps each node's address (lower case) to its id, `owners` holds 4096 node
    ids, `pins` a node id or None ("by its bucket") per remembered mailbox. Raises ValueError if an owner is no node.
    """

    __slots__ = ("_choices", "cluster", "first_placements", "hosts", "nodes", "owners", "pins", "version")

    def __init__(
        self,
        *,
        version: int,
        cluster: str,
        nodes: Sequence[Node],
        owners: Sequence[NodeId],
        pins: Mapping[MailboxKey, NodeId | None] = MappingProxyType({}),
        hosts: Mapping[str, NodeId] = MappingProxyType({}),
        first_placements: bool = False,
    ) -> None:
        if len(owners) != BUCKETS_COUNT:
            raise ValueError(f"a map needs {BUCKETS_COUNT} owners, not {len(owners)}")
        if strangers := {*owners, *pins.values()} - {node.id for node in nodes} - {None}:
            raise ValueError(f"owners that are not nodes: {', '.join(sorted(map(str, strangers)))}")
        self.version = version
        self.cluster = cluster
        self.nodes = tuple(nodes)
        self.owners = tuple(owners)
        self.pins = pins
        self.hosts = hosts
        self.first_placements = first_placements
        self._choices = _Choices(cluster, self.nodes, self.owners)

    def place(self, key: MailboxKey) -> Placement:
        """Say where a mailbox lives. Never fails, never waits; about 1 us."""
        choices = self._choices
        bucket = choices.bucket(key)
        home = self.pins.get(key)
        if home is None:
            return choices.by_bucket[bucket] or choices.of_bucket(bucket)
        return choices.of_pin(bucket, home)

    def place_at(self, key: MailboxKey, home: NodeId) -> Placement:
        """Where a mailbox lives that the keeper has just pinned to `home`, until the page that says so has come."""
        return self._choices.of_pin(self.bucket(key), home)

    def bucket(self, key: MailboxKey) -> int:
        """The bucket of a mailbox, 0..4095."""
        return self._choices.bucket(key)

    def must_announce(self, key: MailboxKey) -> bool:
        """Whether the keeper must remember this mailbox's first placement before mail is delivered to it."""
        return self.first_placements and key not in self.pins

    def node_of_host(self, host: str) -> NodeId | None:
        """The node that a directory's host attribute means: a node id, else a node's address. None: no such node."""
        for node in self.nodes:
            if node.id == host:
                return node.id
        return self.hosts.get(host.lower())

    def agrees(self, key: MailboxKey, host: str) -> bool:
        """Whether the directory's host attribute names the node that the mailbox lives on. If not, it is a request to
        move the mailbox (or names no node)."""
        return self.node_of_host(host) == self.place(key).home

    def with_pins(self, pins: Mapping[MailboxKey, NodeId | None], *, version: int) -> "ClusterMap":
        """The same map with more pins. What was computed per bucket is shared, not made again."""
        copy = object.__new__(ClusterMap)
        copy.version = version
        copy.cluster, copy.nodes, copy.owners, copy.hosts = self.cluster, self.nodes, self.owners, self.hosts
        copy.first_placements = self.first_placements
        copy.pins = {**self.pins, **pins}
        copy._choices = self._choices
        return copy

    def as_push(self) -> list[dict[str, Any]]:
        """Cut the map into pages (JSON-ready) for the worker-keeper socket, first page first."""
        pins = list(self.pins.items())
        cuts = range(0, len(pins), PINS_PER_PAGE_COUNT) or range(1)
        index = {node.id: number for number, node in enumerate(self.nodes)}
        head = {
            "cluster": self.cluster,
            "nodes": [[node.id, node.weight, node.zone] for node in self.nodes],
            "owners": [index[owner] for owner in self.owners],
            "hosts": dict(self.hosts),
            "first_placements": self.first_placements,
        }
        return [
            {
                "version": self.version,
                "page": number,
                "pages": len(cuts),
                "pins": dict(pins[start : start + PINS_PER_PAGE_COUNT]),
                **(head if number == 0 else {}),
            }
            for number, start in enumerate(cuts)
        ]

    @classmethod
    def from_push(cls, pages: Iterable[Mapping[str, Any]]) -> "ClusterMap":
        """Put the pages of one map together. They come from our own keeper, in order and complete."""
        first, *rest = pages
        nodes = [Node(NodeId(id_), weight, zone) for id_, weight, zone in first["nodes"]]
        pins = dict(first["pins"])
        for page in rest:
            pins.update(page["pins"])
        return cls(
            version=first["version"],
            cluster=first["cluster"],
            nodes=nodes,
            owners=[nodes[number].id for number in first["owners"]],
            pins=pins,
            hosts=first["hosts"],
            first_placements=first["first_placements"],
        )


def pins_push(pins: Mapping[MailboxKey, NodeId | None], *, base: int, version: int) -> dict[str, Any]:
    """The page that adds pins to map version `base` and makes it `version`."""
    return {"version": version, "base": base, "pins": dict(pins)}


class MapReceiver:
    """A worker's end: takes pages in the order of their arrival and holds the map in force."""

    def __init__(self) -> None:
        self.current: ClusterMap | None = None
        self._pages: list[Mapping[str, Any]] = []

    def receive(self, page: Mapping[str, Any]) -> bool:
        """Take one page. Returns False if a page before it was missed: ask the keeper for the whole map.

        Until then the map in force stays in force.
        """
        if "base" in page:
            if self.current is None or self.current.version < page["base"]:
                return False
            # Pins are only ever added, so what a later whole map already brought may come again.
            if self.current.version < page["version"]:
                self.current = self.current.with_pins(page["pins"], version=page["version"])
            return True
        if page["page"] == 0:
            self._pages = []
        elif len(self._pages) != page["page"] or self._pages[0]["version"] != page["version"]:
            self._pages = []
            return False
        self._pages.append(page)
        if len(self._pages) == page["pages"]:
            self.current = ClusterMap.from_push(self._pages)
            self._pages = []
        return True

    def require(self) -> ClusterMap:
        """The map in force. Raises Unavailable if none has arrived yet."""
        if self.current is None:
            raise Unavailable("no placement map has arrived from the keeper yet")
        return self.current
