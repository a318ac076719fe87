"""The keeper's desk for workers: pushes them the map and the nodes' states, takes what they find out.

The map goes out whole to a worker that comes, and in small pages after that, at most once a second. Node states go out
at every change and every 5 seconds, so that a worker knows that the keeper is alive.
"""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mailfront.app.filters import FilterHealth
from mailfront.app.homes import MapHomes
from mailfront.base.errors import ConfigError, Unavailable
from mailfront.base.printable import printable
from mailfront.base.tasks import spawn
from mailfront.cluster.node_states import Health, Service
from mailfront.cluster.node_table import StateChange
from mailfront.cluster.registry import PlacementRegistry, UnknownNode
from mailfront.config.load import parse
from mailfront.delivery.transaction import Delivery
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.net.channel import ChannelServer, Peer, Refused, Request
from mailfront.observe import metrics
from mailfront.observe.health import DEFAULT_QUIET_S, HealthTable
from mailfront.observe.log import emit, get
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.queue import Queue
from mailfront.queue.rows import HandoffState
from mailfront.transfer.prober import Prober

MAP_EVERY_S = 1.0
STATES_EVERY_S = 5.0

log = get("keeper")


class WorkerDesk:
    """See the module. One per keeper."""

    def __init__(
        self,
        channel: ChannelServer,
        registry: PlacementRegistry,
        queue: Queue,
        handoffs: HandoffTable,
        health: HealthTable,
        prober: Prober,
        delivery: Delivery,
        *,
        hops: Collection[NodeId],
        wake: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._hops = hops
        self._registry = registry
        self._queue = queue
        self._handoffs = handoffs
        self._health = health
        self._prober = prober
        self._delivery = delivery
        self._wake = wake
        self.filter_health = FilterHealth(health)
        self._changed = asyncio.Event()
        registry.states.watch(self._state_changed)

    def serve(self) -> None:
        """Register the verbs, before the channel starts."""
        for verb, handler in (
            ("pin_first", self._pin_first),
            ("move_wanted", self._move_wanted),
            ("want_map", self._want_map),
            ("suspect", self._suspect),
            ("mailbox_full", self._mailbox_full),
            ("alarm", self._alarm),
            ("filter_breaker", self._filter_breaker),
            ("check_nodes", self._check_nodes),
        ):
            self._channel.handle(verb, handler)

    def peer_came(self, peer: Peer) -> None:
        """A worker connected: tell it everything."""
        self._channel.push("nodes", self._nodes_push(), peer)
        for page in self._registry.full_push():
            self._channel.push("map", page, peer)

    def _nodes_push(self) -> dict[str, Any]:
        return {**self._registry.states.as_push(), "size_limit_bytes": self._delivery.size_limit_bytes}

    def peer_gone(self, peer: Peer) -> None:
        """A worker went: what it knew of scanners is not known any more."""
        self.filter_health.forget(peer.name)

    def node_changed(self) -> None:
        """An administrator changed a node: tell the workers, and let the queue look again."""
        self._changed.set()
        self._wake()

    async def run(self) -> None:
        """Push what changed until cancelled."""
        loop = asyncio.get_running_loop()
        states_told_s = 0.0
        while True:
            for page in (pages := self._registry.take_push()):
                self._channel.push("map", page)
            if pages:
                self._queue.pending.set_homes(MapHomes(self._registry.map, self._hops))
            if self._changed.is_set() or loop.time() - states_told_s >= STATES_EVERY_S:
                self._changed.clear()
                states_told_s = loop.time()
                self._channel.push("nodes", self._nodes_push())
            try:
                async with asyncio.timeout(MAP_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _state_changed(self, change: StateChange) -> None:
        emit(
            "node_state",
            node=change.node,
            protocol=change.service.value,
            previous=change.before.value,
            state=change.after.value,
            reason=change.reason,
        )
        metrics.NODE_CHANGES.inc(change.node, change.service.value, change.after.value)
        spawn(self._remember(change.node, change.service), name=f"remember {change.node}")
        if change.after is Health.SUSPECT:
            self._prober.look_at(change.node)
        self.node_changed()

    async def _remember(self, node: NodeId, service: Service) -> None:
        try:
            await self._registry.remember_state(node, service)
        except Unavailable as error:
            log.warning("a node's state cannot be stored now", node=node, reason=str(error))

    async def _pin_first(self, request: Request) -> dict[str, Any]:
        host = request.payload.get("host")
        try:
            node = await self._registry.pin_first(MailboxKey(str(request.payload["key"])), host)
        except UnknownNode as error:
            self._health.raise_alarm("directory.unknown_host", str(error))
            raise Refused(str(error)) from error
        return {"node": node}

    async def _move_wanted(self, request: Request) -> dict[str, Any]:
        payload = request.payload
        self._registry.move_requests.note(MailboxKey(payload["key"]), NodeId(payload["home"]), str(payload["host"]))
        return {}

    async def _want_map(self, request: Request) -> dict[str, Any]:
        for page in self._registry.full_push():
            self._channel.push("map", page, request.peer)
        return {}

    async def _mailbox_full(self, request: Request) -> dict[str, Any]:
        self.mailbox_full(MailboxKey(str(request.payload["key"])))
        return {}

    def mailbox_full(self, key: MailboxKey) -> None:
        """A node said that this mailbox has no room: tell all workers, so that none takes more mail for it now."""
        self._channel.push("mailbox_full", {"key": key})

    async def _suspect(self, request: Request) -> dict[str, Any]:
        payload, states = request.payload, self._registry.states
        node, service = NodeId(payload["node"]), Service(payload["service"])
        now_s = asyncio.get_running_loop().time()
        states.suspected_by_worker(node, service, now_s, printable(str(payload["reason"])))
        self._prober.look_at(node)
        return {}

    async def _check_nodes(self, request: Request) -> dict[str, Any]:
        """Would this configuration lose something? Asked by the supervisor before a reload."""
        try:
            config = parse(str(request.payload["text"]), Path(str(request.payload["path"])))
            held: dict[NodeId, dict[str, int]] = {}
            for (holder, _home, state), count in (await self._handoffs.counts()).items():
                if state in (HandoffState.STORED, HandoffState.DRAINING, HandoffState.HELD):
                    at_holder = held.setdefault(holder, {})
                    at_holder["handed-off copies"] = at_holder.get("handed-off copies", 0) + count
            for node, count in (await self._queue.unknown_counts()).items():
                held.setdefault(node, {})["messages of unknown outcome"] = count
            self._registry.check_nodes(config.node, config.storage.cluster, held)
        except ConfigError as error:
            return {"problems": list(error.problems)}
        return {"problems": []}

    async def _filter_breaker(self, request: Request) -> dict[str, Any]:
        """A worker has stopped calling a scanner's host, or calls it again."""
        payload = request.payload
        self.filter_health.note(
            request.peer.name,
            str(payload["filter"]),
            str(payload["host"]),
            str(payload["reason"]) if payload["is_open"] else None,
        )
        return {}

    async def _alarm(self, request: Request) -> dict[str, Any]:
        payload = request.payload
        said = payload["details"]
        details = {name: printable(str(said[name])) for name in ("node", "id", "mailbox") if name in said}
        self._health.raise_alarm(str(payload["name"]), str(payload["text"]), quiet_s=DEFAULT_QUIET_S, **details)
        return {}
