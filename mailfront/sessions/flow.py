"""One login, from the client's name and password to a logged-in connection at the mailbox's home.

    DIRECTORY   who is it, and is the password right (or: the node shall say)
    PLACEMENT   where does the mailbox live
    HOLD        that node is down: wait, bounded
    CONNECT     ... NODE_TLS, NODE_GREETING, NODE_CAPABILITY, NODE_LOGIN: the dialogue with the node

`Trail` says where a login is; a failed one leaves it in its log line. The result is `Opened` or a `Refusal`. "Wrong
name or password" is said only if the authority said so: the directory, or with `login.auth = "node"` the node. A node
that refuses somebody whom the directory let in is our trouble, and an alarm.

One mailbox, one home: no other node is ever tried, and a mailbox that moves while its login waits is followed.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from mailfront.base.errors import Unavailable
from mailfront.base.printable import printable
from mailfront.base.secret import Secret
from mailfront.cluster.node_user import node_user
from mailfront.directory.answers import CannotSay, DirectoryRecord, Found, Status
from mailfront.directory.canonical import canonical_text
from mailfront.directory.logins import Denied, LoginAnswer
from mailfront.mail.address import Address
from mailfront.mail.names import NodeId
from mailfront.net.host_addresses import HostAddresses
from mailfront.protocol.login_dialogue import (
    ClientIdentity,
    LoggedIn,
    LoginAsked,
    NodeCredentials,
    Refusal,
    Rejected,
    TryLater,
)
from mailfront.protocol.sasl import BEARER_MECHANISMS
from mailfront.sessions.abilities import Abilities
from mailfront.sessions.dialects import Dialect
from mailfront.sessions.doors import Doors
from mailfront.sessions.node import NodeEndpoint, NodeTrouble, NodeWire, log_in_at
from mailfront.sessions.port import Accounts, Nodes
from mailfront.sessions.settings import LoginSettings

FIRST_PAUSE_S = 0.1


class Position(Enum):
    """Where in its two dialogues a session is; in every line about it."""

    GREETING = "greeting"
    TLS = "tls"
    DIRECTORY = "directory"
    PLACEMENT = "placement"
    HOLD = "hold"
    CONNECT = "connect"
    NODE_TLS = "node tls"
    NODE_GREETING = "node greeting"
    NODE_CAPABILITY = "node capability"
    NODE_LOGIN = "node login"
    RELAY = "relay"


_AT_NODE = {
    "connect": Position.CONNECT,
    "starttls": Position.NODE_TLS,
    "tls": Position.NODE_TLS,
    "greeting": Position.NODE_GREETING,
    "capability": Position.NODE_CAPABILITY,
    "login": Position.NODE_LOGIN,
}
_BEFORE_ANY_CLIENT = frozenset({Position.CONNECT, Position.NODE_TLS, Position.NODE_GREETING})


@dataclass(slots=True)
class Trail:
    """How far a login has come, for its log line. Texts are printable."""

    position: Position = Position.GREETING
    login: str = ""
    mechanism: str = ""
    mailbox: str = ""
    node: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection to the home that is logged in. The relay takes `wire` over."""

    wire: NodeWire
    capabilities: str


@dataclass(frozen=True, slots=True)
class Master:
    """The nodes' master user."""

    user: str
    password: Secret


