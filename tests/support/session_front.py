"""The session proxy in the test's own loop: one listener, a static directory, nodes that a test provides.

Everything of `mailfront.sessions` is real; the map is a table (user -> node), states of nodes are the real table.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailfront.base.clock import SystemClock
from mailfront.base.secret import Secret
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.node_states import AdminState, Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import Placement, Reason
from mailfront.directory.answers import CannotSay, DirectoryRecord
from mailfront.directory.logins import LoginAnswer
from mailfront.directory.settings import StaticSettings
from mailfront.directory.static import StaticDirectory
from mailfront.mail.address import parse_path
from mailfront.mail.names import NodeId
from mailfront.net.connections import ConnectionTable, make_table_fd
from mailfront.net.failures import FailureTable, make_failure_fd
from mailfront.net.settings import ListenSettings
from mailfront.net.sockets import TcpAddress, bind_listener
from mailfront.net.tls import ServerTls
from mailfront.sessions.abilities import Abilities
from mailfront.sessions.dialects import DIALECTS
from mailfront.sessions.doors import Doors
from mailfront.sessions.flow import Logins, Master
from mailfront.sessions.listener import SessionListener
from mailfront.sessions.node import NodeEndpoint
from mailfront.sessions.server import SessionServer
from mailfront.sessions.settings import LoginSettings
from mailfront.sessions.slowing import LoginSlowing
from mailfront.sessions.table import SessionTable
from tests.support.toml_text import toml_text

HANDOFF = parse_path("handoff@example.edu")
USERS = (
    {"address": "ana@example.edu", "mailbox": "ana", "password": "{PLAIN}secret"},
    {"address": "ben@example.edu", "mailbox": "ben", "password": "{PLAIN}secret"},
    {"address": "sue@example.edu", "mailbox": "sue", "password": "{PLAIN}secret", "status": "suspended"},
    {"address": "handoff@example.edu", "mailbox": "handoff", "password": "{PLAIN}secret"},
)


def login_settings(**changes: Any) -> LoginSettings:
    """Settings as tests want them: no delay of wrong passwords, also values that a file may not have."""
    return LoginSettings().model_copy(update={"failure_delay": 0.0, "hold": 0.0, "node_timeout": 10.0, **changes})


class _Nodes:
    """`sessions.port.Nodes` by a table of homes and real states."""

    def __init__(self, homes: Mapping[str, str], nodes: Sequence[str]) -> None:
        self.homes = homes
        self.states = NodeStateTable([NodeId(node) for node in nodes])
        self.alarms: list[str] = []
        self._clock = SystemClock()

    async def locate(self, record: DirectoryRecord) -> Placement:
        return Placement(NodeId(self.homes.get(record.mailbox, "store1")), (), 0, Reason.BUCKET)

    def may_log_in(self, node: NodeId, service: Service) -> bool:
        return self.states.admit(node, service, self._clock.monotonic_s())

    def connect_failed(self, node: NodeId, service: Service, text: str) -> None:
        self.states.connect_failed(node, service, self._clock.monotonic_s(), text)

    def client_failed(self, node: NodeId, service: Service, client_ip: str, text: str) -> None:
        self.states.client_failed(node, service, client_ip, self._clock.monotonic_s(), text)

    def succeeded(self, node: NodeId, service: Service) -> None:
        self.states.succeeded(node, service, self._clock.monotonic_s())

    def alarm(self, name: str, text: str, *, node: str = "", mailbox: str = "") -> None:
        self.alarms.append(name)


class _Accounts:
    """The static directory, or one that cannot answer."""

    def __init__(self, directory: StaticDirectory) -> None:
        self._directory = directory
        self.is_away = False

    async def account(self, name: str) -> LoginAnswer:
        return CannotSay("away", "directory.unreachable") if self.is_away else await self._directory.account(name)

    async def authenticate(self, name: str, password: Secret, mechanism: str) -> LoginAnswer:
        if self.is_away:
            return CannotSay("away", "directory.unreachable")
        return await self._directory.authenticate(name, password, mechanism)


@dataclass(kw_only=True)
class SessionFront:
    """What a test works with."""

    port: int
    table: SessionTable
    listener: SessionListener
    server: SessionServer
    doors: Doors
    nodes: _Nodes
    accounts: _Accounts
    events: list[dict[str, Any]] = field(default_factory=list)

    async def connect(self, **options: Any) -> "Client":
        """A client that has not read the greeting yet."""
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, **options))

    async def logged_in(self, name: str = "ana") -> "Client":
        """A client whose login was accepted."""
        client = await self.connect()
        await client.line()
        assert " OK " in await client.ask(f"a LOGIN {name} secret")
        return client

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [line for line in self.events if line["event"] == event]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, generously."""
        try:
            async with asyncio.timeout(20):
                while not condition():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not in time: {what}") from None

    service = Service.IMAP

    @staticmethod
    def node(name: str) -> NodeId:
        """A node's id."""
        return NodeId(name)

    def maintain(self, node: str) -> None:
        """Have the administrator take a node out of service."""
        self.nodes.states.set_admin_state(NodeId(node), AdminState.MAINTENANCE)


