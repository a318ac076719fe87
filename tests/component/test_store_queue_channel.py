"""The worker's end of the queue against the keeper's, over a real socket, with a keeper that comes and goes."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mailfront.base.clock import SystemClock
from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.base.tasks import spawn
from mailfront.mail.body import MemoryBody, PrefixedBody
from mailfront.mail.envelope import NO_OPTIONS
from mailfront.mail.outcome import Delivered
from mailfront.mail.reply import reply
from mailfront.net.body import BodyBudget
from mailfront.net.channel import Channel, ChannelServer
from mailfront.queue import client as client_module
from mailfront.queue.client import QueueClient
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.queue import Queue
from mailfront.queue.rows import HandoffState, RecipientState
from mailfront.queue.service import QueueService
from mailfront.queue.views import QueueViews
from mailfront.queue.wire import CopyRecipientValue, HandoffCopyValue
from mailfront.store.queue_queries import ListedRow, Selector
from mailfront.store.writer import Store
from tests.support.queue_rows import (
    NOTICES,
    RETRY_S,
    A,
    B,
    C,
    FakeHomes,
    message_id,
    open_store,
    queued_message,
    queued_recipient,
)

_OK = Delivered(A, reply(250, "2.0.0", "ok"))
_BODY = PrefixedBody(b"Received: x\r\n", MemoryBody(b"hello\r\n" * 60_000))


class Keeper:
    """The keeper's part of the queue: it can be stopped and started again on the same database."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = str(directory / "keeper.sock")
        self.woken_count = 0
        self.store: Store
        self.queue: Queue
        self.service: QueueService
        self.server: ChannelServer

    async def start(self) -> None:
        self.store = open_store(self.directory, SystemClock())
        self.queue = Queue(self.store, FakeHomes(), retry_s=RETRY_S, notices=NOTICES, alarm=lambda name, text: None)
        await self.queue.load()
        self.handoffs = HandoffTable(self.store, retry_s=RETRY_S)
        self.service = QueueService(self.queue, self.handoffs, self._wake)
        self.server = ChannelServer(self.path, {}, on_peer=self.service.peer_came, on_peer_gone=self.service.peer_gone)
        self.service.serve(self.server)
        await self.service.start()
        self.server.start()

    async def stop(self) -> None:
        self.server.close()
        await self.service.close()
        await self.store.close()

    def _wake(self) -> None:
        self.woken_count += 1

    async def rows(self) -> list[ListedRow]:
        return list((await QueueViews(self.store, FakeHomes()).list_rows(Selector(), limit=100)).rows)