class Logins:
    """See the module. One per worker."""

    def __init__(
        self,
        accounts: Accounts,
        nodes: Nodes,
        doors: Doors,
        abilities: Abilities,
        endpoints: Mapping[tuple[str, NodeId], NodeEndpoint],
        context: ssl.SSLContext,
        settings: LoginSettings,
        *,
        node_user: str,
        master: Master | None,
        handoff: Address | None,
    ) -> None:
        """`endpoints` by role and node. `node_user` is `storage.node_user`; `master` is set if we log in as such."""
        self._accounts = accounts
        self._nodes = nodes
        self._doors = doors
        self._abilities = abilities
        self._endpoints = endpoints
        self._hosts = HostAddresses()
        self._context = context
        self._settings = settings
        self._node_user = node_user
        self._master = master
        self._handoff = handoff

    async def log_in(
        self, dialect: Dialect, asked: LoginAsked, client: ClientIdentity, trail: Trail
    ) -> Opened | Refusal:
        """Try it. `trail` is kept up to date. Cancellation closes the connection to the node."""
        trail.login, trail.mechanism = printable(asked.name), asked.mechanism
        trail.mailbox = trail.node = trail.reason = ""
        trail.position = Position.DIRECTORY
        answer = await self._who(asked)
        if not isinstance(answer, Found):
            return self._not_found(answer, trail)
        record = answer.record
        trail.mailbox = record.key
        user = node_user(self._node_user, record.mailbox, record.address.domain)
        refusal = self._may_not(record, user, trail)
        if refusal is not None:
            return refusal
        try:
            return await self._at_home(dialect, record, self._credentials(asked, user), client, trail)
        except Unavailable as error:
            trail.position, trail.reason = Position.PLACEMENT, str(error)
            self._nodes.alarm("placement.undecided", f"login of {trail.login}: {error}", mailbox=trail.mailbox)
            return Refusal.UNAVAILABLE

    async def _who(self, asked: LoginAsked) -> LoginAnswer:
        if asked.authorize and canonical_text(asked.authorize) != canonical_text(asked.name):
            return Denied()  # nobody acts for somebody else from outside
        if self._settings.auth == "node":
            return await self._accounts.account(asked.name)
        if asked.mechanism in BEARER_MECHANISMS:
            return Denied()
        return await self._accounts.authenticate(asked.name, asked.secret, asked.mechanism)

    def _not_found(self, answer: Denied | CannotSay, trail: Trail) -> Refusal:
        if isinstance(answer, Denied):
            trail.reason = "wrong name or password"
            return Refusal.FAILED
        trail.reason = printable(answer.reason)
        if answer.alarm:
            self._nodes.alarm(answer.alarm, f"login of {trail.login}: {answer.reason}")
        return Refusal.UNAVAILABLE

    def _may_not(self, record: DirectoryRecord, user: str, trail: Trail) -> Refusal | None:
        """Why somebody who is known may not log in, or None."""
        # Before the node has judged the password, nobody may learn more than that this failed.
        refusal = Refusal.DISABLED if self._settings.auth == "directory" else Refusal.FAILED
        if record.status is Status.SUSPENDED:
            trail.reason = "suspended"
        elif not record.key or not record.mailbox:
            trail.reason = "no mailbox"
        elif self._is_handoff(record, user):
            trail.reason = "the handoff mailbox"
        else:
            return None
        return refusal

    def _is_handoff(self, record: DirectoryRecord, user: str) -> bool:
        """Copies that wait for their home are nobody's mail."""
        handoff = self._handoff
        if handoff is None:
            return False
        names = {canonical_text(record.mailbox), canonical_text(user), record.address.key}
        return not names.isdisjoint({handoff.key, canonical_text(handoff.local)})

    def _credentials(self, asked: LoginAsked, user: str) -> NodeCredentials:
        if self._master is not None:
            return NodeCredentials(user=self._master.user, secret=self._master.password, authorize=user)
        return NodeCredentials(user=user, secret=asked.secret, mechanism=asked.mechanism)

    async def _at_home(
        self,
        dialect: Dialect,
        record: DirectoryRecord,
        credentials: NodeCredentials,
        client: ClientIdentity,
        trail: Trail,
    ) -> Opened | Refusal:
        """Log in at the home, as soon as that is possible. Raises Unavailable if nobody can say where that is."""

        async def where() -> NodeId:
            trail.position = Position.PLACEMENT
            trail.node = node = (await self._nodes.locate(record)).home
            return node

        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._settings.hold
        pause_s = FIRST_PAUSE_S
        while True:
            home = await self._doors.enter(where, dialect.service, until_s)
            if home is None:
                trail.position = Position.HOLD
                trail.reason = trail.reason or "the home is down, or has too many logins to take"
                return Refusal.UNAVAILABLE
            trail.position = Position.CONNECT
            endpoint = self._endpoints[dialect.role, home]
            core = dialect.node(credentials, client, endpoint.tls == "starttls")
            try:
                wire, answer = await log_in_at(
                    endpoint,
                    core,
                    self._hosts,
                    self._context,
                    client=client,
                    timeout_s=self._settings.node_timeout,
                )
            except NodeTrouble as trouble:
                trail.position, trail.reason = _AT_NODE[trouble.position], str(trouble)
                if trouble.is_ours:
                    self._nodes.alarm("login.no_resources", f"no connection can be made to any node: {trouble}")
                    return Refusal.UNAVAILABLE
                if trail.position not in _BEFORE_ANY_CLIENT:
                    self._nodes.client_failed(home, dialect.service, client.ip, str(trouble))
                    return Refusal.UNAVAILABLE
                self._nodes.connect_failed(home, dialect.service, str(trouble))
                if loop.time() + pause_s > until_s:
                    return Refusal.UNAVAILABLE
                await asyncio.sleep(pause_s)
                pause_s *= 2
                continue
            self._abilities.learn(dialect.role, home, core.capabilities)
            if await where() != home:
                # It has moved while that node took its time. Its answer counts no more.
                assert wire.transport is not None
                wire.transport.abort()
                continue
            trail.position = _AT_NODE[core.position]
            return self._judge(dialect, home, wire, answer, trail)

    def _judge(
        self, dialect: Dialect, home: NodeId, wire: NodeWire, answer: LoggedIn | Rejected | TryLater, trail: Trail
    ) -> Opened | Refusal:
        if isinstance(answer, LoggedIn):
            self._nodes.succeeded(home, dialect.service)
            trail.position, trail.reason = Position.RELAY, ""
            return Opened(wire, answer.capabilities)
        assert wire.transport is not None
        wire.transport.close()
        trail.reason = f"{home} says {answer.code} {answer.text}".strip()
        match answer:
            case Rejected():
                if self._settings.auth == "node":
                    return Refusal.DISABLED if answer.code == "SYS/PERM" else Refusal.FAILED
                text = f"{home} refuses {trail.login}, whom the directory let in: {answer.code} {answer.text}"
                self._nodes.alarm(f"login.refused_by.{home}", text, node=home, mailbox=trail.mailbox)
                return Refusal.UNAVAILABLE
            case TryLater():
                return Refusal.IN_USE if answer.code == "IN-USE" else Refusal.UNAVAILABLE
            case _:
                assert_never(answer)
