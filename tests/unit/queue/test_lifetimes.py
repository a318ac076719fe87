"""What becomes of mail that waits too long, by the clock: one warning, then the end, and who hears of it."""

import email
from collections.abc import AsyncIterator
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.mail.body import MemoryBody
from mailfront.mail.envelope import NO_OPTIONS, RecipientOptions
from mailfront.mail.names import NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RELAY, RESOLVE, next_hop_key
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Unknown
from mailfront.mail.reply import reply
from mailfront.observe import log
from mailfront.queue.lifetimes import Lifetimes
from mailfront.queue.operations import Order, QueueOperations, Verb
from mailfront.queue.queue import Queue
from mailfront.queue.rows import Place, QueuedMessage, QueuedRecipient, RecipientState
from mailfront.queue.views import QueueViews
from mailfront.store import recipient_rows
from mailfront.store.queue_queries import Selector
from tests.support.queue_rows import (
    HOPS,
    NOTICES,
    RETRY_S,
    A,
    FakeHomes,
    message_id,
    open_store,
    queued_message,
    queued_recipient,
)

WARN_S, LIFETIME_S = 14_400.0, 432_000.0
ALLOWED, STRANGER = "192.0.2.7", "198.51.100.7"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def queue(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Queue]:
    store = open_store(tmp_path, clock)
    policy = replace(NOTICES, double_bounce="bounces@example.edu")
    yield Queue(
        store, FakeHomes(pins=HOPS), retry_s=RETRY_S, alarm=lambda name, text: None, notices=policy, chance=lambda: 0.5
    )
    await store.close()


async def put(
    queue: Queue,
    *,
    client_ip: str = ALLOWED,
    notify: str | None = None,
    sender: str | None = "s@out.example",
    proven: bool | None = None,
    list_owner: str | None = None,
) -> None:
    """One message with one recipient at a node that is away."""
    message = replace(queued_message(1, queue.store.clock.wall_s()), client_ip=client_ip, reverse_path=sender)
    message = replace(message, sender_proven=proven)
    row = replace(
        queued_recipient(0, "ana", 0), last_reply="451 4.4.1 a is away", options=RecipientOptions(notify=notify)
    )
    row = replace(row, list_owner=list_owner)
    await queue.accept(message, MemoryBody(b"Subject: x\r\n\r\nhello\r\n"), [row])


async def look(queue: Queue) -> list[tuple[QueuedMessage, str, bytes]]:
    """What the clock does now; returns the notices that came of it: message, reader, bytes."""
    lifetimes = Lifetimes(queue)
    for page in (lifetimes.expire, lifetimes.warn):
        while await page():
            pass
    return [
        (each.message, each.recipients[0].address, b"".join(queue.body(each.message).pieces()))
        for each in await queue.claim(RESOLVE, limit=10, owner="me")
    ]


async def rows(queue: Queue) -> list[QueuedRecipient]:
    """The rows of the message."""
    found = await queue.store.read(lambda connection: recipient_rows.recipient_rows(connection, message_id(1)))
    return [recipient_rows.recipient_from_row(row) for row in found]


async def test_one_warning_then_the_end(queue: Queue, clock: ManualClock) -> None:
    """Nothing before `warn_after`; then one `delayed` and never a second; at the end of the lifetime one `failed`."""
    await put(queue)
    clock.advance(WARN_S - 1)
    assert await look(queue) == []
    clock.advance(2)
    ((message, reader, warning),) = await look(queue)
    assert (message.reverse_path, reader) == (None, "s@out.example")
    assert b"Action: delayed\r\n" in warning
    assert b"Will-Retry-Until: " in warning
    clock.advance(LIFETIME_S / 2)
    assert await look(queue) == []
    assert [row.state for row in await rows(queue)] == [RecipientState.WAITING]
    clock.advance(LIFETIME_S / 2)
    ((_, _, failure),) = await look(queue)
    assert b"Action: failed\r\nStatus: 4.4.7\r\n" in failure
    assert b"a is away" in failure
    assert await rows(queue) == []
    assert await look(queue) == []


