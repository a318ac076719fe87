"""`session list|kick` and `user where|kick`, over a real map and audit."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mailfront.admin import sessions as sessions_module
from mailfront.admin.audit import Audit
from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.requests import KickRequest, SessionListRequest, UserKickRequest
from mailfront.admin.sessions import SessionService
from mailfront.admin.wire import Progress
from mailfront.base.clock import ManualClock
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.sessions.register import SessionRegister, SessionRow
from mailfront.store.audit_rows import latest_audits
from tests.unit.admin.test_nodes_and_rings import Bench, open_bench


def row(id: str, login: str, node: str, **values: Any) -> SessionRow:
    """A session of `login`, whose mailbox key is login@example.edu."""
    fields: dict[str, Any] = {
        "protocol": "imap", "client_ip": "192.0.2.7", "client_port": 1, "tls": "", "opened_s": 1.0, **values,
    }  # fmt: skip
    return SessionRow(id=id, login=login, mailbox=MailboxKey(f"{login}@example.edu"), node=NodeId(node), **fields)


@dataclass
class Desk:
    """The service, and a kick that works, or does not."""

    bench: Bench
    register: SessionRegister
    service: SessionService
    kicked: list[tuple[str, str]] = field(default_factory=list)
    workers_obey: bool = True

    def kick(self, rows: Iterable[tuple[Any, SessionRow]], reason: str) -> None:
        for worker, each in rows:
            self.kicked.append((each.id, reason))
            if self.workers_obey:
                self.register.closed(worker, each.id)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Ana twice, somebody else once."""
    bench, register = await open_bench(tmp_path), SessionRegister()
    made: list[Desk] = []
    service = SessionService(
        register,
        lambda rows, reason: made[0].kick(rows, reason),
        bench.ring.explain,
        lambda: bench.registry.map,
        Audit(bench.store),
        ManualClock(),
    )
    made.append(Desk(bench, register, service))
    for each in (row("s1", "ana", "a", opened_s=9.0), row("s2", "ana", "a", protocol="pop3"), row("s3", "bob", "b")):
        register.opened("w0", each)
    yield made[0]
    await bench.store.close()


def no_progress(_progress: Progress) -> None:
    """Nobody looks."""


async def audits(desk: Desk) -> list[tuple[int, str, str, str, int]]:
    """Who changed what, oldest first."""
    rows = await desk.bench.store.read(lambda connection: latest_audits(connection, 10))
    return [(each.uid, each.verb, each.selector, each.reason, each.rows_count) for each in reversed(rows)]


async def test_sessions_are_listed_oldest_first(desk: Desk) -> None:
    """The limit cuts the list and not the count."""
    page = await desk.service.list(SessionListRequest(limit=2))
    assert page.total_count == 3
    assert [each.id for each in page.rows] == ["s2", "s3"]
    found = await desk.service.list(SessionListRequest(users=("ANA",), protocols=("imap",)))
    assert [each.id for each in found.rows] == ["s1"]


@pytest.mark.parametrize(
    "request_",
    [
        KickRequest(),
        KickRequest(everything=True, nodes=("a",)),
        KickRequest(protocols=("smtp",)),
        KickRequest(addresses=("store1",)),
    ],
)
async def test_a_kick_that_is_not_clear_is_refused(desk: Desk, request_: KickRequest) -> None:
    """No condition, a contradiction, a word that is none: nothing is ended and nothing audited."""
    with pytest.raises(AdminError) as refused:
        await desk.service.kick(request_, uid=7, progress=no_progress)
    assert refused.value.kind is Kind.USAGE
    assert desk.kicked == []
    assert await audits(desk) == []


async def test_a_kick_is_audited_and_waits_until_the_sessions_have_ended(desk: Desk) -> None:
    """Who, what, why and how many; the answer says what ended."""
    request = KickRequest(users=("ana",), reason="upgrade")
    result = await desk.service.kick(request, uid=7, progress=no_progress)
    assert (result.matched, result.ended, result.left_count) == (2, 2, 0)
    assert desk.kicked == [("s2", "kicked"), ("s1", "kicked")]
    assert await audits(desk) == [(7, "session kick", "user=ana", "upgrade", 2)]


async def test_a_dry_run_shows_and_ends_nothing(desk: Desk) -> None:
    """Not even in the audit."""
    result = await desk.service.kick(KickRequest(everything=True, dry_run=True), uid=7, progress=no_progress)
    assert (result.matched, result.ended, len(result.rows)) == (3, 0, 3)
    assert desk.kicked == []
    assert await audits(desk) == []


async def test_sessions_that_do_not_end_are_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not obey in time is no success."""
    monkeypatch.setattr(sessions_module, "WAIT_FOR_END_S", 0.0)
    desk.workers_obey = False
    result = await desk.service.kick(KickRequest(nodes=("b",)), uid=7, progress=no_progress)
    assert (result.ended, result.left_count) == (0, 1)


async def test_where_somebody_is(desk: Desk) -> None:
    """Home, reason and the sessions of exactly this mailbox."""
    found = await desk.service.where("ana@example.edu")
    explained = await desk.bench.ring.explain("ana@example.edu")
    assert (found.home, found.reason, found.pinned) == (explained.home, explained.reason, None)
    assert {each.id for each in found.sessions} == {"s1", "s2"}


async def test_a_persons_sessions_are_ended_by_address(desk: Desk) -> None:
    """The directory says whose mailbox it is; others stay."""
    await desk.service.kick_user(UserKickRequest(address="ana@example.edu"), uid=7, progress=no_progress)
    assert {id for id, _ in desk.kicked} == {"s1", "s2"}
    assert (await audits(desk))[0][1:3] == ("user kick", "ana@example.edu")


@pytest.mark.parametrize(("address", "kind"), [("eve@example.edu", Kind.FAILED), ("later@example.edu", Kind.LATER)])
async def test_an_address_without_a_mailbox(desk: Desk, address: str, kind: Kind) -> None:
    """Unknown is a failure; a directory that cannot say is for later."""
    with pytest.raises(AdminError) as refused:
        await desk.service.where(address)
    assert refused.value.kind is kind
