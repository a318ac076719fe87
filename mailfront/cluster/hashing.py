"""How a mailbox finds its bucket, and a bucket its nodes. Pure: the same on every machine and in every process.

    bucket        = BLAKE2b-64(mailbox key in UTF-8, key = cluster name) mod 4096
    h64(node, b)  = BLAKE2b-64(node id in UTF-8, one zero byte, b as two bytes, key = cluster name)
    score         = weight / -ln((h64(node, b) + 0.5) / 2**64)

Digests are 8 bytes and read as big-endian numbers. Equal scores are ordered by node id. The nodes of a bucket, highest
score first, are its *ranking* (weighted rendezvous hashing: Thaler and Ravishankar 1998; Schindelhauer and Schomaker
2005 for the weights). Only ids, weights and zones count; addresses and ports do not.

`desired_order` applies the zone rule, `plan_assignment` the bound on capacity. Neither says who owns a bucket *now*:
owners are stored (see `registry`), these functions only make first assignments and proposals.

Limits: 1..64 nodes, cluster names of 1..64 bytes (the key size of BLAKE2b). The test vectors in
`tests/unit/cluster/vectors.json` are public: another program may rely on them, so none of this may change.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from mailfront.mail.names import MailboxKey, NodeId

BUCKETS_COUNT = 4096
MOST_NODES_COUNT = 64
MOST_CLUSTER_NAME_BYTES = 64

_SLACK_PERCENT = 102
_HIGHEST_UNIT = 1.0 - 2.0**-53  # the float below 1.0: its logarithm is not zero


@dataclass(frozen=True, slots=True)
class Node:
    """What placement knows of a storage node."""

    id: NodeId
    weight: int = 100
    zone: str = ""


class BucketHash:
    """The bucket function of one cluster, with the keyed hash prepared once (0.5 us per call instead of 0.8)."""

    __slots__ = ("_keyed",)

    def __init__(self, cluster: str) -> None:
        self._keyed = blake2b(digest_size=8, key=cluster.encode())

    def bucket(self, key: MailboxKey) -> int:
        """The bucket of a mailbox, 0..4095."""
        keyed = self._keyed.copy()
        keyed.update(key.encode())
        digest = keyed.digest()
        return (digest[6] << 8 | digest[7]) & 4095


def bucket_of(key: MailboxKey, cluster: str) -> int:
    """The bucket of a mailbox, 0..4095. For many keys of one cluster use `BucketHash`."""
    return BucketHash(cluster).bucket(key)


def score(node: Node, bucket: int, cluster: str) -> float:
    """How strongly a bucket is drawn to a node: a positive number, higher is nearer."""
    message = node.id.encode() + b"\0" + bucket.to_bytes(2, "big")
    drawn = int.from_bytes(blake2b(message, digest_size=8, key=cluster.encode()).digest(), "big")
    unit = min((2 * drawn + 1) / 2**65, _HIGHEST_UNIT)
    return node.weight / -math.log(unit)


def ranking(bucket: int, nodes: Iterable[Node], cluster: str) -> tuple[Node, ...]:
    """All nodes for a bucket, highest score first, zones not considered."""
    return tuple(sorted(nodes, key=lambda node: (-score(node, bucket, cluster), node.id)))


def secondaries(home: NodeId, ranked: Sequence[Node]) -> tuple[NodeId, ...]:
    """The nodes that stand in for `home`, best first.

    They keep the order of the ranking, but the first comes from another zone than `home` when there is one. A home
    that is not in the ranking (a node that was removed) has no zone: the order is then the ranking's.
    """
    zone = next((node.zone for node in ranked if node.id == home), None)
    others = [node for node in ranked if node.id != home]
    if zone is not None:
        for position, node in enumerate(others):
            if node.zone != zone:
                others.insert(0, others.pop(position))
                break
    return tuple(node.id for node in others)


def desired_order(bucket: int, nodes: Iterable[Node], cluster: str) -> tuple[NodeId, ...]:
    """The home that a bucket is drawn to, then its secondaries. Capacity is not considered."""
    ranked = ranking(bucket, nodes, cluster)
    return (ranked[0].id, *secondaries(ranked[0].id, ranked)) if ranked else ()


def capacities(nodes: Iterable[Node]) -> dict[NodeId, int]:
    """The most buckets that each node takes: 2 % more than its share by weight, rounded up."""
    nodes = tuple(nodes)
    total = sum(node.weight for node in nodes)
    return {node.id: -(-_SLACK_PERCENT * BUCKETS_COUNT * node.weight // (100 * total)) for node in nodes}


def plan_assignment(nodes: Iterable[Node], cluster: str) -> tuple[NodeId, ...]:
    """Give every bucket an owner: the first node of its ranking that is not full.

    Buckets choose in ascending order. Returns 4096 owners. Raises ValueError if there is no node.
    """
    nodes = tuple(nodes)
    if not nodes:
        raise ValueError("there is no node to assign buckets to")
    room = capacities(nodes)
    owners: list[NodeId] = []
    for bucket in range(BUCKETS_COUNT):
        # The capacities sum to at least 1.02 x 4096, so one node always has room.
        owner = next(node.id for node in ranking(bucket, nodes, cluster) if room[node.id])
        room[owner] -= 1
        owners.append(owner)
    return tuple(owners)
