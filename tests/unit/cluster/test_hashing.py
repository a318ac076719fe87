"""The hashing functions against the published vectors and their own rules."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mailfront.cluster.hashing import (
    BucketHash,
    Node,
    bucket_of,
    capacities,
    desired_order,
    plan_assignment,
    ranking,
    score,
    secondaries,
)
from mailfront.mail.names import MailboxKey, NodeId

VECTORS_FILE = Path(__file__).with_name("vectors.json")
VECTORS: dict[str, Any] = json.loads(VECTORS_FILE.read_text(encoding="utf-8"))


def nodes_of(cluster: dict[str, Any]) -> list[Node]:
    return [Node(NodeId(node["id"]), node["weight"], node["zone"]) for node in cluster["nodes"]]


@pytest.mark.parametrize(
    "vector", VECTORS["buckets"], ids=lambda vector: f"{vector['cluster'][:13]}-{vector['key'][:8]}"
)
def test_bucket_vectors(vector: dict[str, Any]) -> None:
    """A mailbox key has the published bucket, by both ways of asking."""
    key = MailboxKey(vector["key"])
    assert bucket_of(key, vector["cluster"]) == vector["bucket"]
    assert BucketHash(vector["cluster"]).bucket(key) == vector["bucket"]


def test_score_vectors() -> None:
    """A node has the published score for a bucket, and the score is proportional to its weight."""
    for vector in VECTORS["scores"]:
        at_100 = score(Node(NodeId(vector["node"]), 100), vector["bucket"], vector["cluster"])
        at_300 = score(Node(NodeId(vector["node"]), 300), vector["bucket"], vector["cluster"])
        assert at_100 == pytest.approx(vector["score_at_weight_100"], rel=1e-12)
        assert at_300 == pytest.approx(3 * at_100)


@pytest.mark.parametrize("cluster", VECTORS["clusters"], ids=lambda cluster: str(cluster["name"]))
def test_cluster_vectors(cluster: dict[str, Any]) -> None:
    """Orders and first assignments of whole clusters are the published ones."""
    nodes = nodes_of(cluster)
    for bucket, order in cluster["desired_orders"].items():
        assert list(desired_order(int(bucket), nodes, cluster["cluster"])) == order
    owners = plan_assignment(nodes, cluster["cluster"])
    assert list(owners[:24]) == cluster["first_owners"]
    assert {node.id: owners.count(node.id) for node in nodes} == cluster["owners_count"]
    assert hashlib.sha256("\n".join(owners).encode()).hexdigest() == cluster["owners_sha256"]


def test_same_in_another_process() -> None:
    """Python's randomised string hash has no influence: two processes with different seeds agree with this one."""
    program = (
        "import hashlib; from mailfront.cluster.hashing import *; "
        "nodes = {Node(f'node-{i}', 100 + i, 'ab'[i % 2]) for i in range(9)}; "
        "owners = plan_assignment(nodes, 'example'); "
        "orders = [desired_order(b, nodes, 'example') for b in range(0, 4096, 97)]; "
        "print(hashlib.sha256(repr((owners, orders)).encode()).hexdigest())"
    )
    nodes = [Node(NodeId(f"node-{i}"), 100 + i, "ab"[i % 2]) for i in range(9)]
    orders = [desired_order(bucket, nodes, "example") for bucket in range(0, 4096, 97)]
    here = hashlib.sha256(repr((plan_assignment(nodes, "example"), orders)).encode()).hexdigest()
    for seed in ("1", "4711"):
        found = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert found.stdout.strip() == here


def test_cluster_name_is_the_key() -> None:
    """Another cluster name gives other buckets: two clusters with the same users do not share hot spots."""
    keys = [MailboxKey(f"user{number}") for number in range(500)]
    same = sum(bucket_of(key, "one") == bucket_of(key, "two") for key in keys)
    assert same < 10


def test_highest_hash_has_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash that rounds to 1.0 gives a large number, not a division by zero."""

    class AllOnes:
        def __init__(self, *_: object, **__: object) -> None: ...

        def digest(self) -> bytes:
            return b"\xff" * 8

    monkeypatch.setattr("mailfront.cluster.hashing.blake2b", AllOnes)
    assert 1e15 < score(Node(NodeId("n"), 1), 0, "c") < 1e17


def test_first_secondary_is_in_another_zone() -> None:
    """The nearest node of another zone comes first; the others keep their order."""
    ranked = [Node(NodeId(name), 100, zone) for name, zone in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"))]
    assert secondaries(NodeId("a1"), ranked) == ("b1", "a2", "a3")
    assert secondaries(NodeId("b1"), ranked) == ("a1", "a2", "a3")
    assert secondaries(NodeId("gone"), ranked) == ("a1", "a2", "b1", "a3")


def test_one_zone_keeps_the_ranking() -> None:
    """Without a second zone the order is the ranking's."""
    nodes = [Node(NodeId(f"n{number}")) for number in range(5)]
    for bucket in range(20):
        assert desired_order(bucket, nodes, "c") == tuple(node.id for node in ranking(bucket, nodes, "c"))


def test_capacity_is_two_percent_above_the_share() -> None:
    """ceil(1.02 x 4096 x weight / sum)."""
    assert capacities([Node(NodeId("a"), 100), Node(NodeId("b"), 300)]) == {"a": 1045, "b": 3134}


def test_no_node_no_plan() -> None:
    """Nothing can be assigned to nothing."""
    assert desired_order(0, [], "c") == ()
    with pytest.raises(ValueError, match="no node"):
        plan_assignment([], "c")
