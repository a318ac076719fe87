"""Why a mailbox is where it is, and what would happen to a message for it now: one value for `ring explain`.

Nothing is decided here. Placement comes from the map, health from the node table, and the last word (`now`) repeats
the order in which a delivery goes: home, then the first secondary that may hold, then the queue.
"""

from dataclasses import dataclass
from enum import Enum

from mailfront.cluster.hashing import ranking
from mailfront.cluster.node_states import AdminState, Health, Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import ClusterMap, Reason
from mailfront.mail.names import MailboxKey, NodeId


class Now(Enum):
    """What would happen to a message for a mailbox at this moment."""

    DELIVER = "deliver"
    HANDOFF = "handoff"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node as an explanation shows it. `reason` says why it is not up; `may_hold`: it may stand in for others."""

    id: NodeId
    zone: str
    weight: int
    admin: AdminState
    lmtp: Health
    imap: Health
    handoff: Health
    reason: str
    may_hold: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementExplanation:
    """Everything that placement knows about one mailbox.

    `desired` is the node that the mailbox's bucket is drawn to by hash and weight, without the bound on capacity; where
    it differs from `home`, the stored assignment or a pin decides. `now_at` is the node that would get the message.
    """

    key: MailboxKey
    bucket: int
    home: NodeId
    why: Reason
    reason: str
    secondaries: tuple[NodeId, ...]
    desired: NodeId
    map_version: int
    first_placement_pending: bool
    nodes: tuple[NodeView, ...]
    now: Now
    now_at: NodeId | None
    now_reason: str


def explain(key: MailboxKey, cluster_map: ClusterMap, states: NodeStateTable, *, tries: int) -> PlacementExplanation:
    """Explain one mailbox. `tries` is `storage.secondaries`: how many stand-ins are tried before the queue."""
    placement = cluster_map.place(key)
    home, bucket = placement.home, placement.bucket
    if placement.reason is Reason.PIN:
        reason = f"the mailbox is pinned to {home}"
    else:
        reason = f"bucket {bucket} is assigned to {home}"
    ranked = ranking(bucket, cluster_map.nodes, cluster_map.cluster)
    views = tuple(view(node, cluster_map, states) for node in (home, *placement.secondaries))
    now, now_at, now_reason = _verdict(views[0], views[1:], tries)
    return PlacementExplanation(
        key=key,
        bucket=bucket,
        home=home,
        why=placement.reason,
        reason=reason,
        secondaries=placement.secondaries,
        desired=ranked[0].id,
        map_version=cluster_map.version,
        first_placement_pending=cluster_map.must_announce(key),
        nodes=views,
        now=now,
        now_at=now_at,
        now_reason=now_reason,
    )


def view(id_: NodeId, cluster_map: ClusterMap, states: NodeStateTable) -> NodeView:
    """One node with its states, for `ring explain` and `node list`."""
    node = next(node for node in cluster_map.nodes if node.id == id_)
    services = {service: states.state(id_, service) for service in Service}
    return NodeView(
        id=id_,
        zone=node.zone,
        weight=node.weight,
        admin=states.admin_state(id_),
        lmtp=services[Service.LMTP].health,
        imap=services[Service.IMAP].health,
        handoff=services[Service.HANDOFF].health,
        reason="; ".join(f"{service.value}: {state.reason}" for service, state in services.items() if state.reason),
        may_hold=states.may_hold(id_),
    )


def _verdict(home: NodeView, others: tuple[NodeView, ...], tries: int) -> tuple[Now, NodeId | None, str]:
    if home.admin is AdminState.MAINTENANCE:
        trouble = f"{home.id} is in maintenance"
    elif home.lmtp is Health.UP:
        return Now.DELIVER, home.id, f"{home.id} is up"
    else:
        trouble = f"{home.id} is {home.lmtp.value}"
    holders = [other.id for other in others if other.may_hold]
    if tries == 0:
        return Now.QUEUE, None, f"{trouble}, and handoffs are off (storage.secondaries = 0)"
    if not holders:
        return Now.QUEUE, None, f"{trouble}, and no other node may hold its mail"
    return Now.HANDOFF, holders[0], f"{trouble}; {holders[0]} holds its mail until it is back"
