"""A worker: serves SMTP and LMTP, delivers over LMTP, lets people log in, shares nothing with the other workers.

Started by the supervisor as `python -m mailfront.app.worker`. It is ready when the keeper's map has arrived and every
listener accepts. SIGTERM, or the end of the supervisor, drains it: no new clients, open messages are finished, what was
committed is settled, sessions are let go. SIGUSR1 (a reload: newer workers serve) does the same, but clients that are
connected may still log in for a moment, and sessions go on as long as they last. It writes nothing to disk except large
bodies in unlinked temporary files, and events.
"""

import asyncio
import gc
import signal
import socket
import sys
from typing import Any

import uvloop

from mailfront.app.addresses import checked_address
from mailfront.app.assignment import Assignment, ReadyLine, read_assignment
from mailfront.app.child import RETIRE_SIGNAL, watch_lifeline
from mailfront.app.filters import filter_surroundings
from mailfront.app.keeper_news import KeeperNews
from mailfront.app.locator import WorkerLocator
from mailfront.app.nodes import NodeEvidence, endpoints, route_endpoints, worker_connections
from mailfront.app.process_log import start_process_log
from mailfront.app.worker_sessions import WorkerSessions
from mailfront.base.clock import SystemClock
from mailfront.base.errors import MailfrontError
from mailfront.base.secret import read_secret_file
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.node_states import Health
from mailfront.cluster.node_table import NodeStateTable, StateChange
from mailfront.cluster.placement import MapReceiver
from mailfront.config.load import parse
from mailfront.config.model import Configuration
from mailfront.delivery.evidence import NoEvidence
from mailfront.delivery.route_check import RouteCheck
from mailfront.delivery.transaction import Delivery
from mailfront.directory.directory import Directory
from mailfront.edge.server import EdgeServer
from mailfront.filters.chain import build_chain
from mailfront.intake.fanout import Fanout, HandoffPlan
from mailfront.intake.filtering import Screening
from mailfront.intake.full_mailboxes import FullMailboxes
from mailfront.intake.kept import Keeping
from mailfront.intake.recipients import Recipients
from mailfront.intake.transaction import Intake, IntakePolicy
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.routes import RouteTable
from mailfront.net.body import BodyBudget
from mailfront.net.channel import Channel
from mailfront.net.connections import ConnectionTable
from mailfront.net.tls import ServerTls, node_context
from mailfront.observe import log
from mailfront.queue.client import QueueClient

FIRST_MAP_WITHIN_S = 30.0
KEEPER_SOCKET = "keeper.sock"
GRACE_S = 30.0
LOGIN_PATIENCE_S = 3.0
"""After a reload, for clients that are connected and have not logged in yet. Later ones are sent to the new workers."""


