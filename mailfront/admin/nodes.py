"""`node list|drain|maintenance|activate`: what is known of each storage node, and the administrator's word about it."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from mailfront.admin.audit import Audit
from mailfront.admin.errors import AdminError
from mailfront.base.printable import printable
from mailfront.cluster.explain import NodeView, view
from mailfront.cluster.node_states import AdminState, Health, Service
from mailfront.cluster.placement import ClusterMap
from mailfront.cluster.registry import PlacementRegistry, UnknownNode
from mailfront.cluster.settings import NodeSettings
from mailfront.mail.names import NodeId
from mailfront.queue.rows import HandoffState

VERB_STATES = {
    "drain": AdminState.DRAINING,
    "maintenance": AdminState.MAINTENANCE,
    "activate": AdminState.ACTIVE,
}


HandoffCounts = Mapping[tuple[NodeId, NodeId, HandoffState], int]
"""Handed-off recipients per (holder, home, state)."""

_AWAY = (HandoffState.STORED, HandoffState.DRAINING, HandoffState.HELD)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One line of `node list`. `state` is the one word: the administrator's unless active, else the LMTP health."""

    id: NodeId
    host: str
    state: str
    admin: str
    lmtp: str
    imap: str
    handoff: str
    reason: str
    weight: int
    zone: str
    buckets_count: int
    pins_count: int
    waiting_for_it_count: int
    held_for_others_count: int


class NodeService:
    """See the module. `nodes` gives the configured nodes, as they are after the last reload."""

    def __init__(
        self,
        registry: PlacementRegistry,
        nodes: Callable[[], Sequence[NodeSettings]],
        handoffs: Callable[[], Awaitable[HandoffCounts]],
        audit: Audit,
    ) -> None:
        self._registry = registry
        self._nodes = nodes
        self._handoffs = handoffs
        self._audit = audit

    async def list(self) -> "list[NodeRow]":
        """All nodes, in the order of the configuration."""
        counts = await self._handoffs()
        waiting, holding = Counter[NodeId](), Counter[NodeId]()
        for (holder, home, state), count in counts.items():
            if state in _AWAY:
                waiting[home] += count
                holding[holder] += count
        cluster_map = self._registry.map
        pins = list(cluster_map.pins.values())
        return [self._row(node, cluster_map, pins, waiting, holding) for node in self._nodes()]

    async def change(self, verb: str, node: str, *, reason: str, uid: int) -> NodeView:
        """Carry out `drain`, `maintenance` or `activate`. Raises AdminError for a node that is not configured."""
        admin = VERB_STATES[verb]
        known = [each.id for each in self._nodes()]
        if node not in known:
            raise AdminError(f"no node is called {printable(node, 64)!r}; there are {', '.join(known)}")
        await self._audit.note(uid=uid, verb=f"node {verb}", selector=node, reason=reason, rows_count=1)
        try:
            await self._registry.set_admin_state(NodeId(node), admin, reason)
        except UnknownNode as error:
            raise AdminError(str(error)) from error
        return view(NodeId(node), self._registry.map, self._registry.states)

    def _row(
        self,
        node: NodeSettings,
        cluster_map: ClusterMap,
        pins: "Sequence[NodeId | None]",
        waiting: Mapping[NodeId, int],
        holding: Mapping[NodeId, int],
    ) -> NodeRow:
        id_ = NodeId(node.id)
        states = self._registry.states
        services = {service: states.state(id_, service) for service in Service}
        admin = states.admin_state(id_)
        lmtp = services[Service.LMTP].health
        return NodeRow(
            id=id_,
            host=node.host,
            state=lmtp.value if admin is AdminState.ACTIVE else admin.value,
            admin=admin.value,
            lmtp=lmtp.value,
            imap=services[Service.IMAP].health.value,
            handoff=services[Service.HANDOFF].health.value,
            reason="; ".join(
                f"{service.value}: {state.reason}"
                for service, state in services.items()
                if state.health is not Health.UP and state.reason
            ),
            weight=node.weight,
            zone=node.zone,
            buckets_count=cluster_map.owners.count(id_),
            pins_count=pins.count(id_),
            waiting_for_it_count=waiting.get(id_, 0),
            held_for_others_count=holding.get(id_, 0),
        )
