"""Which words on the admin socket reach which service: the one table between `socket` and the services.

queue.list|show|stats|check|retry|hold|release|bounce|delete|redirect   queue.export|piece
queue.import_note|import_begin|import_piece|import   node.list|drain|maintenance|activate   ring.show|explain
directory.lookup   filter.list|test   trace.show   health.show   config.show   session.list|kick   user.where|kick
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mailfront.admin.filters import FilterService
from mailfront.admin.lookups import DirectoryService
from mailfront.admin.nodes import VERB_STATES, NodeService
from mailfront.admin.queue_exchange import ImportNote, ImportPiece, ImportRequest, QueueExchange
from mailfront.admin.queues import QueueService
from mailfront.admin.requests import (
    AddressRequest,
    ChangeRequest,
    CheckRequest,
    ExportRequest,
    FilterTestRequest,
    KickRequest,
    ListRequest,
    NodeRequest,
    Nothing,
    PieceRequest,
    RedirectRequest,
    SessionListRequest,
    ShowRequest,
    TraceRequest,
    UserKickRequest,
    read,
)
from mailfront.admin.rings import RingService
from mailfront.admin.running import ConfigService, HealthService
from mailfront.admin.sessions import SessionService
from mailfront.admin.socket import Call, Handler
from mailfront.admin.traces import TraceService
from mailfront.queue.operations import Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All services of a running server."""

    queue: QueueService
    exchange: QueueExchange
    nodes: NodeService
    ring: RingService
    directory: DirectoryService
    filters: FilterService
    trace: TraceService
    health: HealthService
    config: ConfigService
    sessions: SessionService


def handlers(services: Services) -> dict[str, Handler]:
    """The handlers to give to `AdminServer`."""
    table: dict[str, Handler] = {
        "queue.list": lambda call: services.queue.list(read(ListRequest, call.arguments)),
        "queue.show": lambda call: services.queue.look(read(ShowRequest, call.arguments), uid=call.uid),
        "queue.stats": _without_arguments(services.queue.stats),
        "queue.check": lambda call: services.queue.check(read(CheckRequest, call.arguments), progress=call.progress),
        "queue.export": lambda call: services.queue.give(read(ExportRequest, call.arguments), uid=call.uid),
        "queue.piece": lambda call: services.queue.piece(read(PieceRequest, call.arguments)),
        "queue.import_note": lambda call: services.exchange.note(read(ImportNote, call.arguments), uid=call.uid),
        "queue.import_begin": lambda call: services.exchange.begin(read(ImportRequest, call.arguments)),
        "queue.import_piece": lambda call: services.exchange.put(read(ImportPiece, call.arguments)),
        "queue.import": lambda call: services.exchange.commit(read(ImportRequest, call.arguments), uid=call.uid),
        "node.list": _without_arguments(services.nodes.list),
        "ring.show": _without_arguments(services.ring.show),
        "ring.explain": lambda call: services.ring.explain(read(AddressRequest, call.arguments).address),
        "directory.lookup": lambda call: services.directory.lookup(read(AddressRequest, call.arguments).address),
        "filter.list": _without_arguments(services.filters.list),
        "filter.test": lambda call: services.filters.test(read(FilterTestRequest, call.arguments)),
        "trace.show": lambda call: services.trace.show(read(TraceRequest, call.arguments).wanted),
        "health.show": _at_once(services.health.show),
        "config.show": _at_once(services.config.show),
        "session.list": lambda call: services.sessions.list(read(SessionListRequest, call.arguments)),
        "session.kick": partial(_kick_sessions, services.sessions),
        "user.where": lambda call: services.sessions.where(read(AddressRequest, call.arguments).address),
        "user.kick": partial(_kick_user, services.sessions),
    }
    for verb in Verb:
        table[f"queue.{verb.value}"] = partial(_change_queue, services.queue, verb)
    for name in VERB_STATES:
        table[f"node.{name}"] = partial(_change_node, services.nodes, name)
    return table


def _without_arguments(method: Callable[[], Awaitable[Any]]) -> Handler:
    async def handle(call: Call) -> Any:
        read(Nothing, call.arguments)
        return await method()

    return handle


def _at_once(method: Callable[[], Any]) -> Handler:
    async def handle(call: Call) -> Any:
        read(Nothing, call.arguments)
        return method()

    return handle


async def _change_queue(service: QueueService, verb: Verb, call: Call) -> Any:
    model = RedirectRequest if verb is Verb.REDIRECT else ChangeRequest
    return await service.change(verb, read(model, call.arguments), uid=call.uid, progress=call.progress)


async def _change_node(service: NodeService, verb: str, call: Call) -> Any:
    request = read(NodeRequest, call.arguments)
    return await service.change(verb, request.node, reason=request.reason, uid=call.uid)


async def _kick_sessions(service: SessionService, call: Call) -> Any:
    return await service.kick(read(KickRequest, call.arguments), uid=call.uid, progress=call.progress)


async def _kick_user(service: SessionService, call: Call) -> Any:
    return await service.kick_user(read(UserKickRequest, call.arguments), uid=call.uid, progress=call.progress)
