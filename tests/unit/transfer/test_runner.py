"""Every attempt of the queue runner ends with a committed result, also when something breaks that nobody expected."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.ids import MessageId
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.node_table import NodeStateTable
from mailfront.delivery.transaction import LmtpTransaction
from mailfront.mail.body import MemoryBody
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Delivered, Outcome
from mailfront.mail.reply import reply
from mailfront.observe.health import HealthTable
from mailfront.queue.queue import Queue
from mailfront.queue.rows import QueuedRecipient, RecipientState
from mailfront.store import recipient_rows
from mailfront.store.writer import Store
from mailfront.transfer.runner import QueueRunner
from tests.support.queue_rows import (
    NOTICES,
    RETRY_S,
    A,
    FakeHomes,
    message_id,
    open_store,
    queued_message,
    queued_recipient,
)

TAKEN = Delivered(A, reply(250, "2.0.0", "saved"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, clock)
    yield opened
    await opened.close()


class NobodySearches:
    """No master user."""

    can_search = False

    async def find(self, node: NodeId, node_user: str, message_id: MessageId, arrived_s: float) -> bool | None:
        return None


class ScriptedDelivery:
    """Takes the first transactions, and breaks at the one after them."""

    def __init__(self, taken_count: int) -> None:
        self.taken_count = taken_count
        self.users: list[str] = []

    def start(self, node: NodeId, transaction: LmtpTransaction, **_: Any) -> "ScriptedDelivery":
        if len(self.users) == self.taken_count:
            raise ValueError("a bug")
        self.users += [recipient.node_user for recipient in transaction.recipients]
        return self

    async def result(self) -> tuple[Outcome, ...]:
        return (TAKEN,)


async def rows_of(store: Store) -> Sequence[QueuedRecipient]:
    found = await store.read(lambda connection: recipient_rows.recipient_rows(connection, message_id(1)))
    return [recipient_rows.recipient_from_row(row) for row in found]


async def test_our_own_fault_leaves_no_row_active(store: Store, clock: ManualClock) -> None:
    """What was delivered before is done; the rest is of unknown outcome, since its lease would be renewed for ever."""
    queue = Queue(store, FakeHomes(nodes=(A,)), retry_s=RETRY_S, notices=NOTICES, alarm=lambda name, text: None)
    recipients = [queued_recipient(number, "ana", 5) for number in (0, 1)]  # one mailbox: two transactions
    await queue.accept(queued_message(1, clock.wall_s()), MemoryBody(b"x: y\r\n"), recipients)
    delivery = ScriptedDelivery(taken_count=1)
    runner = QueueRunner(
        queue,
        delivery,  # type: ignore[arg-type]  # the part that the runner uses
        NodeStateTable([A]),
        NobodySearches(),
        clock,
        owner="pid:1",
        slots={A: 4},
        hops={},
        alarms=HealthTable(clock),
        lease_s=900.0,
        final_timeout_s=600.0,
    )
    task = spawn(runner.run(), name="runner")
    try:
        async with asyncio.timeout(20):
            while len(rows := await rows_of(store)) != 1:
                await asyncio.sleep(0.02)
    finally:
        await cancel_and_wait(task)
    assert delivery.users == ["ana"]
    assert [(row.number, row.state, row.node) for row in rows] == [(1, RecipientState.UNKNOWN, A)]
    assert runner.in_use_count == 0
