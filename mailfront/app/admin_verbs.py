"""The administrator's verbs, joined with the parts of the running keeper."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailfront.admin.audit import Audit
from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.filters import FilterService
from mailfront.admin.lookups import DirectoryService
from mailfront.admin.nodes import VERB_STATES, NodeService
from mailfront.admin.queue_exchange import QueueExchange
from mailfront.admin.queues import QueueService
from mailfront.admin.rings import LookingOnly, RecipientPolicy, RingService, looking
from mailfront.admin.running import ConfigService, HealthService, RunningConfiguration
from mailfront.admin.sessions import SessionService
from mailfront.admin.socket import Call, Handler
from mailfront.admin.traces import TraceService
from mailfront.admin.verbs import Services, handlers
from mailfront.app.addresses import checked_address
from mailfront.app.homes import CurrentHomes
from mailfront.app.session_desk import SessionDesk
from mailfront.cluster.registry import PlacementRegistry
from mailfront.config.model import Configuration
from mailfront.directory.directory import Directory
from mailfront.mail.address import Address
from mailfront.mail.names import NodeId
from mailfront.mail.routes import RouteTable
from mailfront.queue.exports import QueueExport
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.imports import Places, QueueImport
from mailfront.queue.operations import QueueOperations, Verb
from mailfront.queue.queue import Queue
from mailfront.queue.views import QueueViews
from mailfront.store.writer import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParts:
    """What the verbs work on. `changed` is called after a verb that changed rows or nodes."""

    config: Configuration
    config_path: str
    config_text: str
    store: Store
    queue: Queue
    handoffs: HandoffTable
    registry: PlacementRegistry
    directory: Directory
    health: HealthService
    hops: frozenset[NodeId]
    sessions: SessionDesk
    filters: FilterService
    changed: Callable[[], None]


def admin_handlers(parts: AdminParts) -> dict[str, Handler]:
    """The handlers for the admin socket."""
    config, clock, registry = parts.config, parts.store.clock, parts.registry
    audit = Audit(parts.store)
    ring = RingService(parts.directory, registry, recipient_policy(config))
    views = QueueViews(parts.store, CurrentHomes(registry))
    queue = QueueService(
        views,
        QueueExport(parts.store, views),
        QueueOperations(parts.queue, views),
        clock,
        audit=audit,
        check_target=RedirectionTarget(ring, config),
    )
    places = Places({*(NodeId(node.id) for node in config.node), *parts.hops}, lambda key: registry.map.bucket(key))
    exchange = QueueExchange(QueueImport(parts.queue, places), cluster=config.storage.cluster, clock=clock)
    local_domains = frozenset(config.domains.local)
    running = RunningConfiguration(path=parts.config_path, text=parts.config_text, loaded_s=clock.wall_s())
    table = handlers(
        Services(
            queue=queue,
            exchange=exchange,
            nodes=NodeService(registry, lambda: config.node, parts.handoffs.counts, audit),
            ring=ring,
            directory=DirectoryService(
                parts.directory,
                looking(parts.directory, LookingOnly(registry.map), recipient_policy(config)),
                local_domains=local_domains,
            ),
            filters=parts.filters,
            trace=TraceService(config.server.events_dir, queue.find, queue.rows_of),
            health=parts.health,
            config=ConfigService(lambda: running),
            sessions=SessionService(
                parts.sessions.register, parts.sessions.kick, ring.explain, lambda: registry.map, audit, clock
            ),
        )
    )
    for verb in (*(f"queue.{verb.value}" for verb in Verb), "queue.import", *(f"node.{name}" for name in VERB_STATES)):
        table[verb] = _then(table[verb], parts.changed)
    return table


class RedirectionTarget:
    """Whether mail can be redirected to an address, by the rules of RCPT; an address that is neither ours nor a
    route's needs the smarthost."""

    def __init__(self, ring: RingService, config: Configuration) -> None:
        self._ring = ring
        self._has_smarthost = config.outbound.smarthost is not None
        self._local_domains = frozenset(config.domains.local)
        self._routes = recipient_policy(config).routes or RouteTable(())

    async def __call__(self, address: Address) -> None:
        """Raises AdminError with the reply that RCPT would get."""
        is_outside = address.domain and address.domain not in self._local_domains
        if is_outside and self._routes.find(address) is None:
            if not self._has_smarthost:
                raise AdminError(f"{address} is outside, and no outbound.smarthost is set to send it through")
            return
        found = await self._ring.explain(str(address))
        if not found.accepted:
            kind = Kind.LATER if found.reply.startswith("4") else Kind.FAILED
            raise AdminError(f"nothing is redirected: {found.reply}", kind)


def recipient_policy(config: Configuration) -> RecipientPolicy:
    """What decides about a recipient besides the directory."""
    storage = config.storage
    return RecipientPolicy(
        local_domains=frozenset(config.domains.local),
        postmaster=checked_address(config.postmaster.address),
        node_user=storage.node_user,
        handoff_mailbox=None if storage.handoff_mailbox is None else checked_address(storage.handoff_mailbox),
        secondaries_count=storage.secondaries,
        routes=RouteTable(route.name for route in config.route),
        relays=config.outbound.smarthost is not None,
        most_members=config.directory.max_members,
    )


def _then(handler: Handler, changed: Callable[[], None]) -> Handler:
    async def handle(call: Call) -> Any:
        answer = await handler(call)
        changed()
        return answer

    return handle
