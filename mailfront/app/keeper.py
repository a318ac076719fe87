"""The keeper: the one process that writes the database, and everything that needs it.

Started by the supervisor as `python -m mailfront.app.keeper`. Order at start: database (and its migrations), map, rows,
worker socket, prober, runner and drain, admin socket; then it is ready. SIGTERM drains it: nothing new is begun,
attempts under way are finished within the grace, what is left is found as unknown by the next keeper.

What survives a crash: the database. Workers reconnect by themselves and ask again for what was not answered.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import Any

import uvloop

from mailfront import __version__
from mailfront.admin.http import HttpServer, application
from mailfront.admin.running import HealthService
from mailfront.admin.socket import AdminServer
from mailfront.app.admin_verbs import AdminParts, admin_handlers
from mailfront.app.assignment import Assignment, ReadyLine, read_assignment
from mailfront.app.child import watch_lifeline
from mailfront.app.filters import keeper_filters
from mailfront.app.health_watch import HealthWatch
from mailfront.app.homes import MapHomes
from mailfront.app.housekeeping import Housekeeping
from mailfront.app.next_hops import make_next_hops, next_hops, notice_policy
from mailfront.app.nodes import NodeEvidence, RouteEvidence, endpoints, keeper_connections, route_endpoints
from mailfront.app.process_log import start_process_log
from mailfront.app.session_desk import SessionDesk, session_looks
from mailfront.app.worker import KEEPER_SOCKET
from mailfront.app.worker_desk import WorkerDesk
from mailfront.base.clock import SystemClock
from mailfront.base.errors import ConfigError, MailfrontError
from mailfront.base.secret import read_secret_file
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.registry import PlacementRegistry
from mailfront.config.load import parse
from mailfront.config.model import Configuration
from mailfront.delivery.relay import Relay
from mailfront.delivery.transaction import Delivery
from mailfront.directory.directory import Directory
from mailfront.directory.settings import LdapSettings
from mailfront.filters.counting.service import CounterService
from mailfront.mail.names import NodeId
from mailfront.mail.next_hop import RELAY
from mailfront.net.body import BodyBudget
from mailfront.net.channel import ChannelServer
from mailfront.net.tls import node_context
from mailfront.observe import log, metrics
from mailfront.observe.health import HealthTable
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.queue import Queue
from mailfront.queue.service import QueueService, owner_of
from mailfront.store.writer import Store
from mailfront.transfer.copies import HandoffCopies
from mailfront.transfer.drain import HandoffDrain
from mailfront.transfer.imap_wire import ImapEndpoint
from mailfront.transfer.node_imap import Login, MasterSearch, NodeImap
from mailfront.transfer.prober import Prober
from mailfront.transfer.runner import QueueRunner
from mailfront.transfer.scan import HandoffScan

LEASE_S = 900.0
LEASE_BEYOND_FINAL_S = 300.0
"""How much of a lease there is for all that comes before the final dot; the rest is for the node's answer to it."""
GRACE_S = 15.0


class KeeperBroken(MailfrontError):
    """A part that must run for ever has ended: this process is of no use any more."""


