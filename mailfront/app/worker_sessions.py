"""The session part of one worker: its listeners, its session table, and the nodes as logins see them.

`nodes_changed` is called whenever anything about a node may be known anew: logins that wait look again, a node that
has come back gets its logins slowly at first, and one that was put into maintenance loses its sessions, spread over
seconds.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence

from mailfront.app.admin_verbs import checked_address
from mailfront.app.assignment import Assignment
from mailfront.app.keeper_news import KeeperNews
from mailfront.app.locator import WorkerLocator
from mailfront.base.clock import Clock
from mailfront.base.secret import read_secret_file
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.node_states import AdminState, Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import Placement
from mailfront.config.model import Configuration
from mailfront.directory.answers import DirectoryRecord
from mailfront.directory.directory import Directory
from mailfront.mail.names import NodeId
from mailfront.net.connections import ConnectionTable
from mailfront.net.tls import ServerTls, node_context
from mailfront.observe import log, metrics
from mailfront.sessions.abilities import Abilities
from mailfront.sessions.dialects import DIALECTS
from mailfront.sessions.doors import Doors
from mailfront.sessions.flow import Logins, Master
from mailfront.sessions.listener import SessionListener
from mailfront.sessions.node import NodeEndpoint
from mailfront.sessions.server import SessionServer
from mailfront.sessions.table import SessionTable

TICK_S = 1.0


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
            admission, log.emit, farewells={dialect.role: dialect.farewell for dialect in DIALECTS.values()}
        )
        self._doors = Doors(self._nodes, held_limit=config.login.held)
        abilities = Abilities(dict.fromkeys(DIALECTS, self._node_ids))
        logins = self._make_logins(config, accounts, abilities)
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

    def _make_logins(self, config: Configuration, accounts: Directory, abilities: Abilities) -> Logins:
        storage, master = config.storage, None
        if config.login.send == "master" and storage.master_user and storage.master_password_file:
            master = Master(storage.master_user, read_secret_file(storage.master_password_file))
        return Logins(
            accounts,
            self._nodes,
            self._doors,
            abilities,
            {
                (dialect.role, NodeId(node.id)): NodeEndpoint.of(node, dialect.port(node))
                for dialect in DIALECTS.values()
                for node in config.node
            },
            node_context(config.node_tls),
            config.login,
            node_user=storage.node_user,
            master=master,
            handoff=checked_address(storage.handoff_mailbox) if storage.handoff_mailbox is not None else None,
        )

    async def start(self) -> None:
        """Begin to accept. Raises OSError."""
        if self._servers:
            self._tasks.append(spawn(self._keep_time(), name="sessions"))
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

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, let logins end, then let all sessions go within `grace_s`."""
        await asyncio.gather(*(server.drain(grace_s) for server in self._servers))
        await self.table.close_all(grace_s)
        await cancel_and_wait(*self._tasks)
