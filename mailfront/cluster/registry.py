"""The keeper's hand on the map: loads it, makes the first assignment, remembers first placements, stores node states.

Order of calls: `PlacementRegistry.open`, then anything. `map` is the version in force; `take_push` says what workers
have to be told since it was last called, `full_push` is for a worker that has just come or has missed something.

The owners of buckets are written once, on an empty database. From then on nodes and weights in the configuration only
change what *would* be assigned (`ring`); nobody moves. A configuration without a node that still owns something is
refused with the counts, and so is another cluster name: it would give every mailbox another bucket.

What survives a crash: everything that `open`, `pin_first`, `set_admin_state` and `remember_state` returned from. Move
requests (`move_requests`) are kept in memory: they come again with the mailbox's next message.

Raises StoreFailed (an Unavailable) where the database does not answer.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from mailfront.base.clock import Clock
from mailfront.base.errors import MailfrontError
from mailfront.base.printable import printable
from mailfront.cluster.hashing import BUCKETS_COUNT, Node, plan_assignment
from mailfront.cluster.move_requests import MoveRequestTable
from mailfront.cluster.node_states import AdminState, Health, Service, ServiceState
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import ClusterMap, pins_push
from mailfront.cluster.possessions import (
    require_cluster,
    require_first_placements,
    require_mailbox_key,
    require_owners,
)
from mailfront.cluster.ring import Ring, compare
from mailfront.cluster.settings import NodeSettings
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.store import placement_rows
from mailfront.store.errors import StoreRefused
from mailfront.store.placement_rows import NodeStateRow, PinRow
from mailfront.store.writer import Store

_ADMIN = "admin"
# What placement was begun with is kept among the node states, under a name that no node can have.
_BEGUN_WITH = NodeId("*")
_CLUSTER, _MAILBOX_KEY, _FIRST_PLACEMENTS = "cluster", "mailbox key", "first placements"


class UnknownNode(MailfrontError):
    """A host attribute or a command names a node that is not configured. Mail for it is our trouble: 451."""


class PlacementRegistry:
    """See the module. One per keeper; not for several threads. `states` is the node table that it stores."""

    def __init__(self, store: Store, clock: Clock, cluster: str, nodes: Sequence[NodeSettings]) -> None:
        self.states = NodeStateTable(NodeId(node.id) for node in nodes)
        self._store = store
        self._clock = clock
        self._cluster = cluster
        self._map: ClusterMap
        self._fresh_pins: dict[MailboxKey, NodeId | None] = {}
        self._unpushed: dict[MailboxKey, NodeId | None] = {}
        self._pushed_version = 0
        self._version = 0
        self._push_all = True
        self.move_requests = MoveRequestTable(clock)
        self._desired: tuple[tuple[Node, ...], tuple[NodeId, ...]] | None = None

    @classmethod
    async def open(
        cls,
        store: Store,
        clock: Clock,
        *,
        cluster: str,
        nodes: Sequence[NodeSettings],
        first_placements: bool,
        mailbox_key: str = "",
    ) -> "PlacementRegistry":
        """Load the map and the node states; assign all buckets if the database is new.

        `first_placements` is whether the directory has a host attribute; `mailbox_key` says in words what mailbox keys
        are made of. Raises ConfigError if a node is missing that owns something, or if what decides where mailboxes
        live was changed (see `possessions`), StoreRefused if the stored map is damaged.
        """
        registry = cls(store, clock, cluster, nodes)
        owners = await store.read(placement_rows.load_owners)
        rows = await store.read(placement_rows.load_node_states)
        wanted = {_CLUSTER: cluster, _MAILBOX_KEY: mailbox_key, _FIRST_PLACEMENTS: "on" if first_placements else "off"}
        await registry._require_same_beginning(rows, wanted)
        if not owners:
            owners = await registry._assign(nodes)
        if len(owners) != BUCKETS_COUNT:
            raise StoreRefused(
                f"the stored map has {len(owners)} of {BUCKETS_COUNT} buckets; restore a backup of the database"
            )
        pins = {key: row.node for key, row in (await store.read(placement_rows.load_pins)).items()}
        registry._version = await store.read(placement_rows.load_map_version)
        in_order = [owners[bucket] for bucket in range(BUCKETS_COUNT)]
        require_owners([NodeId(node.id) for node in nodes], in_order, pins, {})
        registry._map = registry._build(nodes, in_order, pins, first_placements)
        registry._restore_states(rows)
        await registry._forget_states_of_others(rows)
        return registry

    # The map.

    @property
    def map(self) -> ClusterMap:
        """The version in force."""
        if self._fresh_pins:
            self._map = self._map.with_pins(self._fresh_pins, version=self._version)
            self._fresh_pins = {}
        return self._map

    def full_push(self) -> list[dict[str, Any]]:
        """The whole map in pages, for one worker."""
        return self.map.as_push()

    def take_push(self) -> list[dict[str, Any]]:
        """The pages that all workers need since this was last called; often none. Call it at most about once a second:
        each addition makes the workers copy their pins."""
        fresh, self._unpushed = self._unpushed, {}
        base, self._pushed_version = self._pushed_version, self._version
        if self._push_all:
            self._push_all = False
            return self.full_push()
        return [pins_push(fresh, base=base, version=self._version)] if fresh else []

    async def pin_first(self, key: MailboxKey, host: str | None) -> NodeId | None:
        """Remember a mailbox's first placement, durably; the first call for a mailbox decides for ever.

        `host` is the directory's host attribute, or None. Returns the node that the mailbox is pinned to, or None for
        "by its bucket". Raises UnknownNode if `host` names no node, StoreFailed if it cannot be committed.
        """
        known = self.map
        if key in known.pins:
            return known.pins[key]
        node = None if host is None else known.node_of_host(host)
        if host is not None and node is None:
            raise UnknownNode(f"the directory says host {printable(host)!r}, and no node has that id or address")
        row = PinRow(
            mailbox_key=key, node=node, source="bucket" if host is None else "host", made_s=self._clock.wall_s()
        )
        kept, _ = await self._store.write(
            lambda connection: (
                placement_rows.save_first_pin(connection, row),
                placement_rows.load_map_version(connection),
            ),
            committed=self._pinned,
        )
        return kept.node

    def _pinned(self, result: tuple[PinRow, int]) -> None:
        row, version = result
        self._fresh_pins[row.mailbox_key] = self._unpushed[row.mailbox_key] = row.node
        self._version = version

    # Reload.

    def check_nodes(
        self, nodes: Sequence[NodeSettings], cluster: str, held: Mapping[NodeId, Mapping[str, int]]
    ) -> None:
        """Whether a new configuration could come into force. Raises ConfigError with the counts if not.

        `held` is what the caller knows of other possessions: node -> what -> how many (handed-off copies, messages
        with an unknown outcome).
        """
        require_cluster(self._cluster, cluster)
        require_owners([NodeId(node.id) for node in nodes], self.map.owners, self.map.pins, held)

    def change_nodes(self, nodes: Sequence[NodeSettings], *, first_placements: bool) -> None:
        """Bring checked nodes into force. Owners and pins stay; workers get the whole map."""
        before = self.map
        self._map = self._build(nodes, before.owners, before.pins, first_placements)
        self.states.set_nodes(node.id for node in self._map.nodes)
        self._push_all = True

    # Node states.

    async def set_admin_state(self, node: NodeId, admin: AdminState, reason: str) -> None:
        """Store the administrator's word, then let it count. Raises UnknownNode."""
        if all(known.id != node for known in self.map.nodes):
            names = ", ".join(known.id for known in self.map.nodes)
            raise UnknownNode(f"no node is called {printable(node)!r}; there are {names}")
        row = NodeStateRow(
            node=node, protocol=_ADMIN, state=admin.value, reason=printable(reason), since_s=self._clock.wall_s()
        )
        await self._store.write(
            lambda connection: placement_rows.save_node_states(connection, [row]),
            committed=lambda _: self.states.set_admin_state(node, admin),
        )

    async def remember_state(self, node: NodeId, service: Service) -> None:
        """Store what the table says now, so that a new keeper does not begin by trusting a dead node."""
        state = self.states.state(node, service)
        row = NodeStateRow(
            node=node,
            protocol=service.value,
            state=state.health.value,
            reason=state.reason,
            since_s=self._clock.wall_s() - max(0.0, self._clock.monotonic_s() - state.since_s),
        )
        await self._store.write(lambda connection: placement_rows.save_node_states(connection, [row]))

    # For `ring show`.

    async def ring(self) -> Ring:
        """Compare the stored assignment with the desired one. The first call after a change of nodes takes up to half
        a second, in a thread."""
        shown = self.map
        if self._desired is None or self._desired[0] != shown.nodes:
            self._desired = (shown.nodes, await asyncio.to_thread(plan_assignment, shown.nodes, self._cluster))
        return compare(shown, self._desired[1])

    # Loading.

    def _build(
        self,
        nodes: Sequence[NodeSettings],
        owners: Sequence[NodeId],
        pins: Mapping[MailboxKey, NodeId | None],
        first_placements: bool,
    ) -> ClusterMap:
        return ClusterMap(
            version=self._version,
            cluster=self._cluster,
            nodes=[node.as_node() for node in nodes],
            owners=owners,
            pins=pins,
            hosts=_hosts(nodes),
            first_placements=first_placements,
        )

    async def _assign(self, nodes: Sequence[NodeSettings]) -> dict[int, NodeId]:
        planned = await asyncio.to_thread(plan_assignment, [node.as_node() for node in nodes], self._cluster)
        owners = dict(enumerate(planned))
        await self._store.write(lambda connection: placement_rows.save_owners(connection, owners))
        return owners

    async def _require_same_beginning(self, rows: Iterable[NodeStateRow], wanted: Mapping[str, str]) -> None:
        """Compare with what placement was begun with, and write down what is not written down yet."""
        begun = {row.protocol: row.state for row in rows if row.node == _BEGUN_WITH}
        require_cluster(begun.get(_CLUSTER, wanted[_CLUSTER]), wanted[_CLUSTER])
        require_mailbox_key(begun.get(_MAILBOX_KEY, wanted[_MAILBOX_KEY]), wanted[_MAILBOX_KEY])
        if wanted[_FIRST_PLACEMENTS] == "on":
            require_first_placements(begun.get(_FIRST_PLACEMENTS, "on"))
        now_s = self._clock.wall_s()
        fresh = [
            NodeStateRow(node=_BEGUN_WITH, protocol=name, state=value, reason="", since_s=now_s)
            for name, value in wanted.items()
            if begun.get(name) != value
        ]
        if fresh:
            await self._store.write(lambda connection: placement_rows.save_node_states(connection, fresh))

    def _restore_states(self, rows: Iterable[NodeStateRow]) -> None:
        services = {service.value for service in Service}
        now_s = self._clock.monotonic_s()
        offset_s = now_s - self._clock.wall_s()
        for row in rows:
            if row.protocol == _ADMIN:
                self.states.set_admin_state(row.node, AdminState(row.state))
            elif row.protocol in services and row.state != Health.UP.value:
                # After the clock went back the row is from the future, and no probe would count until then.
                since_s = min(row.since_s + offset_s, now_s)
                state = ServiceState(health=Health(row.state), reason=row.reason, since_s=since_s)
                self.states.restore(row.node, Service(row.protocol), state)

    async def _forget_states_of_others(self, rows: Iterable[NodeStateRow]) -> None:
        gone = {row.node for row in rows} - {node.id for node in self.map.nodes} - {_BEGUN_WITH}
        for node in gone:
            await self._store.write(partial(placement_rows.delete_node_states, node=node))


def _hosts(nodes: Sequence[NodeSettings]) -> dict[str, NodeId]:
    """Address -> node, for addresses that only one node has."""
    counts = Counter(node.host.lower() for node in nodes)
    return {node.host.lower(): NodeId(node.id) for node in nodes if node.host and counts[node.host.lower()] == 1}
