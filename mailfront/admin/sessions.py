"""`session list|kick` and `user where|kick`: who is logged in where, and ending sessions.

A kick is noted in the audit before it is carried out. It ends the sessions that are open now: a client may log in again
at once, and most do. To keep people off a node use `node maintenance`, to keep one person out the directory.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mailfront.admin.audit import Audit
from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.requests import KickRequest, SessionConditions, SessionListRequest, UserKickRequest
from mailfront.admin.rings import AddressExplanation
from mailfront.admin.wire import Progress
from mailfront.base.clock import Clock
from mailfront.base.printable import printable
from mailfront.cluster.placement import ClusterMap
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.sessions.register import SessionRegister, SessionRow, SessionSelection, read_network

PROTOCOLS = ("imap", "pop3", "sieve")
WAIT_FOR_END_S = 10.0
MOST_SHOWN = 100
_LOOK_EVERY_S = 0.05

Told = Callable[[Progress], None]
Explain = Callable[[str], Any]
Found = Sequence[tuple[Any, SessionRow]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """One session, for people."""

    id: str
    protocol: str
    login: str
    mailbox: str
    node: NodeId
    client_ip: str
    client_port: int
    tls: str
    opened_s: float
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPage:
    """The sessions that were asked for, oldest first; `total_count` of them, `rows` the first."""

    total_count: int
    rows: tuple[SessionView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KickResult:
    """What a kick did. `left_count`: still open when the answer was given; they end when their worker gets to it."""

    dry_run: bool
    matched: int
    ended: int
    left_count: int
    rows: tuple[SessionView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserView:
    """Where one person's mailbox lives and who has it open."""

    address: str
    mailbox_key: str
    node_user: str
    home: NodeId
    reason: str
    pinned: NodeId | None
    secondaries: tuple[NodeId, ...]
    sessions: tuple[SessionView, ...]


class SessionService:
    """See the module."""

    def __init__(
        self,
        register: SessionRegister,
        kick: Callable[[Iterable[tuple[Any, SessionRow]], str], None],
        explain: Callable[[str], Any],
        cluster_map: Callable[[], ClusterMap],
        audit: Audit,
        clock: Clock,
    ) -> None:
        """`kick` has sessions ended; `explain` is `RingService.explain`."""
        self._register = register
        self._kick = kick
        self._explain = explain
        self._map = cluster_map
        self._audit = audit
        self._clock = clock

    async def list(self, request: SessionListRequest) -> SessionPage:
        """The sessions that match; without a condition all."""
        found = self._find(_selection(request))
        return SessionPage(total_count=len(found), rows=self._show(found[: request.limit]))

    async def kick(self, request: KickRequest, *, uid: int, progress: Told) -> KickResult:
        """End the sessions that match. Raises AdminError without a condition, unless all are meant."""
        wanted = _selection(request)
        if wanted.is_empty and not request.everything:
            raise AdminError("say which: --id, --user, --node, --address, --protocol, or --everything", Kind.USAGE)
        if request.everything and not wanted.is_empty:
            raise AdminError("--everything and a condition contradict each other; leave one out", Kind.USAGE)
        order = ("session kick", _selector_text(request))
        return await self._end(wanted, order, request.dry_run, request.reason, uid, progress)

    async def where(self, address: str) -> UserView:
        """Where a person's mailbox lives. Raises AdminError if the address has no mailbox."""
        found = await self._mailbox(address)
        assert found.home is not None
        key = MailboxKey(found.mailbox_key)
        return UserView(
            address=found.address,
            mailbox_key=printable(key),
            node_user=found.node_user,
            home=found.home,
            reason=found.reason,
            pinned=self._map().pins.get(key),
            secondaries=found.secondaries,
            sessions=self._show(self._find(_sessions_of(key))),
        )

    async def kick_user(self, request: UserKickRequest, *, uid: int, progress: Told) -> KickResult:
        """End all sessions of a person. Raises AdminError if the address has no mailbox."""
        found = await self._mailbox(request.address)
        wanted = _sessions_of(MailboxKey(found.mailbox_key))
        order = ("user kick", found.address)
        return await self._end(wanted, order, request.dry_run, request.reason, uid, progress)

    async def _mailbox(self, address: str) -> AddressExplanation:
        found: AddressExplanation = await self._explain(address)
        if found.home is None:
            is_away = found.directory is not None and found.directory.answer == "cannot say"
            raise AdminError(f"{found.address}: {found.reply}", Kind.LATER if is_away else Kind.FAILED)
        return found

    async def _end(
        self, wanted: SessionSelection, order: tuple[str, str], dry_run: bool, reason: str, uid: int, progress: Told
    ) -> KickResult:
        found = self._find(wanted)
        left_count = len(found)
        if found and not dry_run:
            verb, selector = order
            await self._audit.note(uid=uid, verb=verb, selector=selector, reason=reason, rows_count=len(found))
            self._kick(found, "kicked")
            left_count = await self._wait_for_end(found, progress)
        return KickResult(
            dry_run=dry_run,
            matched=len(found),
            ended=0 if dry_run else len(found) - left_count,
            left_count=left_count,
            rows=self._show(found[:MOST_SHOWN]),
        )

    async def _wait_for_end(self, kicked: Found, progress: Told) -> int:
        ids = frozenset(row.id for _, row in kicked)
        until_s = self._clock.monotonic_s() + WAIT_FOR_END_S
        while True:
            left_count = sum(1 for _ in self._register.find(SessionSelection(ids=ids)))
            progress(Progress(len(ids) - left_count, len(ids), "sessions"))
            if not left_count or self._clock.monotonic_s() >= until_s:
                return left_count
            await asyncio.sleep(_LOOK_EVERY_S)

    def _find(self, wanted: SessionSelection) -> Found:
        return sorted(self._register.find(wanted), key=lambda each: each[1].opened_s)

    def _show(self, found: Found) -> tuple[SessionView, ...]:
        now_s = self._clock.wall_s()
        return tuple(
            SessionView(
                id=row.id,
                protocol=row.protocol,
                login=printable(row.login),
                mailbox=printable(row.mailbox),
                node=row.node,
                client_ip=row.client_ip,
                client_port=row.client_port,
                tls=row.tls,
                opened_s=row.opened_s,
                age_s=round(now_s - row.opened_s, 3),
            )
            for _, row in found
        )


def _sessions_of(key: MailboxKey) -> SessionSelection:
    return SessionSelection(mailboxes=frozenset({key}))


def _selection(request: SessionConditions) -> SessionSelection:
    for protocol in request.protocols:
        if protocol not in PROTOCOLS:
            raise AdminError(f"{printable(protocol, 40)!r} is no protocol; use {', '.join(PROTOCOLS)}", Kind.USAGE)
    try:
        networks = tuple(read_network(text) for text in request.addresses)
    except ValueError as error:
        raise AdminError(str(error), Kind.USAGE) from error
    return SessionSelection(
        ids=frozenset(request.ids),
        users=frozenset(user.lower() for user in request.users),
        nodes=frozenset(request.nodes),
        protocols=frozenset(request.protocols),
        networks=networks,
    )


def _selector_text(request: KickRequest) -> str:
    """The conditions as they were given, for the audit."""
    words = [
        f"{name}={value}"
        for name, values in (
            ("id", request.ids),
            ("user", request.users),
            ("node", request.nodes),
            ("address", request.addresses),
            ("protocol", request.protocols),
        )
        for value in values
    ]
    return " ".join(words) or "everything"
