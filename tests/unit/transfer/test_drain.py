"""Every claim of the drain ends: at home, given back, or unknown. Nothing stays leased to a process that lives on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.hashing import Node
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import ClusterMap
from mailfront.delivery.handoff_block import HandoffEnvelope
from mailfront.delivery.transaction import LmtpTransaction
from mailfront.mail.body import MemoryBody
from mailfront.mail.envelope import NO_OPTIONS
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.outcome import Delivered, Outcome
from mailfront.mail.reply import reply
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.rows import HandoffRow, HandoffState
from mailfront.queue.wire import CopyRecipientValue, HandoffCopyValue
from mailfront.store.errors import StoreFailed
from mailfront.store.writer import Store
from mailfront.transfer.copies import HandoffCopy
from mailfront.transfer.drain import HandoffDrain
from mailfront.transfer.imap import ImapFailed
from tests.support.queue_rows import RETRY_S, A, B, message_id, open_store

HOME_TOOK_IT = Delivered(A, reply(250, "2.0.0", "saved"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, clock)
    yield opened
    await opened.close()


class ScriptedImap:
    """A holder whose IMAP fails `failures_count` times at login and then works."""

    handoff = master = object()

    def __init__(self, failures_count: int = 0) -> None:
        self.failures_count = failures_count
        self.deleted: list[int] = []

    @asynccontextmanager
    async def as_handoff(self, node: NodeId) -> AsyncIterator["ScriptedImap"]:
        if self.failures_count:
            self.failures_count -= 1
            raise ImapFailed("connect: refused")
        yield self

    async def delete(self, mailbox: str, uids: Sequence[int]) -> None:
        self.deleted += uids


class ScriptedCopies:
    """Every copy is there, unless the test gave an exception for it."""

    def __init__(self, troubles: dict[MessageId, Exception]) -> None:
        self.troubles = troubles

    async def find(self, session: object, id_: MessageId, home: NodeId) -> HandoffCopy:
        if id_ in self.troubles:
            raise self.troubles.pop(id_)
        envelope = HandoffEnvelope(
            id=id_,
            home=home,
            reverse_path=None,
            body_type="7BIT",
            smtputf8=False,
            ret=None,
            envid=None,
            arrived_s=0.0,
            recipients=(),
        )
        return HandoffCopy(envelope, MemoryBody(b"x: y\r\n"), (int(id_),))


class ScriptedDelivery:
    """The home takes everything; notes what it got."""

    def __init__(self) -> None:
        self.ids: list[MessageId] = []

    def start(self, node: NodeId, transaction: LmtpTransaction, **_: Any) -> "ScriptedDelivery":
        self.ids.append(transaction.id)
        return self

    async def result(self) -> tuple[Outcome, ...]:
        return (HOME_TOOK_IT,)


class FailingTable(HandoffTable):
    """A table whose database does not take the first results."""

    failures_count = 0

    async def at_home(self, message_id: MessageId, holder: NodeId, numbers: Sequence[int]) -> None:
        if self.failures_count:
            self.failures_count -= 1
            raise StoreFailed("disk full")
        await super().at_home(message_id, holder, numbers)


class Bench:
    """A drain between scripted parts and a real table."""

    def __init__(self, store: Store, clock: ManualClock, *, troubles: dict[MessageId, Exception], logins: int) -> None:
        self.clock = clock
        self.table = FailingTable(store, retry_s=RETRY_S, chance=lambda: 0.5)
        self.imap = ScriptedImap(logins)
        self.delivery = ScriptedDelivery()
        nodes = [Node(A, 100, ""), Node(B, 100, "")]
        cluster_map = ClusterMap(version=1, cluster="test", nodes=nodes, owners=[A] * 4096)
        self.drain = HandoffDrain(
            self.table,
            ScriptedCopies(troubles),  # type: ignore[arg-type]  # the part that the drain uses; the others likewise
            self.imap,  # type: ignore[arg-type]
            self.delivery,  # type: ignore[arg-type]
            NodeStateTable([A, B]),
            lambda: cluster_map,
            clock,
            owner="pid:1",
            alarm=lambda name, text: None,
        )

    async def hand_off(self, count: int) -> None:
        """So many messages for `ana` at A, kept by B."""
        for number in range(1, count + 1):
            to = CopyRecipientValue(
                number=0, address="ana@x", mailbox_key=MailboxKey("ana"), node_user=NodeUser("ana"), options=NO_OPTIONS
            )
            copy = HandoffCopyValue(id=message_id(number), home=A, reverse_path=None, arrived_s=0.0, recipients=(to,))
            await self.table.begin(copy, B)

    async def rows(self, count: int) -> list[HandoffRow]:
        return await self.table.find([message_id(number) for number in range(1, count + 1)])

    async def run_until(self, count: int, is_reached: Callable[[list[HandoffRow]], bool]) -> list[HandoffRow]:
        """Run the drain until the rows are as the test wants them."""
        task = spawn(self.drain.run(), name="drain")
        try:
            async with asyncio.timeout(20):
                while not is_reached(rows := await self.rows(count)):
                    await asyncio.sleep(0.02)
                return rows
        finally:
            await cancel_and_wait(task)


def all_expunged(rows: list[HandoffRow]) -> bool:
    return all(row.state is HandoffState.EXPUNGED for row in rows)


def all_given_back(rows: list[HandoffRow]) -> bool:
    return all(row.attempts and row.lease_owner is None for row in rows)


async def test_copies_come_home_and_go(store: Store, clock: ManualClock) -> None:
    """More than one claim's worth: each delivered once, expunged once."""
    bench = Bench(store, clock, troubles={}, logins=0)
    await bench.hand_off(25)
    await bench.run_until(25, all_expunged)
    assert sorted(bench.delivery.ids) == [message_id(number) for number in range(1, 26)]
    assert sorted(bench.imap.deleted) == list(range(1, 26))


