"""The map as the queue looks at it: which buckets a node owns, and who in a bucket is pinned elsewhere.

`hops` are the next hops that this front end can use: recipients that are no mailboxes wait for one of them.

A frozen view of one version of the map. The queue keeps mailbox keys, never nodes: it asks this at each attempt.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from mailfront.cluster.placement import ClusterMap
from mailfront.cluster.registry import PlacementRegistry
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, next_hop_key

_NOBODY: Mapping[MailboxKey, NodeId] = MappingProxyType({})


class MapHomes:
    """See the module. Built once per version of the map: about 2 ms, and 1 us more per pin."""

    def __init__(self, cluster_map: ClusterMap, hops: Collection[NodeId] = ()) -> None:
        self._map = cluster_map
        self._buckets: dict[NodeId, list[int]] = {}
        for bucket, owner in enumerate(cluster_map.owners):
            self._buckets.setdefault(owner, []).append(bucket)
        self._pins: dict[int, dict[MailboxKey, NodeId]] = {}
        for key, node in cluster_map.pins.items():
            if node is not None:
                self._pins.setdefault(cluster_map.bucket(key), {})[key] = node
        self._pins[NEXT_HOP_BUCKET] = {next_hop_key(hop): hop for hop in hops}

    def buckets_of(self, node: NodeId) -> Sequence[int]:
        """The buckets that `node` owns."""
        return self._buckets.get(node, ())

    def pins_in(self, bucket: int) -> Mapping[MailboxKey, NodeId]:
        """Mailboxes of a bucket that live on a named node, whoever owns the bucket."""
        return self._pins.get(bucket, _NOBODY)

    def home_of(self, key: MailboxKey, bucket: int) -> NodeId:
        """The node where a mailbox of this bucket lives."""
        if bucket == NEXT_HOP_BUCKET:
            return NodeId(key)
        return self._pins.get(bucket, _NOBODY).get(key) or self._map.owners[bucket]


class CurrentHomes:
    """Whatever map is in force at each question: for views, which look once and keep nothing."""

    def __init__(self, registry: PlacementRegistry, hops: Collection[NodeId] = ()) -> None:
        self._registry = registry
        self._hops = hops
        self._version = -1
        self._homes: MapHomes | None = None

    def _now(self) -> MapHomes:
        current = self._registry.map
        if self._homes is None or current.version != self._version:
            self._homes, self._version = MapHomes(current, self._hops), current.version
        return self._homes

    def buckets_of(self, node: NodeId) -> Sequence[int]:
        """See `MapHomes`."""
        return self._now().buckets_of(node)

    def pins_in(self, bucket: int) -> Mapping[MailboxKey, NodeId]:
        """See `MapHomes`."""
        return self._now().pins_in(bucket)

    def home_of(self, key: MailboxKey, bucket: int) -> NodeId:
        """See `MapHomes`."""
        return self._now().home_of(key, bucket)
