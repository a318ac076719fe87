"""Workers tell the keeper of their sessions, over the real channel."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mailfront.app.session_desk import SessionDesk
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.net.channel import Channel, ChannelServer, Peer
from mailfront.sessions.register import SessionRow, SessionSelection
from mailfront.sessions.report import SessionReport

LIMIT_S = 20.0
ROW = SessionRow(
    id="s0",
    protocol="imap",
    login="ana",
    mailbox=MailboxKey("ana"),
    node=NodeId("store1"),
    client_ip="192.0.2.7",
    client_port=1,
    tls="",
    opened_s=1.0,
)


class KeeperPart:
    """A keeper with nothing but a register; it can be stopped and started anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        self.channel = ChannelServer(str(self.path), {}, on_peer_gone=self._gone)
        self.desk = SessionDesk(self.channel)
        self.desk.serve()
        self.channel.start()

    def _gone(self, peer: Peer) -> None:
        self.desk.peer_gone(peer)

    def ids(self) -> set[str]:
        return {row.id for _, row in self.desk.register.find(SessionSelection())}


class WorkerPart:
    """A worker with nothing but sessions."""

    def __init__(self, path: Path, name: str) -> None:
        self.sessions: dict[str, SessionRow] = {}
        self.kicked: list[tuple[str, str]] = []
        self.channel = Channel(str(path), name)
        self.report = SessionReport(self.channel, lambda: list(self.sessions.values()), self._kick)
        self.channel.start()
        self.report.start()

    def _kick(self, ids: frozenset[str], reason: str) -> None:
        for id in sorted(ids & self.sessions.keys()):
            self.kicked.append((id, reason))
            self.close(id)

    def open(self, id: str) -> None:
        self.sessions[id] = replace(ROW, id=id)
        self.report.opened(id, lambda: self.sessions[id])

    def close(self, id: str) -> None:
        del self.sessions[id]
        self.report.closed(id)

    async def stop(self) -> None:
        await self.report.close()
        await self.channel.close()


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[tuple[KeeperPart, WorkerPart, WorkerPart]]:
    """A keeper and two workers."""
    keeper = KeeperPart(tmp_path / "keeper.sock")
    workers = [WorkerPart(keeper.path, f"worker-{number}") for number in (0, 1)]
    yield keeper, workers[0], workers[1]
    for worker in workers:
        await worker.stop()
    keeper.channel.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_register_follows_what_opens_and_ends(parts: tuple[KeeperPart, WorkerPart, WorkerPart]) -> None:
    """More sessions than fit into one request arrive; those that end leave."""
    keeper, first, second = parts
    for number in range(1200):
        first.open(f"a{number}")
    second.open("b0")
    await until(lambda: len(keeper.ids()) == 1201)
    for number in range(1, 1200):
        first.close(f"a{number}")
    await until(lambda: keeper.ids() == {"a0", "b0"})


async def test_a_kick_reaches_the_worker_that_has_the_session(
    parts: tuple[KeeperPart, WorkerPart, WorkerPart],
) -> None:
    """Only the sessions that are named end, and then they leave the register."""
    keeper, first, second = parts
    first.open("a0")
    first.open("a1")
    second.open("b0")
    await until(lambda: len(keeper.ids()) == 3)
    found = keeper.desk.register.find(SessionSelection(ids=frozenset({"a1", "b0"})))
    keeper.desk.kick(list(found), "kicked")
    await until(lambda: keeper.ids() == {"a0"})
    assert (first.kicked, second.kicked) == ([("a1", "kicked")], [("b0", "kicked")])


async def test_a_keeper_that_starts_anew_learns_everything_again(
    parts: tuple[KeeperPart, WorkerPart, WorkerPart],
) -> None:
    """Sessions outlive the keeper; after its return all of them are listed, and none that ended meanwhile."""
    keeper, first, _ = parts
    first.open("a0")
    first.open("a1")
    await until(lambda: keeper.ids() == {"a0", "a1"})
    keeper.channel.close()
    await until(lambda: not first.channel.is_connected)
    first.close("a0")
    first.open("a2")
    keeper.start()
    await until(lambda: keeper.ids() == {"a1", "a2"})


async def test_a_lost_worker_takes_its_sessions_along(parts: tuple[KeeperPart, WorkerPart, WorkerPart]) -> None:
    """What a worker had told is not shown when its connection has ended."""
    keeper, first, second = parts
    first.open("a0")
    second.open("b0")
    await until(lambda: keeper.ids() == {"a0", "b0"})
    await first.stop()
    await until(lambda: keeper.ids() == {"b0"})


async def test_a_report_that_is_refused_is_made_again(
    parts: tuple[KeeperPart, WorkerPart, WorkerPart], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that fails costs no session its place: everything is told anew."""
    keeper, first, _ = parts
    failures = iter([True])
    begin = keeper.desk.register.opened

    def fails_once(worker: object, row: SessionRow) -> bool:
        if next(failures, False):
            raise RuntimeError("for once")
        return begin(worker, row)

    monkeypatch.setattr(keeper.desk.register, "opened", fails_once)
    first.open("a0")
    await until(lambda: keeper.ids() == {"a0"})