class Client:
    """A raw client: sends what it is told, reads with a generous limit."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def line(self) -> str:
        """The next line; '' at the end."""
        async with asyncio.timeout(20):
            return (await self.reader.readline()).decode().rstrip("\r\n")

    async def ask(self, command: str) -> str:
        """Send a command, return the next line."""
        self.send(f"{command}\r\n".encode())
        return await self.line()

    async def rest(self) -> bytes:
        """Everything until the connection ends."""
        async with asyncio.timeout(20):
            return await self.reader.read(-1)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Shake hands."""
        async with asyncio.timeout(20):
            await self.writer.start_tls(context, server_hostname="localhost")

    async def close(self) -> None:
        """Close, whatever state the connection is in."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def session_front(
    directory: Path,
    nodes: Mapping[str, int],
    *,
    homes: Mapping[str, str] | None = None,
    listen: Mapping[str, Any] | None = None,
    login: LoginSettings | None = None,
    tls: ServerTls | None = None,
    node_tls: str = "off",
    node_context: ssl.SSLContext | None = None,
    master: Master | None = None,
    sessions_per_ip: int = 1000,
    role: str = "imap",
) -> AsyncIterator[SessionFront]:
    """`directory`: a folder for the users' file. `nodes`: id -> port. `homes`: mailbox -> node, else store1."""
    file = directory / "users.toml"
    file.write_text(toml_text({"user": [dict(user) for user in USERS]}))
    accounts = _Accounts(StaticDirectory(StaticSettings(kind="static", file=file)))
    known = _Nodes(homes or {}, tuple(nodes))
    login = login or login_settings()
    doors = Doors(known, held_limit=login.held)
    abilities = Abilities({role: [NodeId(node) for node in nodes] for role in DIALECTS})
    admission = ConnectionTable(make_table_fd(), 0, total_limit=1000, per_ip_limit=sessions_per_ip)
    events: list[dict[str, Any]] = []

    def emit(event: str, **fields: Any) -> None:
        events.append({"event": event, **fields})

    table = SessionTable(
        admission,
        emit,
        farewells={role: dialect.farewell for role, dialect in DIALECTS.items()},
        goodbyes={role: dialect.goodbye for role, dialect in DIALECTS.items()},
    )
    endpoints = {
        (role, NodeId(node)): NodeEndpoint(
            host="127.0.0.1",
            port=port,
            path="",
            tls=node_tls,  # type: ignore[arg-type]
            server_name="localhost",
        )
        for node, port in nodes.items()
    }
    logins = Logins(
        accounts, known, doors, abilities, endpoints, node_context or ssl.create_default_context(), login,
        node_user="{mailbox}", master=master, handoff=HANDOFF,
    )  # fmt: skip
    bound = bind_listener(TcpAddress("127.0.0.1", 0))
    listener = SessionListener(
        settings=ListenSettings.model_validate({"role": role, "address": "127.0.0.1:0", **(listen or {})}),
        dialect=DIALECTS[role],
        hostname="mx1.example.edu",
        login=login,
        logins=logins,
        abilities=abilities,
        admission=admission,
        table=table,
        slowing=LoginSlowing(FailureTable(make_failure_fd()), (), SystemClock()),
        emit=emit,
        loop=asyncio.get_running_loop(),
        tls=tls,
    )
    server = SessionServer(listener, bound, per_ip_limit=sessions_per_ip)
    front = SessionFront(
        port=bound[0].getsockname()[1], table=table, listener=listener, server=server, doors=doors, nodes=known,
        accounts=accounts, events=events,
    )  # fmt: skip
    await server.start()
    ticking = spawn(_tick(table), name="tick")
    try:
        yield front
    finally:
        async with asyncio.timeout(20):
            await server.drain(0.0)
            await table.close_all(0.0)
        await cancel_and_wait(ticking)


async def _tick(table: SessionTable) -> None:
    while True:
        await asyncio.sleep(0.05)
        table.tick(asyncio.get_running_loop().time())