@pytest.mark.parametrize(
    ("client_ip", "notify", "sender", "warned", "failed"),
    [
        (STRANGER, None, "s@out.example", 0, "s@out.example"),
        ("", None, "s@out.example", 0, "s@out.example"),
        (ALLOWED, "FAILURE", "s@out.example", 0, "s@out.example"),
        (ALLOWED, "DELAY", "s@out.example", 1, None),
        (ALLOWED, "NEVER", "s@out.example", 0, None),
        (ALLOWED, None, None, 0, "bounces@example.edu"),
    ],
)
async def test_who_is_told(
    queue: Queue, clock: ManualClock, client_ip: str, notify: str | None, sender: str | None, warned: int, failed: str
) -> None:
    """Warnings only to senders behind listed clients who want them; the end to whoever did not decline it, and of a
    message without a sender to `double_bounce`."""
    await put(queue, client_ip=client_ip, notify=notify, sender=sender)
    clock.advance(WARN_S + 1)
    assert len(await look(queue)) == warned
    clock.advance(LIFETIME_S)
    assert [reader for _, reader, _ in await look(queue)] == ([] if failed is None else [failed])
    assert await rows(queue) == []


@pytest.mark.parametrize(
    ("proven", "client_ip", "warned", "failed"),
    [
        (True, STRANGER, 1, 1),
        (None, STRANGER, 0, 1),
        (False, STRANGER, 0, 0),
        (False, ALLOWED, 1, 1),
    ],
)
async def test_no_backscatter(
    queue: Queue, clock: ManualClock, proven: bool | None, client_ip: str, warned: int, failed: int
) -> None:
    """A sender whose domain vouches for the client hears all; one whose domain denies it hears nothing, unless the
    client is listed; where nobody knows, he hears of the end but is not warned."""
    await put(queue, client_ip=client_ip, proven=proven)
    clock.advance(WARN_S + 1)
    assert len(await look(queue)) == warned
    clock.advance(LIFETIME_S)
    assert len(await look(queue)) == failed
    assert await rows(queue) == []


@pytest.mark.parametrize(
    ("sender", "proven", "client_ip", "reason"),
    [
        ("s@out.example", False, STRANGER, "denies"),
        (None, None, ALLOWED, "the sender is null"),
        ("s@out.example", None, STRANGER, ""),
        ("s@out.example", False, ALLOWED, ""),
    ],
)
@pytest.mark.parametrize("how", ["refused", "bounced", "told of success"])
async def test_nobody_hears_of_what_he_hardly_sent_however_it_ends(
    queue: Queue, how: str, sender: str | None, proven: bool | None, client_ip: str, reason: str
) -> None:
    """The node's refusal, an administrator's bounce, a success that was asked for: by one rule, and the event says why
    nobody hears. Without `double_bounce` nobody hears for the null sender."""
    queue.notices = replace(queue.notices, double_bounce=None)
    await put(queue, client_ip=client_ip, sender=sender, proven=proven, notify="SUCCESS,FAILURE")
    events: list[dict[str, Any]] = []
    with log.listening(events.append):
        if how == "bounced":
            order = Order(verb=Verb.BOUNCE, selector=Selector(ids=(message_id(1),)), uid=0)
            await QueueOperations(queue, QueueViews(queue.store, FakeHomes(pins=HOPS))).run(order)
        else:
            answer = reply(250, "2.0.0", "ok") if how != "refused" else reply(550, "5.7.1", "no")
            await queue.claim(A, limit=1, owner="me")
            await queue.settle(message_id(1), {0: Failed(answer, A) if how == "refused" else Delivered(A, answer)})
    assert await rows(queue) == []
    assert len(await look(queue)) == (0 if reason else 1)
    (told,) = [event for event in events if event["event"] == "notice"]
    assert (reason in told["reason"], bool(told["reason"]), bool(told["notice"])) == (True, bool(reason), not reason)