class Worker:
    """All parts of one worker, joined."""

    def __init__(self, orders: Assignment, config: Configuration, ready: ReadyLine) -> None:
        self._orders = orders
        self._ready = ready
        self._config = config
        self._clock = SystemClock()
        self._stop = asyncio.Event()
        self._retire = asyncio.Event()
        self._node_size_limit_bytes = 0
        runtime_dir = config.server.runtime_dir
        self._keeper = Channel(str(runtime_dir / KEEPER_SOCKET), f"worker-{orders.index}")
        self._news = KeeperNews(self._keeper, self._clock)
        self._received = MapReceiver()
        self._map_arrived = asyncio.Event()
        nodes = [NodeId(node.id) for node in config.node]
        self._states = NodeStateTable(nodes, self._state_changed)
        self._queue = QueueClient(self._keeper, self._clock)
        self._directory = Directory(config.directory, state_dir=config.server.state_dir, clock=self._clock)
        self._delivery = Delivery(
            endpoints(config, lambda node: worker_connections(node, config.server.workers)),
            client_name=config.server.hostname,
            settings=config.delivery,
            tls_context=node_context(config.node_tls),
            evidence=NodeEvidence(self._states, self._clock, self._news),
        )
        self._to_routes = Delivery(
            route_endpoints(config),
            client_name=config.server.hostname,
            settings=config.delivery,
            tls_context=node_context(config.node_tls),
            evidence=NoEvidence(),
        )
        self._route_check = RouteCheck(
            self._to_routes, [route.hop for route in config.route if route.verify], self._clock
        )
        self._locator = WorkerLocator(
            self._received, self._states, self._keeper, self._news, self._clock, config.storage.secondaries
        )
        self._chain = build_chain(config.filter, filter_surroundings(config, self._clock, self._news, self._keeper))
        self._tls = ServerTls(config.tls) if config.tls is not None else None
        listening: dict[int, list[socket.socket]] = {}
        for index, fd in orders.listeners:
            listening.setdefault(index, []).append(socket.socket(fileno=fd))
        self._full = FullMailboxes(self._clock, lambda key: self._news.tell("mailbox_full", key, {"key": key}))
        self._servers = self._make_servers(self._make_intake(), listening)
        self._sessions = WorkerSessions(
            config,
            orders,
            listening,
            keeper=self._keeper,
            accounts=self._directory,
            locator=self._locator,
            states=self._states,
            news=self._news,
            clock=self._clock,
            tls=self._tls,
        )

    def _make_intake(self) -> Intake:
        config = self._config
        storage = config.storage
        postmaster, handoff_mailbox = checked_address(config.postmaster.address), None
        handoff = None
        if storage.handoff_mailbox is not None:
            handoff_mailbox = checked_address(storage.handoff_mailbox)
        if storage.secondaries and storage.handoff_mailbox is not None and storage.secret_file is not None:
            handoff = HandoffPlan(mailbox=storage.handoff_mailbox, secret=read_secret_file(storage.secret_file))
        return Intake(
            Recipients(
                self._directory,
                self._locator,
                self._news,
                local_domains=frozenset(config.domains.local),
                postmaster=postmaster,
                node_user=storage.node_user,
                handoff_mailbox=handoff_mailbox,
                routes=RouteTable(route.name for route in config.route),
                route_check=self._route_check.refusal,
                relays=config.outbound.smarthost is not None,
                most_members=config.directory.max_members,
                is_full=self._full.is_full,
            ),
            Fanout(self._delivery, self._locator, self._queue, handoff),
            self._queue,
            Keeping(
                self._queue,
                self._clock,
                first_retry_s=config.queue.retry[0],
                lifetime_s=config.queue.lifetime,
            ),
            IntakePolicy(
                hostname=config.server.hostname,
                deadline_s=config.intake.deadline,
                max_received=config.intake.max_received,
            ),
            self._clock,
            Screening(self._chain, config.server.hostname) if self._chain.steps else None,
            self._full,
        )

    def _make_servers(self, intake: Intake, listening: dict[int, list[socket.socket]]) -> list[EdgeServer]:
        config, limits = self._config, self._config.limits
        admission = ConnectionTable(
            self._orders.table_fd,
            self._orders.index,
            total_limit=limits.connections,
            per_ip_limit=limits.connections_per_ip,
        )
        budget = BodyBudget(
            memory_bytes=limits.body_memory,
            disk_bytes=limits.body_disk // config.server.workers,
            spool_dir=config.server.spool_dir,
        )
        servers = []
        for index, bound in listening.items():
            if config.listen[index].role not in ("smtp", "lmtp"):
                continue
            servers.append(
                EdgeServer(
                    config.listen[index],
                    bound,
                    hostname=config.server.hostname,
                    intake=intake,
                    admission=admission,
                    budget=budget,
                    limits=limits,
                    tls=self._tls,
                    node_size_limit_bytes=lambda: self._node_size_limit_bytes,
                )
            )
        return servers

    async def run(self) -> None:
        """Serve until told to stop, then drain."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log.handle_loop_exception)
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(RETIRE_SIGNAL, self._retire.set)
        watch_lifeline(self._orders.lifeline_fd, self._stop.set)
        self._keeper.on_push("map", self._map_pushed)
        self._keeper.on_push("nodes", self._nodes_pushed)
        self._keeper.on_push("mailbox_full", lambda push: self._full.note(MailboxKey(str(push["key"]))))
        self._keeper.start()
        await self._directory.open()
        await self._chain.start()
        async with asyncio.timeout(FIRST_MAP_WITHIN_S):
            await self._map_arrived.wait()
        for server in self._servers:
            await server.start()
        await self._sessions.start()
        # What lives now lives as long as the process: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        self._ready.serving()
        retiring = spawn(self._retire_when_told(), name="retire")
        await self._stop.wait()
        await cancel_and_wait(retiring)
        await self._drain()

    async def _retire_when_told(self) -> None:
        """After a reload newer workers serve: take nobody in any more, and end when the last session has."""
        await self._retire.wait()
        draining = [spawn(server.drain(GRACE_S), name="drain") for server in self._servers]
        await self._sessions.retire(LOGIN_PATIENCE_S)
        self._ready.takes_nobody_in()
        await asyncio.gather(self._sessions.stop_accepting(GRACE_S), *draining)
        await self._sessions.all_ended()
        self._stop.set()

    async def _stop_accepting(self) -> None:
        await asyncio.gather(
            self._sessions.stop_accepting(GRACE_S), *(server.drain(GRACE_S) for server in self._servers)
        )

    async def _drain(self) -> None:
        grace_s = GRACE_S
        await self._stop_accepting()
        await self._sessions.close(grace_s)
        await self._chain.close()
        await self._delivery.close(grace_s)
        await self._to_routes.close(grace_s)
        await self._queue.close()
        await self._directory.close()
        await self._keeper.close()

    def _nodes_pushed(self, push: dict[str, Any]) -> None:
        self._states.adopt(push, self._clock.monotonic_s())
        self._sessions.nodes_changed()
        self._node_size_limit_bytes = int(push["size_limit_bytes"])

    def _map_pushed(self, page: dict[str, object]) -> None:
        if not self._received.receive(page):
            self._news.tell("want_map", "", {})
        elif self._received.current is not None:
            self._map_arrived.set()

    def _state_changed(self, change: StateChange) -> None:
        """Tell the keeper what this worker found out by itself; what came from the keeper it knows."""
        self._sessions.nodes_changed()
        if change.after is Health.SUSPECT and self._states.state(change.node, change.service).local:
            payload = {"node": change.node, "service": change.service.value, "reason": change.reason}
            self._news.tell("suspect", f"{change.node} {change.service.value}", payload)


def main() -> int:
    """Run one worker by the supervisor's orders. Returns the exit status."""
    orders = read_assignment()
    ready = ReadyLine(orders)
    config = parse(orders.config_text, orders.path)
    start_process_log(f"worker-{orders.index}", config)

    async def serve() -> None:
        await Worker(orders, config, ready).run()

    try:
        uvloop.run(serve())
    except (MailfrontError, TimeoutError, OSError) as error:
        ready.failed(str(error) or "the keeper sent no map in time")
        return 1
    finally:
        log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
