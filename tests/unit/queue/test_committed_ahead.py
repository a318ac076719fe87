"""Rows that were committed before their delivery was tried: how a worker ends them, and what the sender hears."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailfront.base.clock import ManualClock
from mailfront.mail.body import MemoryBody
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.next_hop import RESOLVE
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Outcome
from mailfront.mail.reply import reply
from mailfront.queue.dsn import NoticeKind
from mailfront.queue.queue import Queue
from mailfront.queue.rows import QueuedRecipient, RecipientState
from mailfront.store import message_rows, recipient_rows
from mailfront.store.writer import Store
from tests.support.queue_rows import (
    HOPS,
    NOTICES,
    RETRY_S,
    A,
    B,
    FakeHomes,
    message_id,
    open_store,
    queued_message,
    queued_recipient,
)

DONE = Delivered(A, reply(250, "2.0.0", "saved"))
CLOSED = Failed(reply(550, "5.2.1", "closed"), A)
FULL = Deferred(Blame.MAILBOX, reply(452, "4.2.2", "full"), A)
BODY = MemoryBody(b"Subject: x\r\n\r\nhello\r\n")
WORKER = "pid:7"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, ManualClock())
    yield opened
    await opened.close()


@pytest.fixture
def queue(store: Store) -> Queue:
    homes = FakeHomes(pins=HOPS)
    return Queue(store, homes, retry_s=RETRY_S, notices=NOTICES, alarm=lambda name, text: None)


async def accept(queue: Queue, *, notify: str | None = None) -> None:
    """ana is tried now by a worker, ben waits."""
    ana = replace(
        queued_recipient(0, "ana", 0),
        state=RecipientState.ACTIVE,
        node=A,
        options=RecipientOptions(notify=notify),
    )
    ben = replace(queued_recipient(1, "ben", 1), attempts=0)
    await queue.accept(queued_message(1, 0.0), BODY, [ana, ben], owner=WORKER)


async def settle(queue: Queue, outcome: Outcome, withdrawn: tuple[int, ...] = ()) -> None:
    """As the worker does it."""
    await queue.settle(message_id(1), {0: outcome}, attempts={0: 1}, withdrawn=withdrawn)


async def rows(queue: Queue) -> list[QueuedRecipient]:
    """What is left of the message."""
    found = await queue.store.read(lambda connection: recipient_rows.recipient_rows(connection, message_id(1)))
    return [recipient_rows.recipient_from_row(row) for row in found]


async def notices(queue: Queue) -> list[bytes]:
    """The notices that are queued."""
    claimed = await queue.claim(RESOLVE, limit=9, owner="me")
    return [b"".join(queue.body(one.message).pieces()) for one in claimed]


@pytest.mark.parametrize("outcome", [CLOSED, FULL])
async def test_what_the_client_heard_itself_ends_in_silence(queue: Queue, outcome: Outcome) -> None:
    """Withdrawn: the row is gone, nobody is told, the others stay."""
    await accept(queue)
    await settle(queue, outcome, withdrawn=(0,))
    assert [row.number for row in await rows(queue)] == [1]
    assert await notices(queue) == []


async def test_what_the_client_did_not_hear_is_told_or_tried_again(queue: Queue) -> None:
    """Failed: a notice with the node's word, in the transaction that ends the row. Deferred: it waits."""
    await accept(queue)
    await settle(queue, CLOSED)
    (notice,) = await notices(queue)
    assert b"550 5.2.1 closed" in notice
    await settle(queue, CLOSED)
    assert await notices(queue) == []


async def test_a_withdrawal_that_comes_late_or_twice_changes_nothing(queue: Queue) -> None:
    """The row went on after its worker died: it is the queue's now, and no longer the client's to refuse."""
    await accept(queue)
    await queue.release_leases_of(WORKER)
    await settle(queue, CLOSED, withdrawn=(0,))
    assert [(row.number, row.state) for row in await rows(queue)] == [
        (0, RecipientState.UNKNOWN),
        (1, RecipientState.WAITING),
    ]


async def test_a_cut_through_delivery_tells_its_success(queue: Queue) -> None:
    """NOTIFY=SUCCESS: the notice comes with the end of the row; without it there is none."""
    await accept(queue, notify="SUCCESS")
    await settle(queue, DONE)
    (notice,) = await notices(queue)
    assert b"Action: delivered" in notice
    assert [row.number for row in await rows(queue)] == [1]


async def test_a_list_is_told_of_in_the_accepting_transaction(queue: Queue) -> None:
    """It is no row of the queue; the sender who asked hears at once that his mail was expanded."""
    members = [queued_recipient(number, f"m{number}", number) for number in (0, 1)]
    about = replace(queued_recipient(2, "list", 0), options=RecipientOptions(notify="SUCCESS"))
    await queue.accept(queued_message(1, 0.0), BODY, members, told=[(about, NoticeKind.EXPANDED)])
    (notice,) = await notices(queue)
    assert b"Action: expanded" in notice
    assert b"list@example.edu" in notice
    assert [row.address for row in await rows(queue)] == ["m0@example.edu", "m1@example.edu"]


async def test_a_worker_that_said_451_disowns_what_it_was_about_to_try(queue: Queue) -> None:
    """It never heard of the commit. What the queue has taken up meanwhile goes on."""
    await accept(queue)
    await queue.claim(B, limit=1, owner="me")
    await queue.disown(message_id(1), owner=WORKER)
    assert [row.number for row in await rows(queue)] == [1]
    assert await queue.store.read(lambda connection: message_rows.get_message(connection, message_id(1))) is not None