class Keeper:
    """All parts of the keeper, joined. Made by `open`."""

    def __init__(self, orders: Assignment, config: Configuration, store: Store, registry: PlacementRegistry) -> None:
        clock = store.clock
        self._orders, self._config, self._store, self._registry = orders, config, store, registry
        self._health = HealthTable(clock)
        self._stop = asyncio.Event()
        self._is_orphan = False
        self._peers_count = 0
        self._owner = owner_of(os.getpid())
        context = node_context(config.node_tls)
        final_timeout_s = max(config.delivery.final_timeout, config.outbound.final_timeout)
        # What is committed before its fan-out has its lease from then on.
        lease_s = lease_for(config.intake.deadline + final_timeout_s)
        self._directory = Directory(
            config.directory, state_dir=config.server.state_dir, clock=clock, keeps_snapshot=True
        )
        self._delivery = Delivery(
            endpoints(config, keeper_connections),
            client_name=config.server.hostname,
            settings=config.delivery,
            tls_context=context,
            evidence=NodeEvidence(registry.states, clock, self._health),
        )
        self._queue = Queue(
            store,
            MapHomes(registry.map, next_hops(config)),
            retry_s=config.queue.retry,
            alarm=self._health.raise_alarm,
            notices=notice_policy(config),
            lease_s=lease_s,
        )
        self._handoffs = HandoffTable(store, retry_s=config.queue.retry, lease_s=lease_s)
        self._imap = _node_imap(config, context)
        nodes = [NodeId(node.id) for node in config.node]
        self._prober = Prober(
            nodes,
            registry.states,
            self._delivery,
            self._imap,
            clock,
            config.storage.handoff_mailbox,
            session_looks(config, context),
        )
        self._relay = _relay(config)
        self._to_routes = Delivery(
            route_endpoints(config),
            client_name=config.server.hostname,
            settings=config.delivery,
            tls_context=context,
            evidence=RouteEvidence(self._health),
        )
        self._runner = QueueRunner(
            self._queue,
            self._delivery,
            registry.states,
            MasterSearch(self._imap),
            clock,
            owner=self._owner,
            # New mail keeps half of what the runner is told, so this is exactly the keeper's own connections.
            slots={NodeId(node.id): 2 * keeper_connections(node) for node in config.node},
            hops=make_next_hops(
                config, self._queue, self._directory, registry, self._health, self._relay, self._to_routes
            ),
            alarms=self._health,
            mailbox_full=lambda key: self._desk.mailbox_full(key),
            lease_s=lease_s,
            final_timeout_s=final_timeout_s,
        )
        self._drain, self._scan = self._make_drain(nodes)
        self._channel = ChannelServer(
            str(config.server.runtime_dir / KEEPER_SOCKET), {}, on_peer=self._peer_came, on_peer_gone=self._peer_gone
        )
        # Not the drain: it would count all copies after every message that is queued or settled.
        self._service = QueueService(self._queue, self._handoffs, self._runner.wake)
        self._desk = WorkerDesk(
            self._channel,
            registry,
            self._queue,
            self._handoffs,
            self._health,
            self._prober,
            self._delivery,
            hops=next_hops(config),
            wake=self._wake,
        )
        self._sessions = SessionDesk(self._channel)
        self._filters = keeper_filters(config, self._desk.filter_health, self._directory, clock)
        self._counters = CounterService(store)
        self._watch = HealthWatch(self._health, registry, store, self._directory, self._handoffs, config)
        self._housekeeping = Housekeeping(
            store, self._queue, self._handoffs, config, owner=self._owner, wake=self._wake
        )
        self._http: HttpServer | None = None
        self._admin: AdminServer | None = None

    @classmethod
    async def open(cls, orders: Assignment, config: Configuration) -> "Keeper":
        """Open the database and everything above it. Raises ConfigError and StoreFailed, each with what to do."""
        clock = SystemClock()
        store = Store.open(
            config.server.state_url,
            clock,
            free_space_bytes=config.limits.free_space,
            max_bytes=config.queue.max_bytes,
        )
        try:
            directory = config.directory
            registry = await PlacementRegistry.open(
                store,
                clock,
                cluster=config.storage.cluster,
                nodes=config.node,
                first_placements=isinstance(directory, LdapSettings) and directory.attributes.host is not None,
                mailbox_key=_mailbox_key(config),
            )
        except BaseException:
            await store.close()
            raise
        return cls(orders, config, store, registry)

    def _make_drain(self, nodes: list[NodeId]) -> tuple[HandoffDrain | None, HandoffScan | None]:
        storage, limits = self._config.storage, self._config.limits
        if storage.secret_file is None or self._imap.handoff is None:
            return None, None
        budget = BodyBudget(
            memory_bytes=limits.body_memory, disk_bytes=limits.body_disk, spool_dir=self._config.server.spool_dir
        )
        copies = HandoffCopies(read_secret_file(storage.secret_file), budget)
        drain = HandoffDrain(
            self._handoffs,
            copies,
            self._imap,
            self._delivery,
            self._registry.states,
            lambda: self._registry.map,
            self._store.clock,
            owner=self._owner,
            alarm=self._health.raise_alarm,
        )
        scan = HandoffScan(
            nodes,
            self._handoffs,
            copies,
            self._imap,
            self._registry.states,
            lambda: self._registry.map,
            alarm=self._health.raise_alarm,
            adopted=drain.wake,
        )
        return drain, scan

    async def run(self, ready: ReadyLine) -> None:
        """Serve until told to stop, then drain."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log.handle_loop_exception)
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        await self._queue.look_up_lost({RELAY, *next_hops(self._config)})
        await self._queue.load()
        await self._directory.open()
        self._service.serve(self._channel)
        self._desk.serve()
        self._sessions.serve()
        await self._counters.load()
        self._counters.serve(self._channel)
        self._channel.start()
        await self._service.start()
        work: list[Coroutine[Any, Any, None]] = [
            self._prober.run(),
            self._runner.run(),
            self._desk.run(),
            self._watch.run(),
            self._housekeeping.run(),
            self._counters.run(),
            self._store.ended(),
        ]
        work += [part.run() for part in (self._drain, self._scan) if part is not None]
        tasks = [spawn(coroutine, name=f"keeper part {number}") for number, coroutine in enumerate(work)]
        self._open_doors()
        # When the supervisor is gone the workers drain too, and they need the keeper to the last.
        watch_lifeline(self._orders.lifeline_fd, self._supervisor_gone)
        ready.serving()
        stop = spawn(self._stop.wait(), name="stop")
        await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        is_broken = any(task.done() for task in tasks)
        await self._end(tasks)
        if is_broken:
            raise KeeperBroken("a part of the keeper ended; its reason is in the log, the supervisor starts another")

    def _supervisor_gone(self) -> None:
        """End with the last worker: a supervisor that is started anew needs our database and our sockets."""
        self._is_orphan = True
        asyncio.get_running_loop().call_later(GRACE_S, self._stop.set)
        self._stop_if_alone()

    def _stop_if_alone(self) -> None:
        if self._is_orphan and not self._peers_count:
            self._stop.set()

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        await self._runner.drain(GRACE_S)
        await cancel_and_wait(*tasks)
        if self._admin is not None:
            await self._admin.close()
        await self._filters.close()
        if self._http is not None:
            await self._http.close()
        self._channel.close()
        await self._service.close()
        await self._counters.close()
        await self._delivery.close(1.0)
        await self._to_routes.close(1.0)
        if self._relay is not None:
            await self._relay.close()
        await self._directory.close()
        await self._store.close()

    def _open_doors(self) -> None:
        health = HealthService(
            self._health, self._registry.move_requests.current, self._store.clock, version=__version__
        )
        listening = [socket.socket(fileno=fd) for _, fd in self._orders.listeners]
        if listening:
            self._http = HttpServer(application(metrics.render, health.for_http))
            self._http.start(listening)
        parts = AdminParts(
            config=self._config,
            config_path=self._orders.config_path,
            config_text=self._orders.config_text,
            store=self._store,
            queue=self._queue,
            handoffs=self._handoffs,
            registry=self._registry,
            directory=self._directory,
            health=health,
            hops=next_hops(self._config),
            sessions=self._sessions,
            filters=self._filters,
            changed=self._desk.node_changed,
        )
        self._admin = AdminServer(admin_handlers(parts))
        self._admin.start(socket.socket(fileno=self._orders.admin_fd))

    def _peer_came(self, peer: Any) -> None:
        self._peers_count += 1
        self._service.peer_came(peer)
        self._desk.peer_came(peer)

    def _peer_gone(self, peer: Any) -> None:
        self._peers_count -= 1
        self._stop_if_alone()
        self._service.peer_gone(peer)
        self._sessions.peer_gone(peer)
        self._desk.peer_gone(peer)

    def _wake(self) -> None:
        self._runner.wake()
        if self._drain is not None:
            self._drain.wake()


def lease_for(final_timeout_s: float) -> float:
    """How long a claim holds without being renewed: no dot is sent with less than `final_timeout_s` of it left, and a
    worker's attempt, which nobody renews, must be over before its rows are called unknown."""
    return max(LEASE_S, final_timeout_s + LEASE_BEYOND_FINAL_S)


