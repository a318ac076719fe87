"""Explanations: the reason, the stand-ins, and what would happen to a message now."""

from mailfront.cluster.explain import Now, explain
from mailfront.cluster.hashing import Node, plan_assignment
from mailfront.cluster.node_states import AdminState, Health, Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import ClusterMap, Reason
from mailfront.mail.names import MailboxKey, NodeId

NODES = tuple(Node(NodeId(name)) for name in ("a", "b", "c"))
ANA = MailboxKey("ana")


def a_map(pin: NodeId | None = None) -> ClusterMap:
    owners = plan_assignment(NODES, "c")
    return ClusterMap(version=4, cluster="c", nodes=NODES, owners=owners, pins={ANA: pin} if pin else {})


def test_bucket_and_pin_reasons() -> None:
    """The reason names what decided."""
    states = NodeStateTable(node.id for node in NODES)
    by_bucket = explain(ANA, a_map(), states, tries=1)
    assert by_bucket.reason == f"bucket {by_bucket.bucket} is assigned to {by_bucket.home}"
    other = by_bucket.secondaries[1]
    pinned = explain(ANA, a_map(other), states, tries=1)
    assert (pinned.home, pinned.why, pinned.reason) == (other, Reason.PIN, f"the mailbox is pinned to {other}")
    assert pinned.desired == by_bucket.desired


def test_what_would_happen() -> None:
    """Deliver to a home that is up, hand off while it is not, queue when nobody may hold."""
    states = NodeStateTable(node.id for node in NODES)
    calm = explain(ANA, a_map(), states, tries=1)
    home, first, second = calm.home, *calm.secondaries
    assert (calm.now, calm.now_at) == (Now.DELIVER, home)
    states.connect_failed(home, Service.LMTP, 1.0, "refused")
    down = explain(ANA, a_map(), states, tries=1)
    assert (down.now, down.now_at) == (Now.HANDOFF, first)
    assert down.nodes[0].lmtp is Health.SUSPECT
    assert down.nodes[0].reason == "lmtp: cannot connect: refused"
    assert explain(ANA, a_map(), states, tries=0).now is Now.QUEUE
    states.set_admin_state(first, AdminState.DRAINING)
    assert explain(ANA, a_map(), states, tries=1).now_at == second
    states.set_admin_state(second, AdminState.MAINTENANCE)
    queued = explain(ANA, a_map(), states, tries=1)
    assert (queued.now, queued.now_at) == (Now.QUEUE, None)
    assert "no other node may hold" in queued.now_reason


def test_home_in_maintenance() -> None:
    """Maintenance counts as away although the node answers."""
    states = NodeStateTable(node.id for node in NODES)
    home = explain(ANA, a_map(), states, tries=1).home
    states.set_admin_state(home, AdminState.MAINTENANCE)
    found = explain(ANA, a_map(), states, tries=1)
    assert found.now is Now.HANDOFF
    assert "maintenance" in found.now_reason
