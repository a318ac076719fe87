"""The stored assignment of buckets beside the one that today's nodes and weights would get, for `ring show`. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mailfront.cluster.hashing import Node
from mailfront.cluster.placement import ClusterMap
from mailfront.mail.names import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShare:
    """One node's part of the ring. `desired_count` is what an assignment of today's nodes and weights would give it."""

    node: Node
    buckets_count: int
    desired_count: int
    pins_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """The stored assignment beside the desired one, for `ring show`. `differing_count`: buckets whose owner differs."""

    version: int
    shares: tuple[NodeShare, ...]
    differing_count: int


def compare(stored: ClusterMap, desired: Sequence[NodeId]) -> Ring:
    """Count per node what it owns and what it would own. `desired` comes from `hashing.plan_assignment`."""
    owned, wanted, pinned = Counter(stored.owners), Counter(desired), Counter(stored.pins.values())
    return Ring(
        version=stored.version,
        shares=tuple(
            NodeShare(
                node=node,
                buckets_count=owned[node.id],
                desired_count=wanted[node.id],
                pins_count=pinned[node.id],
            )
            for node in stored.nodes
        ),
        differing_count=sum(now != then for now, then in zip(stored.owners, desired, strict=True)),
    )