async def _until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(15.0):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    made = Keeper(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def channel(keeper: Keeper) -> AsyncIterator[Channel]:
    made = Channel(keeper.path, "worker-0")
    yield made
    await made.close()


@pytest.fixture
async def client(channel: Channel) -> AsyncIterator[QueueClient]:
    made = QueueClient(channel, SystemClock())
    assert not made.gate_is_open(0)
    channel.start()
    await _until(lambda: made.gate_is_open(0), "the gate")
    yield made
    await made.close()


async def test_accepted_over_the_channel(keeper: Keeper, client: QueueClient) -> None:
    """A large body with a prefix in front comes through whole; active rows are leased to this process."""
    active = replace(queued_recipient(1, "bob", 1), state=RecipientState.ACTIVE, node=B)
    message = queued_message(1, 5.0)
    await client.accept(message, _BODY, [queued_recipient(0, "ana", 0), active])
    assert keeper.woken_count == 1
    assert [row.state for row in await keeper.rows()] == ["waiting", "active"]
    assert (await keeper.queue.lease_owners())[0].startswith("pid:")
    (claimed,) = await keeper.queue.claim(A, limit=5, owner="me")
    assert b"".join(keeper.queue.body(claimed.message).pieces()) == b"".join(_BODY.pieces())


async def test_a_body_in_a_file_is_sent_as_that_file(
    keeper: Keeper, client: QueueClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker has on disk is not copied for the keeper, and comes through whole."""

    def no_copy(pieces: object) -> int:
        raise AssertionError("the body was copied")

    monkeypatch.setattr("mailfront.queue.sent_body.memory_file", no_copy)
    data = b"hello\r\n" * 200_000
    writer = BodyBudget(memory_bytes=0, disk_bytes=10**7, spool_dir=tmp_path).open(len(data))
    assert writer is not None
    writer.write(data)
    await writer.spill()
    body = PrefixedBody(b"Received: x\r\n", writer.finish())
    await client.accept(queued_message(1, 5.0), body, [queued_recipient(0, "ana", 0)])
    (claimed,) = await keeper.queue.claim(A, limit=5, owner="me")
    assert b"".join(keeper.queue.body(claimed.message).pieces()) == b"Received: x\r\n" + data


async def test_results_are_kept_while_the_keeper_is_away(keeper: Keeper, client: QueueClient) -> None:
    """A result that finds no keeper is committed by the next one; the gate is shut in between."""
    rows = [replace(queued_recipient(0, "ana", 0), state=RecipientState.ACTIVE, node=A)]
    await client.accept(queued_message(1, 5.0), _BODY, rows)
    await keeper.stop()
    await _until(lambda: not client.gate_is_open(0), "the gate to shut")
    assert "away" in client.gate_reason
    await client.settle(message_id(1), {0: _OK})
    assert client.kept_count == 1
    await keeper.start()
    await _until(lambda: client.kept_count == 0, "the result to be committed")
    assert await keeper.rows() == []


async def test_a_result_that_cannot_be_settled_holds_up_no_other(
    keeper: Keeper, client: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper fails at one message: the results behind it are committed, and that one is tried again."""
    real, works = keeper.queue.settle, False

    async def settle(of: MessageId, *args: object, **kwargs: object) -> None:
        if of == message_id(1) and not works:
            raise LookupError("something about this one")
        await real(of, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(keeper.queue, "settle", settle)
    rows = [replace(queued_recipient(0, "ana", 0), state=RecipientState.ACTIVE, node=A)]
    for number in (1, 2, 3):
        await client.accept(queued_message(number, 5.0), _BODY, rows)
    for number in (1, 2, 3):
        await client.settle(message_id(number), {0: _OK})
    await _until(lambda: client.kept_count == 1, "the other results to be committed")
    assert [row.id for row in await keeper.rows()] == [message_id(1)]
    works = True
    await _until(lambda: client.kept_count == 0, "the last result")
    assert await keeper.rows() == []


async def test_a_keeper_that_stays_away_is_an_answer_in_time(
    keeper: Keeper, client: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not even be sent fails when the keeper does not come back: the client of ours gets its 451."""
    monkeypatch.setattr("mailfront.queue.client.RECONNECT_WITHIN_S", 0.2)
    await keeper.stop()
    await _until(lambda: not client.gate_is_open(0), "the loss")
    async with asyncio.timeout(5.0):
        with pytest.raises(Unavailable):
            await client.accept(queued_message(1, 5.0), _BODY, [queued_recipient(0, "ana", 0)])
    await keeper.start()


async def test_a_keeper_that_is_exchanged_costs_only_a_moment(keeper: Keeper, client: QueueClient) -> None:
    """A message that needs the queue while the keeper is away for a moment is kept by the next one."""
    await keeper.stop()
    await _until(lambda: not client.gate_is_open(0), "the loss")
    kept = spawn(client.accept(queued_message(1, 5.0), _BODY, [queued_recipient(0, "ana", 0)]), name="accept")
    await asyncio.wait([kept], timeout=0.3)
    assert not kept.done()
    await keeper.start()
    async with asyncio.timeout(10.0):
        await kept


async def test_an_answer_that_was_lost_is_asked_for_again(
    keeper: Keeper, client: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper dies after its commit and before its answer: the second keeper is asked the same and says yes."""
    real = keeper.queue.accept
    done = asyncio.Event()

    async def accept_and_hang(*args: object, **kwargs: object) -> None:
        await real(*args, **kwargs)  # type: ignore[arg-type]
        done.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(keeper.queue, "accept", accept_and_hang)
    asking = asyncio.ensure_future(  # noqa: TID251
        client.accept(queued_message(1, 5.0), _BODY, [queued_recipient(0, "ana", 0)])
    )
    await done.wait()
    await keeper.stop()
    await keeper.start()
    async with asyncio.timeout(15.0):
        await asking
    assert len(await keeper.rows()) == 1


async def test_a_message_that_nobody_answered_for_is_disowned(
    keeper: Keeper, client: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no answer comes in time the caller says 451, and the keeper forgets the copy that it may have."""
    real, forgotten = keeper.queue.accept, asyncio.Event()
    monkeypatch.setattr(client_module, "ACCEPT_WITHIN_S", 0.5)
    monkeypatch.setattr(client_module, "ANSWER_WITHIN_S", 0.2)

    async def accept_and_hang(*args: object, **kwargs: object) -> int:
        kept_count = await real(*args, **kwargs)  # type: ignore[arg-type]
        await forgotten.wait()
        return kept_count

    monkeypatch.setattr(keeper.queue, "accept", accept_and_hang)
    with pytest.raises(Unavailable, match="no answer"):
        await client.accept(queued_message(1, 5.0), _BODY, [queued_recipient(0, "ana", 0)])
    async with asyncio.timeout(15.0):
        while await keeper.rows():
            await asyncio.sleep(0.01)
    forgotten.set()


async def test_a_store_that_cannot_commit_refuses_at_once(
    keeper: Keeper, client: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A definite no is not asked for again, and the gate shuts in the worker."""
    keeper.store.gate.commit_failed("disk full")
    monkeypatch.setattr("mailfront.store.commits.MAX_WAITING", 0)
    async with asyncio.timeout(5.0):
        with pytest.raises(Unavailable, match="waiting already"):
            await client.accept(queued_message(1, 5.0), _BODY, [queued_recipient(0, "ana", 0)])
    await _until(lambda: client.gate_reason == "disk full", "the gate to shut")
    assert not client.gate_is_open(0)


async def test_hints_over_the_channel(keeper: Keeper, client: QueueClient) -> None:
    """A hint is committed before the worker goes on, and superseded when it says so."""
    row = queued_recipient(0, "ana", 0)
    to = CopyRecipientValue(
        number=0, address=row.address, mailbox_key=row.mailbox_key, node_user=row.node_user, options=NO_OPTIONS
    )
    copy = HandoffCopyValue(id=message_id(1), home=A, reverse_path=None, arrived_s=1.0, recipients=(to,))
    await client.hint_begin(copy, B)
    (found,) = await keeper.handoffs.find([message_id(1)])
    assert (found.state, found.holder, found.home) == (HandoffState.STORED, B, A)
    await client.hints_superseded(message_id(1), [(B, C)])
    (found,) = await keeper.handoffs.find([message_id(1)])
    assert found.state is HandoffState.STORED
    await client.hints_superseded(message_id(1), [(B, A)])
    (found,) = await keeper.handoffs.find([message_id(1)])
    assert found.state is HandoffState.SUPERSEDED


async def test_ids_are_checked(channel: Channel, client: QueueClient) -> None:
    """Only a message id becomes part of a row."""
    with pytest.raises(Unavailable, match="not a message id"):
        await channel.request("queue.disown", {"id": "../../x"}, timeout_s=5.0)


async def test_leases_of_a_dead_worker_end(keeper: Keeper) -> None:
    """A process that is gone holds nothing; one that only lost its connection keeps its leases."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        active = replace(queued_recipient(0, "ana", 0), state=RecipientState.ACTIVE, node=B)
        await keeper.queue.accept(queued_message(1, 5.0), _BODY, [active], owner=f"pid:{sleeper.pid}")
        peer = next(iter(keeper.server.peers), None)
        assert peer is None
        from mailfront.net.channel import Peer

        keeper.service.peer_gone(Peer(sleeper.pid, 0, 0))
        await keeper.queue.store.write(lambda c: None)
        assert [row.state for row in await keeper.rows()] == ["active"]
    finally:
        sleeper.kill()
        sleeper.wait()
    async with asyncio.timeout(15.0):
        while (await keeper.rows())[0].state != "unknown":
            await asyncio.sleep(0.01)


async def test_a_new_keeper_ends_the_leases_of_the_dead(keeper: Keeper) -> None:
    """At its start a keeper looks who holds leases, and takes those of processes that are gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    active = replace(queued_recipient(0, "ana", 0), state=RecipientState.ACTIVE, node=B)
    await keeper.queue.accept(queued_message(1, 5.0), _BODY, [active], owner=f"pid:{gone.pid}")
    await keeper.stop()
    await keeper.start()
    assert [row.state for row in await keeper.rows()] == ["unknown"]
    assert keeper.queue.pending.unknown_is_due(B, SystemClock().wall_s())