def _mailbox_key(config: Configuration) -> str:
    """What mailbox keys are made of, in words: it must never change under mailboxes that exist."""
    directory = config.directory
    made_of = "the static file's mailbox"
    if isinstance(directory, LdapSettings):
        names = directory.attributes
        made_of = f"the attribute {names.id or names.mailbox}"
        if names.id is not None:
            made_of += f" (else {names.mailbox})"
    return f"{made_of}, {'one namespace' if directory.one_namespace else 'per domain'}"


def _relay(config: Configuration) -> Relay | None:
    if config.outbound.smarthost is None:
        return None
    return Relay(config.outbound, client_name=config.server.hostname, strict_8bit=config.delivery.strict_8bit)


def _node_imap(config: Configuration, context: Any) -> NodeImap:
    storage = config.storage
    handoff = master = None
    if storage.handoff_mailbox is not None and storage.handoff_password_file is not None:
        handoff = Login(storage.handoff_mailbox, read_secret_file(storage.handoff_password_file))
    if storage.master_user is not None and storage.master_password_file is not None:
        master = Login(storage.master_user, read_secret_file(storage.master_password_file))
    endpoints_of = {NodeId(node.id): ImapEndpoint.of(node) for node in config.node}
    return NodeImap(endpoints_of, context, handoff=handoff, master=master)


def main() -> int:
    """Run the keeper by the supervisor's orders. Returns the exit status."""
    orders = read_assignment()
    ready = ReadyLine(orders)
    config = parse(orders.config_text, orders.path)
    start_process_log("keeper", config)

    async def serve() -> None:
        keeper = await Keeper.open(orders, config)
        await keeper.run(ready)

    try:
        uvloop.run(serve())
    except ConfigError as error:
        ready.failed("; ".join(error.problems))
        return 1
    except (MailfrontError, OSError) as error:
        ready.failed(str(error))
        return 1
    finally:
        log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
