"""The administrator's verbs, joined with the parts of the running keeper."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailfront.admin.audit import Audit
from mailfront.admin.lookups import DirectoryService
from mailfront.admin.nodes import VERB_STATES, NodeService
from mailfront.admin.queues import QueueService
from mailfront.admin.rings import RecipientPolicy, RingService
from mailfront.admin.running import ConfigService, HealthService, RunningConfiguration, TraceService
from mailfront.admin.socket import Call, Handler
from mailfront.admin.verbs import Services, handlers
from mailfront.app.homes import CurrentHomes
from mailfront.cluster.registry import PlacementRegistry
from mailfront.config.model import Configuration
from mailfront.directory.directory import Directory
from mailfront.mail.address import Address, parse_path
from mailfront.queue.handoff_rows import HandoffTable
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
    changed: Callable[[], None]


def admin_handlers(parts: AdminParts) -> dict[str, Handler]:
    """The handlers for the admin socket."""
    config, clock, registry = parts.config, parts.store.clock, parts.registry
    views = QueueViews(parts.store, CurrentHomes(registry))
    queue = QueueService(views, QueueOperations(parts.queue, views), clock)
    local_domains = frozenset(config.domains.local)
    running = RunningConfiguration(path=parts.config_path, text=parts.config_text, loaded_s=clock.wall_s())
    table = handlers(
        Services(
            queue=queue,
            nodes=NodeService(registry, lambda: config.node, parts.handoffs.counts, Audit(parts.store)),
            ring=RingService(parts.directory, registry, recipient_policy(config)),
            directory=DirectoryService(parts.directory, local_domains=local_domains),
            trace=TraceService(config.server.events_dir, queue.find),
            health=parts.health,
            config=ConfigService(lambda: running),
        )
    )
    for verb in (*(f"queue.{verb.value}" for verb in Verb), *(f"node.{name}" for name in VERB_STATES)):
        table[verb] = _then(table[verb], parts.changed)
    return table


def recipient_policy(config: Configuration) -> RecipientPolicy:
    """What decides about a recipient besides the directory."""
    storage = config.storage
    return RecipientPolicy(
        local_domains=frozenset(config.domains.local),
        postmaster=checked_address(config.postmaster.address),
        node_user=storage.node_user,
        handoff_mailbox=None if storage.handoff_mailbox is None else checked_address(storage.handoff_mailbox),
        secondaries_count=storage.secondaries,
    )


def checked_address(text: str) -> Address:
    """An address that the settings have checked already."""
    address = parse_path(text)
    assert address is not None
    return address


def _then(handler: Handler, changed: Callable[[], None]) -> Handler:
    async def handle(call: Call) -> Any:
        answer = await handler(call)
        changed()
        return answer

    return handle