async def test_the_owner_of_a_list_hears_of_its_members_whoever_sent_it(queue: Queue, clock: ManualClock) -> None:
    """A forged sender keeps nothing from the owner, who is nobody's victim: his own list sent it."""
    await put(queue, client_ip=STRANGER, proven=False, list_owner="owner@example.edu")
    clock.advance(LIFETIME_S + 1)
    assert [reader for _, reader, _ in await look(queue)] == ["owner@example.edu"]


async def test_a_double_bounce_that_fails_behind_a_forward_is_the_last_one(queue: Queue, clock: ManualClock) -> None:
    """The mailbox of `double_bounce` forwards outside and is refused there: no notice about the notice, for ever."""
    await put(queue, sender=None)
    clock.advance(LIFETIME_S + 1)
    lifetimes = Lifetimes(queue)
    await lifetimes.expire()
    (notice,) = await queue.claim(RESOLVE, limit=1, owner="me")
    away = Place(
        address="admin@out.example",
        mailbox_key=next_hop_key(RELAY),
        bucket=NEXT_HOP_BUCKET,
        node_user=NodeUser("admin@out.example"),
        options=NO_OPTIONS,
        via="staff@example.edu",
        list_owner="owner@example.edu",
    )
    await queue.redirect_row(notice.message.id, 0, 1, [away])
    (sent,) = await queue.claim(RELAY, limit=1, owner="me")
    await queue.settle(sent.message.id, {0: Failed(reply(550, "5.1.1", "nobody"), RELAY)})
    assert await look(queue) == []


async def test_what_is_held_waits_for_a_person(queue: Queue, clock: ManualClock) -> None:
    """Neither warned about nor given up, however long."""
    await put(queue)
    held = {"state": RecipientState.HELD.value}
    await queue.store.write(lambda c: recipient_rows.change_recipients(c, message_id(1), [0], held))
    clock.advance(LIFETIME_S + 1)
    assert await look(queue) == []
    assert len(await rows(queue)) == 1


async def test_a_lost_answer_is_given_up_as_doubtful(queue: Queue, clock: ManualClock) -> None:
    """A row of unknown outcome ends like others, and its sender reads that it may have arrived."""
    await put(queue)
    await queue.claim(A, limit=1, owner="me")
    await queue.settle(message_id(1), {0: Unknown(A, "no answer")})
    clock.advance(LIFETIME_S + 1)
    ((_, _, failure),) = await look(queue)
    assert b"Action: failed" in failure
    assert await rows(queue) == []


async def test_an_attempt_that_outlives_the_lifetime_and_gets_no_answer_is_the_end(
    queue: Queue, clock: ManualClock
) -> None:
    """It was under way when the message expired, and nobody looks at that message again: its sender reads of the
    doubt now, for the row would be tried for ever otherwise."""
    await put(queue)
    await queue.claim(A, limit=1, owner="me")
    clock.advance(LIFETIME_S + 1)
    assert await look(queue) == []
    await queue.settle(message_id(1), {0: Unknown(A, "no answer")})
    ((_, _, failure),) = await look(queue)
    assert b"Action: failed" in failure
    people = email.message_from_bytes(failure).get_payload(0)
    assert isinstance(people, Message)
    assert "may have arrived" in str(people.get_payload(decode=True))
    assert await rows(queue) == []


async def test_the_last_attempt_may_be_the_end(queue: Queue, clock: ManualClock) -> None:
    """An attempt that is deferred after the lifetime ends the row itself, with the server's word."""
    await put(queue)
    await queue.claim(A, limit=1, owner="me")
    clock.advance(LIFETIME_S + 1)
    full = Deferred(Blame.MAILBOX, reply(452, "4.2.2", "mailbox full"), A)
    await queue.settle(message_id(1), {0: full})
    ((_, _, failure),) = await look(queue)
    assert b"Status: 4.2.2\r\n" in failure