async def test_a_holder_that_cannot_be_logged_in_to_keeps_no_lease(store: Store, clock: ManualClock) -> None:
    """Claimed rows go back and come home later: a lease of a living process would hold them for ever."""
    bench = Bench(store, clock, troubles={}, logins=1)
    await bench.hand_off(3)
    rows = await bench.run_until(3, all_given_back)
    assert {row.state for row in rows} == {HandoffState.STORED}
    clock.advance(3600)
    await bench.run_until(3, all_expunged)
    assert len(bench.delivery.ids) == 3


async def test_trouble_with_one_copy_gives_back_the_others(store: Store, clock: ManualClock) -> None:
    """A session that breaks in the middle of a claim leaves no leased row, before or after it."""
    troubles: dict[MessageId, Exception] = {message_id(2): Unavailable("the session broke")}
    bench = Bench(store, clock, troubles=troubles, logins=0)
    await bench.hand_off(4)
    rows = await bench.run_until(4, all_given_back)
    assert [row.state for row in rows] == [HandoffState.EXPUNGED, *[HandoffState.STORED] * 3]
    clock.advance(3600)
    await bench.run_until(4, all_expunged)
    assert len(bench.delivery.ids) == 4


async def test_our_own_fault_leaves_an_unknown_outcome(store: Store, clock: ManualClock) -> None:
    """After an exception that nobody expected the mailbox is searched first, and nothing stays leased."""
    bench = Bench(store, clock, troubles={message_id(1): ValueError("a bug")}, logins=0)
    await bench.hand_off(2)
    rows = await bench.run_until(2, all_given_back)
    assert [row.state for row in rows] == [HandoffState.DRAINING, HandoffState.STORED]


async def test_a_result_that_cannot_be_committed_is_kept(store: Store, clock: ManualClock) -> None:
    """What is at home is written down when the database answers again, and is not sent a second time."""
    bench = Bench(store, clock, troubles={}, logins=0)
    bench.table.failures_count = 1
    await bench.hand_off(1)
    await bench.run_until(1, all_expunged)
    assert len(bench.delivery.ids) == 1
