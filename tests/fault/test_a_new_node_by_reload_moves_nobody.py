"""A node is added, and weights are turned round, by a reload under load: every mailbox stays where it is.

Scripted nodes; the front end is the real one.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fault_cluster import FaultCluster
from tests.support.lmtp_peer import ScriptedLmtpPeer
from tests.support.processes import wait_until
from tests.support.senders import Letter, Stream

OLD = ("store1", "store2")
MAILBOXES_COUNT = 40


@pytest.fixture(scope="module")
def newcomer() -> Iterator[ScriptedLmtpPeer]:
    """The node that is added."""
    with ScriptedLmtpPeer() as peer:
        yield peer


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Two scripted nodes."""
    with FaultCluster.of_peers({node: ScriptedLmtpPeer() for node in OLD}) as running:
        yield running


def owned(cluster: FaultCluster) -> dict[str, tuple[int, int]]:
    """Node -> how many buckets it owns, how many it would be given."""
    nodes: list[dict[str, Any]] = cluster.server.cli_json("ring", "show")["nodes"]
    return {node["id"]: (node["buckets_count"], node["desired_count"]) for node in nodes}


def test_a_new_node_by_reload_moves_nobody(cluster: FaultCluster, newcomer: ScriptedLmtpPeer) -> None:
    """The new node owns nothing and gets no message for its own; `ring show` says what it would be given."""
    case = cluster.case()
    mailboxes = [cluster.fresh_mailbox(node) for node in OLD for _ in range(MAILBOXES_COUNT // 2)]
    before = owned(cluster)
    table = {**cluster.server.document["node"][0], "id": "store3", "lmtp": newcomer.port}

    def next_letter() -> Letter:
        return case.letter_to(mailboxes[len(case.letters) % len(mailboxes)])

    with Stream(cluster.server.smtp, next_letter, clients=2) as stream:
        wait_until(lambda: stream.answered_count >= MAILBOXES_COUNT, 60.0, "the load")
        first, *others = cluster.server.document["node"]
        cluster.server.change({"node": [table, {**first, "weight": 10}, *others]})
        assert cluster.server.reload()
        count = stream.answered_count
        wait_until(lambda: stream.answered_count >= count + MAILBOXES_COUNT, 60.0, "the load after the reload")
    after = owned(cluster)
    assert {node: buckets for node, (buckets, _) in after.items()} == {
        "store3": 0,
        **{node: buckets for node, (buckets, _) in before.items()},
    }
    assert after["store3"][1] > 1000
    assert not newcomer.received()
    # `check` holds each copy to the node of the first assignment.
    assert case.check("a node was added").delivered == len(case.letters)
    explained = cluster.server.cli_json("ring", "explain", f"{mailboxes[0]}@example.edu")
    assert explained["home"] == cluster.home_of(mailboxes[0])


def test_a_node_that_owns_nothing_may_go_again(cluster: FaultCluster) -> None:
    """What was added by mistake is taken out by a reload."""
    cluster.server.change({"node": [node for node in cluster.server.document["node"] if node["id"] != "store3"]})
    assert cluster.server.reload()
    assert set(owned(cluster)) == set(OLD)
