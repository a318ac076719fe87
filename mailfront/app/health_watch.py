"""What `health` and `/healthz` say: the state of each part, looked at every few seconds, and the gauges beside it.

A node that is down degrades the whole, it does not fail it: mail for the others goes on, and with no node at all mail
is still queued. FAILED is what another front end would do better: our own database or disk is in trouble. A balancer
that obeys `/healthz` must not take out every front end because the nodes behind them are away.
"""

import asyncio

from mailfront.app.homes import CurrentHomes
from mailfront.base.errors import Unavailable
from mailfront.base.units import show_duration
from mailfront.cluster.node_states import AdminState, Health, Service
from mailfront.cluster.registry import PlacementRegistry
from mailfront.config.model import Configuration
from mailfront.directory.directory import Directory
from mailfront.mail.names import NodeId
from mailfront.observe import metrics
from mailfront.observe.health import HealthTable, State
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.rows import HandoffState
from mailfront.queue.views import QueueViews
from mailfront.store.writer import Store

EVERY_S = 2.0
HANDOFFS_EVERY_S = 10.0
DIRECTORY_EVERY_S = 10.0
QUEUE_EVERY_S = 60.0
_NUMBER = {Health.UP: 2.0, Health.SUSPECT: 1.0, Health.DOWN: 0.0}


class HealthWatch:
    """See the module. One per keeper."""

    def __init__(
        self,
        health: HealthTable,
        registry: PlacementRegistry,
        store: Store,
        directory: Directory,
        handoffs: HandoffTable,
        config: Configuration,
    ) -> None:
        self._health = health
        self._registry = registry
        self._store = store
        self._directory = directory
        self._handoffs = handoffs
        self._config = config

    async def run(self) -> None:
        """Look until cancelled."""
        await asyncio.gather(self._watch_parts(), self._watch_directory(), self._watch_queue())

    async def _watch_queue(self) -> None:
        """Count the queue. With a million rows that takes a reader about a second."""
        views = QueueViews(self._store, CurrentHomes(self._registry))
        while True:
            try:
                stats = await views.stats()
            except Unavailable:
                pass  # The gate's condition says it.
            else:
                for state, count in stats.states.items():
                    metrics.QUEUE_RECIPIENTS.set(count, state)
                oldest_s = stats.oldest_s
                metrics.QUEUE_OLDEST_S.set(0.0 if oldest_s is None else self._store.clock.wall_s() - oldest_s)
            await asyncio.sleep(QUEUE_EVERY_S)

    async def _watch_parts(self) -> None:
        loop = asyncio.get_running_loop()
        handoffs_due_s = 0.0
        while True:
            self._look_at_nodes()
            self._look_at_store()
            if loop.time() >= handoffs_due_s:
                handoffs_due_s = loop.time() + HANDOFFS_EVERY_S
                await self._look_at_handoffs()
            await asyncio.sleep(EVERY_S)

    def _look_at_nodes(self) -> None:
        states, up_count = self._registry.states, 0
        nodes = [NodeId(node.id) for node in self._config.node]
        for node in nodes:
            admin = states.admin_state(node)
            ill = []
            for service in Service:
                state = states.state(node, service)
                metrics.NODE_STATE.set(_NUMBER[state.health], node, service.value)
                if state.health is not Health.UP:
                    ill.append(f"{service.value} {state.health.value}: {state.reason}")
            up_count += states.is_up(node, Service.LMTP)
            if admin is not AdminState.ACTIVE:
                ill.insert(0, f"the administrator says {admin.value}")
            self._health.set(f"node.{node}", State.DEGRADED if ill else State.OK, "; ".join(ill))
        no_node = "no storage node takes mail; everything is queued"
        owners = self._registry.map.owners
        metrics.MAP_VERSION.set(self._registry.map.version)
        for node in nodes:
            metrics.MAP_BUCKETS.set(owners.count(node), node)
        self._health.set("nodes", State.OK if up_count else State.DEGRADED, "" if up_count else no_node)

    def _look_at_store(self) -> None:
        reason = self._store.gate.reason
        self._health.set("queue.gate", State.FAILED if reason else State.OK, reason)

    async def _watch_directory(self) -> None:
        """The workers ask the directory, this process hardly ever does: so it tries the servers by itself."""
        while True:
            troubles = await self._directory.reachable() or self._directory.troubles()
            self._health.set("directory", State.DEGRADED if troubles else State.OK, "; ".join(troubles))
            await asyncio.sleep(DIRECTORY_EVERY_S)

    async def _look_at_handoffs(self) -> None:
        try:
            counts = await self._handoffs.counts()
            oldest_s = await self._handoffs.oldest_arrived_s()
        except Unavailable:
            return  # The gate's condition says it.
        live = (HandoffState.STORED, HandoffState.DRAINING, HandoffState.HELD)
        for node in self._config.node:
            held = sum(n for (holder, _, state), n in counts.items() if holder == node.id and state in live)
            metrics.TRANSFER_HANDED_OFF.set(held, node.id)
        age_s = 0.0 if oldest_s is None else self._store.clock.wall_s() - oldest_s
        warn_s = self._config.queue.warn_after
        if age_s > warn_s:
            text = f"mail has been handed off for {show_duration(age_s)}; its home is away or refuses it"
            self._health.raise_alarm("handoff.waiting", text, quiet_s=2 * HANDOFFS_EVERY_S)
