"""The session part of one worker: its listeners, its session table, and the nodes as logins see them.

`nodes_changed` is called whenever anything about a node may be known anew: logins that wait look again, a node that
has come back gets its logins slowly at first, and one that was put into maintenance loses its sessions, spread over
seconds.
"""

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from functools import partial

from mailfront.app.addresses import checked_address
from mailfront.app.assignment import Assignment
from mailfront.app.keeper_news import KeeperNews
from mailfront.app.locator import WorkerLocator
from mailfront.app.session_desk import session_endpoints
from mailfront.base.backoff import jittered_s
from mailfront.base.clock import Clock
from mailfront.base.secret import read_secret_file
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.node_states import AdminState, Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import Placement
from mailfront.config.model import Configuration
from mailfront.directory.answers import DirectoryRecord
from mailfront.directory.directory import Directory
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.net.channel import Channel
from mailfront.net.connections import ConnectionTable
from mailfront.net.failures import FailureTable
from mailfront.net.tls import ServerTls, node_context
from mailfront.observe import log, metrics
from mailfront.sessions.abilities import Abilities
from mailfront.sessions.dialects import DIALECTS, Dialect
from mailfront.sessions.doors import Doors
from mailfront.sessions.flow import Logins, Master
from mailfront.sessions.glance import glance_at
from mailfront.sessions.listener import SessionListener
from mailfront.sessions.node import NodeTrouble
from mailfront.sessions.register import SessionRow
from mailfront.sessions.relay import Session
from mailfront.sessions.report import SessionReport
from mailfront.sessions.server import SessionServer
from mailfront.sessions.slowing import LoginSlowing
from mailfront.sessions.table import SessionTable

TICK_S = 1.0
LOOK_WITHIN_S = 10.0
LOOK_WHILE_UNKNOWN_S = 5.0
LOOK_EVERY_S = 600.0


class SessionNodes:
    """`sessions.port.Nodes` by the worker's map and node table."""

    def __init__(self, locator: WorkerLocator, states: NodeStateTable, news: KeeperNews, clock: Clock) -> None:
        self._locator = locator
        self._states = states
        self._news = news
        self._clock = clock

    async def locate(self, record: DirectoryRecord) -> Placement:
        """See `Nodes`."""
        return await self._locator.locate(record)

    def may_log_in(self, node: NodeId, service: Service) -> bool:
        """See `Nodes`."""
        return self._states.admit(node, service, self._clock.monotonic_s())

    def is_up(self, node: NodeId, service: Service) -> bool:
        """Whether a service is expected to work."""
        return self._states.is_up(node, service)

    def is_in_maintenance(self, node: NodeId) -> bool:
        """Whether the administrator has taken a node out of service."""
        return self._states.admin_state(node) is AdminState.MAINTENANCE

    def connect_failed(self, node: NodeId, service: Service, text: str) -> None:
        """See `Nodes`."""
        self._states.connect_failed(node, service, self._clock.monotonic_s(), text)

    def client_failed(self, node: NodeId, service: Service, client_ip: str, text: str) -> None:
        """See `Nodes`."""
        self._states.client_failed(node, service, client_ip, self._clock.monotonic_s(), text)

    def succeeded(self, node: NodeId, service: Service) -> None:
        """See `Nodes`."""
        self._states.succeeded(node, service, self._clock.monotonic_s())

    def alarm(self, name: str, text: str, *, node: str = "", mailbox: str = "") -> None:
        """See `Nodes`."""
        self._news.raise_alarm(name, text, node=node, mailbox=mailbox)


