"""What all connections of one session listener share. One object per listener and worker."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailfront.net.settings import ListenSettings
from mailfront.net.tls import ServerTls
from mailfront.observe import metrics
from mailfront.protocol.login_dialogue import Offer
from mailfront.protocol.sasl import BEARER_MECHANISMS
from mailfront.sessions.abilities import Abilities
from mailfront.sessions.dialects import Dialect
from mailfront.sessions.flow import Logins
from mailfront.sessions.port import Admission, EmitEvent
from mailfront.sessions.settings import LoginSettings
from mailfront.sessions.slowing import LoginSlowing
from mailfront.sessions.table import SessionTable

if TYPE_CHECKING:
    from mailfront.sessions.client import ClientConnection


@dataclass(slots=True, eq=False, kw_only=True)
class SessionListener:
    """See the module. Owned by one `SessionServer`."""

    settings: ListenSettings
    dialect: Dialect
    hostname: str
    login: LoginSettings
    logins: Logins
    abilities: Abilities
    admission: Admission
    table: SessionTable
    slowing: LoginSlowing
    emit: EmitEvent
    loop: asyncio.AbstractEventLoop
    tls: ServerTls | None = None
    tls_timeout_s: float = 30.0
    is_draining: bool = False
    accepted_count: int = 0
    waiting: set["ClientConnection"] = field(default_factory=set)
    """Connections before their login."""
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    _offers: dict[tuple[bool, bool, int], Offer] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How logs and metrics call this listener: its address as configured."""
        return self.settings.address

    def offer(self, ip: str, *, encrypted: bool) -> Offer:
        """What a client is offered on its connection as it is now. `ip` '' is a UNIX socket."""
        plaintext = self.login.plaintext
        is_local = not ip or ip == "::1" or ip.startswith("127.")
        passwords = encrypted or plaintext == "always" or (plaintext == "loopback" and is_local)
        key = (encrypted, passwords, self.abilities.version)
        found = self._offers.get(key)
        if found is None:
            if len(self._offers) >= 4:
                self._offers.clear()  # of earlier versions
            found = self._offers[key] = self._make_offer(encrypted=encrypted, passwords=passwords)
        return found

    def _make_offer(self, *, encrypted: bool, passwords: bool) -> Offer:
        role, mechanisms = self.dialect.role, ["PLAIN", "LOGIN"]
        if self.login.auth == "node":
            bearer = self.abilities.have_all(role, [f"AUTH={name}" for name in sorted(BEARER_MECHANISMS)])
            mechanisms += [name.removeprefix("AUTH=") for name in bearer]
        return Offer(
            hostname=self.hostname,
            starttls=self.settings.tls == "starttls" and self.tls is not None and not encrypted,
            passwords=passwords,
            mechanisms=tuple(mechanisms),
            extras=self._extras(),
            bad_commands=self.login.bad_commands,
        )

    def _extras(self) -> tuple[str, ...]:
        role, wanted = self.dialect.role, self.dialect.extras
        if wanted is not None:
            return self.abilities.have_all(role, wanted)
        return tuple(name for name in self.abilities.common(role) if not name.startswith("AUTH="))

    def tick(self) -> None:
        """About once a second: end what takes too long, and tell the metrics."""
        now_s = self.loop.time()
        for connection in tuple(self.waiting):
            connection.check_time(now_s)
        metrics.SESSION_CONNECTIONS.inc(self.name, "accepted", amount=self.accepted_count)
        metrics.SESSION_WAITING.set(len(self.waiting), self.name)
        self.accepted_count = 0