class WorkerSessions:
    """See the module. One per worker, also where no listener takes logins."""

    def __init__(
        self,
        config: Configuration,
        orders: Assignment,
        listening: Mapping[int, Sequence[socket.socket]],
        *,
        keeper: Channel,
        accounts: Directory,
        locator: WorkerLocator,
        states: NodeStateTable,
        news: KeeperNews,
        clock: Clock,
        tls: ServerTls | None,
    ) -> None:
        self._nodes = SessionNodes(locator, states, news, clock)
        self._node_ids = tuple(NodeId(node.id) for node in config.node)
        roles = {config.listen[index].role for index in listening} & DIALECTS.keys()
        self._dialects = [dialect for role, dialect in DIALECTS.items() if role in roles]
        self._up = dict.fromkeys(self._node_ids, True)
        self._in_maintenance: set[NodeId] = set()
        limits = config.limits
        admission = ConnectionTable(
            orders.sessions_table_fd,
            orders.index,
            total_limit=limits.sessions,
            per_ip_limit=limits.sessions_per_ip,
        )
        self.table = SessionTable(
            admission,
            log.emit,
            farewells={dialect.role: dialect.farewell for dialect in DIALECTS.values()},
            goodbyes={dialect.role: dialect.goodbye for dialect in DIALECTS.values()},
        )
        self._report = SessionReport(keeper, lambda: map(_row_of, self.table), self.table.kick)
        self.table.on_change = self._session_changed
        slowing = LoginSlowing(FailureTable(orders.failures_fd), config.login.shared_addresses, clock)
        self._doors = Doors(self._nodes, held_limit=config.login.held)
        self._abilities = abilities = Abilities(dict.fromkeys(DIALECTS, self._node_ids))
        self._endpoints = session_endpoints(config)
        self._context = node_context(config.node_tls)
        logins = self._make_logins(config, accounts)
        self._servers = [
            SessionServer(
                SessionListener(
                    settings=config.listen[index],
                    dialect=DIALECTS[config.listen[index].role],
                    hostname=config.server.hostname,
                    login=config.login,
                    logins=logins,
                    abilities=abilities,
                    admission=admission,
                    table=self.table,
                    slowing=slowing,
                    emit=log.emit,
                    loop=asyncio.get_running_loop(),
                    tls=tls,
                    tls_timeout_s=limits.tls_timeout,
                ),
                bound,
                per_ip_limit=limits.sessions_per_ip,
            )
            for index, bound in listening.items()
            if config.listen[index].role in DIALECTS
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def _make_logins(self, config: Configuration, accounts: Directory) -> Logins:
        storage, master = config.storage, None
        if config.login.send == "master" and storage.master_user and storage.master_password_file:
            master = Master(storage.master_user, read_secret_file(storage.master_password_file))
        return Logins(
            accounts,
            self._nodes,
            self._doors,
            self._abilities,
            self._endpoints,
            self._context,
            config.login,
            node_user=storage.node_user,
            master=master,
            handoff=checked_address(storage.handoff_mailbox) if storage.handoff_mailbox is not None else None,
        )

    async def start(self) -> None:
        """Begin to accept. Raises OSError."""
        if self._servers:
            self._tasks.append(spawn(self._keep_time(), name="sessions"))
            self._report.start()
        for dialect in self._dialects:
            if dialect.extras is None:
                self._tasks += [spawn(self._look(dialect, node), name=f"look at {node}") for node in self._node_ids]
        for server in self._servers:
            await server.start()

    def nodes_changed(self) -> None:
        """Something about the nodes may be known that was not."""
        for node in self._node_ids:
            up = all(self._nodes.is_up(node, dialect.service) for dialect in self._dialects)
            if up and not self._up[node]:
                self._doors.returned(node)
            self._up[node] = up
            if not self._nodes.is_in_maintenance(node):
                self._in_maintenance.discard(node)
            elif node not in self._in_maintenance:
                self._in_maintenance.add(node)
                self.table.leave_node(node, "maintenance")
        self._doors.changed()

    async def _keep_time(self) -> None:
        names: dict[str, tuple[NodeId, ...]] = {dialect.role: self._node_ids for dialect in self._dialects}
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            self.table.tick(loop.time())
            self.table.tell_metrics(names)
            metrics.LOGINS_HELD.set(self._doors.held_count)

    async def _look(self, dialect: Dialect, node: NodeId) -> None:
        """Learn what a node can do before anybody has logged in there, and again once in a while."""
        while True:
            try:
                endpoint = self._endpoints[dialect.role, node]
                can = await glance_at(dialect, endpoint, self._context, timeout_s=LOOK_WITHIN_S)
            except NodeTrouble:
                await asyncio.sleep(LOOK_WHILE_UNKNOWN_S)
                continue
            self._abilities.learn(dialect.role, node, can)
            await asyncio.sleep(jittered_s(LOOK_EVERY_S))

    def _session_changed(self, session: Session, is_open: bool) -> None:
        if is_open:
            self._report.opened(session.id, partial(_row_of, session))
        else:
            self._report.closed(session.id)

    async def retire(self, patience_s: float) -> None:
        """Take nobody in any more; give those who are connected `patience_s` to log in. `stop_accepting` follows."""
        await asyncio.gather(*(server.retire(patience_s) for server in self._servers))

    async def stop_accepting(self, grace_s: float) -> None:
        """Take nobody in any more; logins under way may end within `grace_s`. Sessions go on."""
        await asyncio.gather(*(server.drain(grace_s) for server in self._servers))

    async def all_ended(self) -> None:
        """Wait until there is no session any more."""
        await self.table.until_empty()

    async def close(self, grace_s: float) -> None:
        """Let all sessions go within `grace_s`, and end. After `stop_accepting`."""
        await self.table.close_all(grace_s)
        await cancel_and_wait(*self._tasks)
        await self._report.close()


def _row_of(session: Session) -> SessionRow:
    """The session as the keeper's register wants it."""
    return SessionRow(
        id=session.id,
        protocol=session.role,
        login=session.login,
        mailbox=MailboxKey(session.mailbox),
        node=NodeId(session.node),
        client_ip=session.client_ip,
        client_port=session.client_port,
        tls=session.tls,
        opened_s=round(time.time() - (asyncio.get_running_loop().time() - session.started_s), 3),
    )
