"""The queue over a real database: accept, claim, settle, and what time does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from mailfront.base.clock import ManualClock
from mailfront.mail.body import PIECE_BYTES, MemoryBody, PrefixedBody
from mailfront.mail.envelope import NO_OPTIONS, RecipientOptions
from mailfront.mail.names import MailboxKey, NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RESOLVE, next_hop_key
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, HandedOff, Unknown
from mailfront.mail.reply import reply
from mailfront.queue.check import check_queue
from mailfront.queue.lifetimes import Lifetimes
from mailfront.queue.queue import Queue
from mailfront.queue.rows import Place, QueuedRecipient, RecipientState
from mailfront.store import message_rows, recipient_rows
from mailfront.store.errors import CorruptBody, StoreFailed
from mailfront.store.writer import Connection, Store
from tests.support.queue_rows import (
    HOPS,
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
_DOWN = Deferred(Blame.NODE, reply(451, "4.4.1", "connection refused"), A)
_FULL = Deferred(Blame.MAILBOX, reply(452, "4.2.2", "over quota"), A)
_BODY = MemoryBody(b"Subject: x\r\n\r\nhello\r\n")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, clock)
    yield opened
    await opened.close()


@pytest.fixture
def alarms() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def queue(store: Store, alarms: list[tuple[str, str]]) -> Queue:
    return _queue(store, alarms)


def _queue(store: Store, alarms: list[tuple[str, str]], homes: FakeHomes | None = None) -> Queue:
    return Queue(
        store,
        homes or FakeHomes(pins=HOPS),
        retry_s=RETRY_S,
        notices=NOTICES,
        alarm=lambda name, text: alarms.append((name, text)),
        chance=lambda: 0.5,
    )


async def _rows(queue: Queue, number: int = 1) -> list[QueuedRecipient]:
    rows = await queue.store.read(lambda c: recipient_rows.recipient_rows(c, message_id(number)))
    return [recipient_rows.recipient_from_row(row) for row in rows]


async def _state(queue: Queue, number: int = 1) -> str | None:
    return await queue.store.read(lambda c: message_rows.message_state(c, message_id(number)))


async def _accept(queue: Queue, number: int, *recipients: QueuedRecipient) -> None:
    await queue.accept(queued_message(number, queue.store.clock.wall_s()), _BODY, recipients)


async def test_accepted_mail_is_claimed_once_and_gone_when_delivered(queue: Queue, clock: ManualClock) -> None:
    """Accept, claim with its body, deliver: nothing is left but a mark that it is done."""
    options = RecipientOptions(notify="NEVER", orcpt="rfc822;Ana@example.edu")
    await _accept(queue, 1, replace(queued_recipient(0, "Ana", 0), options=options))
    (claimed,) = await queue.claim(A, limit=5, owner="me")
    assert claimed.message == replace(queued_message(1, clock.wall_s()), size_bytes=_BODY.size_bytes)
    assert b"".join(queue.body(claimed.message).pieces()) == b"Subject: x\r\n\r\nhello\r\n"
    assert queue.body(claimed.message).head(7) == b"Subject"
    (row,) = claimed.recipients
    assert (row.options, row.attempts, row.node, row.lease_owner) == (options, 2, A, "me")
    assert row.lease_until_s == clock.wall_s() + 900.0
    assert await queue.claim(A, limit=5, owner="me") == []
    await queue.settle(message_id(1), {0: _OK}, attempts={0: 2})
    assert await _rows(queue) == []
    assert await _state(queue) == "done"
    with pytest.raises(CorruptBody):
        list(queue.body(claimed.message).pieces())


async def test_nothing_is_claimed_before_its_time_or_for_another_node(queue: Queue, clock: ManualClock) -> None:
    """A claim gives only what is due and lives at that node."""
    later_s = clock.wall_s() + 60.0
    await _accept(queue, 1, queued_recipient(0, "ana", 0, later_s), queued_recipient(1, "bob", 1))
    assert await queue.claim(A, limit=5, owner="me") == []
    (claimed,) = await queue.claim(B, limit=5, owner="me")
    assert [row.address for row in claimed.recipients] == ["bob@example.edu"]
    clock.advance(60.0)
    (claimed,) = await queue.claim(A, limit=5, owner="me")
    assert [row.address for row in claimed.recipients] == ["ana@example.edu"]


async def test_recipients_of_one_node_go_together(queue: Queue) -> None:
    """One claim of a message takes all its due recipients at the node, whatever their bucket, at most 100 at once, and
    no more batches than the node may get."""
    await _accept(queue, 1, *(queued_recipient(n, f"u{n}", 2 * n) for n in range(150)))
    claimed = await queue.claim(A, limit=1, owner="me")
    assert [len(one.recipients) for one in claimed] == [100]
    claimed = await queue.claim(A, limit=5, owner="me")
    assert [len(one.recipients) for one in claimed] == [50]
    assert await queue.claim(A, limit=5, owner="me") == []


async def test_limit_and_order(queue: Queue, clock: ManualClock) -> None:
    """A claim stops at its limit and begins with what has been due the longest."""
    now_s = clock.wall_s()
    for number, age_s in ((1, 10.0), (2, 30.0), (3, 20.0)):
        await _accept(queue, number, queued_recipient(0, f"u{number}", 2 * number, now_s - age_s))
    first = await queue.claim(A, limit=2, owner="me")
    assert [claimed.message.id for claimed in first] == [message_id(2), message_id(3)]
    (last,) = await queue.claim(A, limit=2, owner="me")
    assert last.message.id == message_id(1)


async def test_many_rows_in_one_bucket_are_all_found(queue: Queue) -> None:
    """A bucket with more due rows than the limit stays due."""
    for number in range(7):
        await _accept(queue, number, queued_recipient(0, f"u{number}", 0))
    sizes = []
    while claimed := await queue.claim(A, limit=3, owner="me"):
        sizes.append(len(claimed))
    assert sizes == [3, 3, 1]


async def test_deferral_waits_for_the_schedule(queue: Queue, clock: ManualClock) -> None:
    """A deferred row comes back when its time has come, not before."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    await queue.claim(A, limit=5, owner="me")
    await queue.settle(message_id(1), {0: _FULL}, attempts={0: 2})
    clock.advance(299.0)
    assert await queue.claim(A, limit=5, owner="me") == []
    clock.advance(2.0)
    (claimed,) = await queue.claim(A, limit=5, owner="me")
    (row,) = claimed.recipients
    assert (row.attempts, row.blame, row.last_reply) == (3, "mailbox", "452 4.2.2 over quota")


async def test_a_kick_takes_what_waits_because_of_the_node(queue: Queue, clock: ManualClock) -> None:
    """When a node returns, its node-level deferrals are tried at once and once; a full mailbox waits on."""
    for number in range(30):
        await _accept(queue, number, queued_recipient(0, f"u{number}", 0))
    await _accept(queue, 99, queued_recipient(0, "full", 0))
    while claimed := await queue.claim(A, limit=10, owner="me"):
        for one in claimed:
            outcome = _FULL if one.message.id == message_id(99) else _DOWN
            await queue.settle(one.message.id, {0: outcome}, attempts={0: 2})
    clock.advance(1.0)
    assert await queue.claim(A, limit=10, owner="me") == []
    queue.pending.kick(A, clock.wall_s())
    sizes = []
    while claimed := await queue.claim(A, limit=10, owner="me"):
        sizes.append(len(claimed))
        for one in claimed:
            await queue.settle(one.message.id, {0: _DOWN}, attempts={0: 3})
    assert sum(sizes) == 30
    assert len(sizes) == 3


async def test_pinned_mailboxes_are_claimed_by_their_node(store: Store, alarms: list[tuple[str, str]]) -> None:
    """A row goes to the node that its mailbox is pinned to; the bucket's owner never gets it."""
    queue = _queue(store, alarms, FakeHomes(pins={(0, MailboxKey("bob")): B}))
    await _accept(queue, 1, queued_recipient(0, "ana", 0), queued_recipient(1, "bob", 0))
    (at_a,) = await queue.claim(A, limit=5, owner="me")
    (at_b,) = await queue.claim(B, limit=5, owner="me")
    assert [row.mailbox_key for row in at_a.recipients] == ["ana"]
    assert [row.mailbox_key for row in at_b.recipients] == ["bob"]


async def test_unknown_is_claimed_first_and_only_at_its_node(queue: Queue, clock: ManualClock) -> None:
    """An unknown outcome goes back to the node that may have it, even when the mailbox lives elsewhere by now."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    await queue.claim(A, limit=5, owner="me")
    await queue.settle(message_id(1), {0: Unknown(A, "lost after the dot")}, attempts={0: 2})
    queue.pending.set_homes(FakeHomes(nodes=(B, A)))
    clock.advance(400.0)
    assert await queue.claim(B, limit=5, owner="me") == []
    (claimed,) = await queue.claim(A, limit=5, owner="me")
    assert claimed.was_unknown
    assert claimed.recipients[0].node == A
    await queue.settle(message_id(1), {0: _OK}, attempts={0: 3})
    assert await _state(queue) == "done"


async def test_a_refusal_becomes_a_notice(queue: Queue, alarms: list[tuple[str, str]]) -> None:
    """Failed is not dropped: the row goes in the transaction that brings the notice to its sender."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    await queue.claim(A, limit=5, owner="me")
    await queue.settle(message_id(1), {0: Failed(reply(550, "5.7.1", "no"), A)}, attempts={0: 2})
    assert await _state(queue) == "done"
    (claimed,) = await queue.claim(RESOLVE, limit=5, owner="me")
    assert claimed.message.reverse_path is None
    assert [row.address for row in claimed.recipients] == ["sender@out.example"]
    text = b"".join(queue.body(claimed.message).pieces())
    assert b"Final-Recipient: rfc822; ana@example.edu" in text
    assert b"Diagnostic-Code: smtp; 550 5.7.1 no" in text
    assert alarms == []


async def test_partial_results_keep_the_rest(queue: Queue) -> None:
    """Recipients end one by one; the body stays until the last is done."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0), queued_recipient(1, "bob", 2))
    (claimed,) = await queue.claim(A, limit=5, owner="me")
    await queue.settle(message_id(1), {0: _OK, 1: _FULL}, attempts={0: 2, 1: 2})
    assert [row.number for row in await _rows(queue)] == [1]
    assert b"".join(queue.body(claimed.message).pieces())


async def test_resent_requests_change_nothing(queue: Queue, clock: ManualClock) -> None:
    """An accept after the message is done, and a report that comes twice, are harmless."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    assert len(await _rows(queue)) == 1
    await queue.claim(A, limit=5, owner="me")
    await queue.settle(message_id(1), {0: _FULL}, attempts={0: 2})
    clock.advance(1000.0)
    (claimed,) = await queue.claim(A, limit=5, owner="me")
    await queue.settle(message_id(1), {0: _FULL}, attempts={0: 2})
    (row,) = await _rows(queue)
    assert (row.state, row.attempts) == (RecipientState.ACTIVE, 3)
    await queue.settle(message_id(1), {0: _OK}, attempts={0: 3})
    await queue.settle(message_id(1), {0: _OK}, attempts={0: 3})
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    assert await _rows(queue) == []
    assert await queue.claim(A, limit=5, owner="me") == []
    assert claimed.message.id == message_id(1)


async def test_a_member_of_a_list_never_gets_the_number_of_one_who_has_his_mail(queue: Queue) -> None:
    """His delivery, reported once more, ends nobody else's row."""
    anew = replace(queued_recipient(0, "list", NEXT_HOP_BUCKET), mailbox_key=next_hop_key(RESOLVE))
    await _accept(queue, 1, anew, queued_recipient(1, "ana", 0))
    await queue.claim(A, limit=1, owner="me")
    await queue.settle(message_id(1), {1: _OK}, attempts={1: 2})
    await queue.claim(RESOLVE, limit=1, owner="me")
    places = [
        Place(
            address=f"{user}@example.edu",
            mailbox_key=MailboxKey(user),
            bucket=0,
            node_user=NodeUser(user),
            options=NO_OPTIONS,
        )
        for user in ("ben", "cid", "dan")
    ]
    await queue.redirect_row(message_id(1), 0, 2, places)
    await queue.settle(message_id(1), {1: _OK}, attempts={1: 2})
    assert {row.address for row in await _rows(queue)} == {place.address for place in places}


async def test_settling_an_id_that_never_was(queue: Queue) -> None:
    """A report about nothing changes nothing, and fails nobody."""
    await queue.accept(queued_message(1, 5.0), _BODY, [queued_recipient(0, "ana", 0)])
    await queue.settle(message_id(5), {0: _OK})
    assert [row.address for row in await _rows(queue)] == ["ana@example.edu"]


async def test_active_rows_of_a_dead_process_become_unknown(queue: Queue, clock: ManualClock) -> None:
    """Whoever held the lease is gone: the row may have been delivered, so it is unknown at that node and due now."""
    row = replace(queued_recipient(0, "ana", 0), state=RecipientState.ACTIVE, node=B)
    await queue.accept(queued_message(1, clock.wall_s()), _BODY, [row], owner="pid:77")
    assert await queue.lease_owners() == ["pid:77"]
    assert await queue.release_leases_of("pid:78") == 0
    assert await queue.release_leases_of("pid:77") == 1
    (row,) = await _rows(queue)
    assert (row.state, row.node, row.lease_owner) == (RecipientState.UNKNOWN, B, None)
    (claimed,) = await queue.claim(B, limit=5, owner="me")
    assert claimed.was_unknown


async def test_leases_are_renewed_and_lapse(queue: Queue, clock: ManualClock) -> None:
    """A renewed lease lives on; one that is not ends after 15 minutes."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    await queue.claim(A, limit=5, owner="me")
    clock.advance(890.0)
    assert await queue.renew("me") == 1
    clock.advance(890.0)
    assert await queue.lapse() == 0
    clock.advance(11.0)
    assert await queue.lapse() == 1
    (row,) = await _rows(queue)
    assert (row.state, row.node) == (RecipientState.UNKNOWN, A)


async def test_a_late_success_of_a_lapsed_attempt_counts(queue: Queue, clock: ManualClock) -> None:
    """The answer came after the lease ended: delivered is delivered."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    await queue.claim(A, limit=5, owner="me")
    clock.advance(901.0)
    await queue.lapse()
    await queue.settle(message_id(1), {0: _OK}, attempts={0: 2})
    assert await _state(queue) == "done"
    assert await queue.claim(A, limit=5, owner="me") == []


async def test_expired_rows_become_notices(queue: Queue, clock: ManualClock) -> None:
    """After its lifetime mail is given up and its sender told, also mail of a node that nobody visits."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0), queued_recipient(1, "bob", 1))
    await queue.claim(A, limit=5, owner="me")
    clock.advance(432_001.0)
    assert await Lifetimes(queue).expire() == 1
    assert await Lifetimes(queue).expire() == 0
    assert {row.address: row.state for row in await _rows(queue)} == {"ana@example.edu": RecipientState.ACTIVE}
    await queue.settle(message_id(1), {0: _DOWN}, attempts={0: 2})
    assert await _state(queue) == "done"
    notices = await queue.claim(RESOLVE, limit=5, owner="me")
    texts = [b"".join(queue.body(each.message).pieces()) for each in notices]
    for user in (b"ana", b"bob"):
        assert sum(b"Final-Recipient: rfc822; %s@example.edu" % user in text for text in texts) == 1
    assert all(b"Status: 4." in text for text in texts)


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
async def test_bodies_of_any_size_come_back(queue: Queue, size: int) -> None:
    """Small bodies go with the accepting commit, large ones before it; the bytes are the same."""
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    body = PrefixedBody(data[:10], MemoryBody(data[10:]))
    await queue.accept(queued_message(1, queue.store.clock.wall_s()), body, [queued_recipient(0, "ana", 0)])
    (claimed,) = await queue.claim(A, limit=5, owner="me")
    found = list(queue.body(claimed.message).pieces())
    assert b"".join(found) == data
    assert all(len(piece) <= PIECE_BYTES for piece in found)


async def test_orphans_and_marks_are_swept_after_an_hour(queue: Queue, clock: ManualClock) -> None:
    """Pieces without their accepting commit, and marks of messages that are done, go; what is queued stays."""
    now_s = clock.wall_s()
    orphan = queued_message(1, now_s)
    await queue.store.write(lambda c: message_rows.insert_message(c, orphan, message_rows.INCOMING, now_s))
    await queue.store.write(lambda c: message_rows.put_chunk(c, orphan.id, 0, b"half"))
    await _accept(queue, 2, queued_recipient(0, "ana", 0))
    await queue.claim(A, limit=5, owner="me")
    await queue.settle(message_id(2), {0: _OK})
    await _accept(queue, 3, queued_recipient(0, "bob", 1))
    clock.advance(3599.0)
    assert await queue.sweep() == 0
    clock.advance(2.0)
    assert await queue.sweep() == 2
    assert await queue.store.read(lambda c: message_rows.get_chunk(c, orphan.id, 0)) is None
    assert [await _state(queue, number) for number in (1, 2, 3)] == [None, None, "queued"]


async def test_an_interrupted_large_accept_can_be_sent_again(queue: Queue) -> None:
    """The first try died between the pieces and the commit: the second one completes it."""
    data = b"z" * (2 * PIECE_BYTES + 5)
    message = replace(queued_message(1, 0.0), size_bytes=len(data))
    await queue.store.write(lambda c: message_rows.insert_message(c, message, message_rows.INCOMING, 0.0))
    await queue.store.write(lambda c: message_rows.put_chunk(c, message.id, 0, data[:PIECE_BYTES]))
    await queue.accept(message, MemoryBody(data), [queued_recipient(0, "ana", 0)])
    (claimed,) = await queue.claim(A, limit=5, owner="me")
    assert b"".join(queue.body(claimed.message).pieces()) == data


async def test_damaged_body_is_noticed_before_the_end(queue: Queue, alarms: list[tuple[str, str]]) -> None:
    """A flipped byte or a missing piece raises before the last piece is given, and the message can be set aside."""
    data = b"z" * (2 * PIECE_BYTES)
    await queue.accept(queued_message(1, 0.0), MemoryBody(data), [queued_recipient(0, "ana", 0)])
    (claimed,) = await queue.claim(A, limit=5, owner="me")
    await queue.store.write(lambda c: c.execute(text("UPDATE body_chunk SET data = x'00' WHERE number = 1")))
    pieces = queue.body(claimed.message).pieces()
    assert next(pieces) == data[:PIECE_BYTES]
    with pytest.raises(CorruptBody, match="checksum"):
        next(pieces)
    await queue.store.write(lambda c: c.execute(text("DELETE FROM body_chunk WHERE number = 1")))
    with pytest.raises(CorruptBody, match="bytes long"):
        list(queue.body(claimed.message).pieces())
    await queue.set_aside(message_id(1), "damaged body")
    (row,) = await _rows(queue)
    assert (row.state, row.reason) == (RecipientState.HELD, "damaged body")
    assert alarms[0][0] == "queue.damaged"


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE recipient SET attempts = 'many' WHERE number = 0",
        "UPDATE recipient SET mailbox_key = x'00ff' WHERE number = 0",
        "UPDATE recipient SET address = '' WHERE number = 0",
    ],
)
async def test_a_damaged_row_is_set_aside(queue: Queue, alarms: list[tuple[str, str]], damage: str) -> None:
    """A row that cannot be read is held and reported; its neighbours go on."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0), queued_recipient(1, "bob", 2))
    await queue.store.write(lambda c: c.execute(text(damage)))
    claimed = await queue.claim(A, limit=5, owner="me")
    assert [row.address for one in claimed for row in one.recipients] == ["bob@example.edu"]
    assert [name for name, _ in alarms] == ["queue.damaged"]
    assert await queue.claim(A, limit=5, owner="me") == []


async def test_a_damaged_message_is_set_aside(queue: Queue, alarms: list[tuple[str, str]]) -> None:
    """A message whose own row cannot be read holds its recipients and nobody else's."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    await _accept(queue, 2, queued_recipient(0, "bob", 0))
    damage = text("UPDATE message SET body_type = 'SEPTUPLE' WHERE id = :id")
    await queue.store.write(lambda c: c.execute(damage, {"id": message_id(1)}))
    claimed = await queue.claim(A, limit=5, owner="me")
    assert [one.message.id for one in claimed] == [message_id(2)]
    assert [name for name, _ in alarms] == ["queue.damaged"]


async def test_superseded_hints_go_with_the_accepting_commit(queue: Queue) -> None:
    """The queue's rows replace a copy that a holder may have, in one transaction, and no copy for another home."""
    from mailfront.queue.handoff_rows import HandoffTable
    from mailfront.queue.rows import HandoffState
    from mailfront.queue.wire import CopyRecipientValue, HandoffCopyValue

    table = HandoffTable(queue.store, retry_s=RETRY_S)
    row = queued_recipient(0, "ana", 0)
    to = CopyRecipientValue(
        number=0, address=row.address, mailbox_key=row.mailbox_key, node_user=row.node_user, options=row.options
    )
    copy = HandoffCopyValue(id=message_id(1), home=A, reverse_path=None, arrived_s=1.0, recipients=(to,))
    await table.begin(copy, B)
    await table.begin(replace(copy, home=C, recipients=(replace(to, number=1),)), B)
    await queue.accept(queued_message(1, 0.0), _BODY, [row], hints_superseded=[(B, A)])
    states = [found.state for found in await table.find([message_id(1)])]
    assert states == [HandoffState.SUPERSEDED, HandoffState.STORED]


async def test_loading_finds_what_is_due(queue: Queue, alarms: list[tuple[str, str]], clock: ManualClock) -> None:
    """A new process knows from the rows what waits, and when."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0, clock.wall_s() + 50.0))
    unknown = replace(queued_recipient(0, "bob", 1), state=RecipientState.UNKNOWN, node=B)
    await _accept(queue, 2, unknown)
    fresh = _queue(queue.store, alarms)
    await fresh.load()
    assert fresh.pending.next_due_s([A]) == clock.wall_s() + 50.0
    assert fresh.pending.unknown_is_due(B, clock.wall_s())


async def test_a_returned_node_serves_every_mailbox_in_turn(queue: Queue, clock: ManualClock) -> None:
    """One mailbox with many rows does not keep another's older message waiting until it is empty."""
    later_s = clock.wall_s() + 500.0
    old = replace(queued_recipient(0, "bob", 2, later_s + 60.0), tried_s=1.0, blame="node")
    await _accept(queue, 1, old)
    for number in range(2, 32):
        await _accept(queue, number, replace(queued_recipient(0, "ana", 0, later_s), tried_s=1.0, blame="node"))
    queue.pending.kick(A, clock.wall_s())
    order = [one.message.id for _ in range(7) for one in await queue.claim(A, limit=5, owner="me")]
    assert len(order) == 31
    assert order.index(message_id(1)) == 5


async def test_disowned_mail_is_forgotten_unless_it_was_tried(queue: Queue) -> None:
    """What a worker answered 451 for is deleted, but not what is being delivered."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0), queued_recipient(1, "bob", 1))
    await queue.claim(B, limit=5, owner="me")
    await queue.disown(message_id(1))
    assert [row.address for row in await _rows(queue)] == ["bob@example.edu"]
    await queue.disown(message_id(9))


@pytest.mark.parametrize("writes_before", [0, 1, 3])
async def test_a_large_message_that_is_disowned_while_it_is_written_is_refused(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, writes_before: int
) -> None:
    """The worker gave up while the pieces of the body were still coming: no later commit may keep the message."""
    real, writes_count = queue.store.write, 0

    async def write(*args: Any, **kwargs: Any) -> Any:
        nonlocal writes_count
        if writes_count == writes_before:
            monkeypatch.setattr(queue.store, "write", real)
            await queue.disown(message_id(1))
        writes_count += 1
        return await real(*args, **kwargs)

    monkeypatch.setattr(queue.store, "write", write)
    large = MemoryBody(b"x" * (3 * PIECE_BYTES))
    with pytest.raises(StoreFailed, match="disowned"):
        await queue.accept(queued_message(1, 0.0), large, [queued_recipient(0, "ana", 0)])
    assert await _rows(queue) == []
    assert await queue.claim(A, limit=5, owner="me") == []
    assert await _state(queue) == "disowned"
    assert queue.store.gate.reason == ""
    assert await queue.store.read(lambda c: message_rows.body_sizes(c, [message_id(1)])) == {}
    assert (await check_queue(queue.store)).problems == []


async def test_the_mark_of_a_disowned_message_is_swept(queue: Queue, clock: ManualClock) -> None:
    """Nobody sends an id for an hour: its mark need not stay longer."""
    await queue.disown(message_id(1))
    assert await queue.sweep() == 0
    clock.advance(3601.0)
    assert await queue.sweep() == 1


async def test_accepting_again_keeps_nothing_new(queue: Queue) -> None:
    """What is counted as accepted is counted once."""
    rows = [queued_recipient(0, "ana", 0), queued_recipient(1, "bob", 1)]
    assert await queue.accept(queued_message(1, 0.0), _BODY, rows) == 2
    assert await queue.accept(queued_message(1, 0.0), _BODY, rows) == 0


async def test_all_leases_of_a_dead_process_end(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: they are counted per node afterwards."""
    monkeypatch.setattr(recipient_rows, "LEASES_AT_ONCE", 2)
    active = [replace(queued_recipient(n, f"u{n}", n), state=RecipientState.ACTIVE, node=A) for n in range(5)]
    for number, owner in ((1, "pid:1"), (2, "pid:2")):
        await queue.accept(queued_message(number, 0.0), _BODY, active, owner=owner)
    assert await queue.unknown_counts() == {}
    assert await queue.release_leases_of("pid:1") == 5
    assert {row.state for row in await _rows(queue)} == {RecipientState.UNKNOWN}
    assert await queue.unknown_counts() == {A: 5}
    assert await queue.lease_owners() == ["pid:2"]


async def test_unknown_rows_of_a_node_are_found_by_their_index(queue: Queue) -> None:
    """A claim looks neither at the rows of other nodes nor at a million waiting ones."""
    seen: list[str] = []

    def look(connection: Connection) -> None:
        asked: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
            asked.append((statement, parameters))

        event.listen(connection, "before_cursor_execute", note)
        recipient_rows.unknown_rows(connection, A, 1.0, 5)
        recipient_rows.earliest_unknown_at(connection, A)
        event.remove(connection, "before_cursor_execute", note)
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            seen.append(" ".join(row[3] for row in plan))

    await queue.store.read(look)
    assert len(seen) == 2
    assert all("recipient_unknown" in plan for plan in seen), seen


async def test_cancelled_accept_is_still_scheduled(queue: Queue) -> None:
    """A caller that goes away during the commit does not make committed rows invisible to the runner."""
    task = asyncio.ensure_future(_accept(queue, 1, queued_recipient(0, "ana", 0)))  # noqa: TID251
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await queue.store.write(lambda c: None)
    assert len(await queue.claim(A, limit=5, owner="me")) == 1


async def test_handed_off_leaves_the_queue(queue: Queue) -> None:
    """A row whose copy is with a secondary is no longer the queue's."""
    await _accept(queue, 1, queued_recipient(0, "ana", 0))
    await queue.claim(A, limit=5, owner="me")
    await queue.settle(message_id(1), {0: HandedOff(B, A)}, attempts={0: 2})
    assert await _state(queue) == "done"


async def test_a_swept_large_body_is_not_accepted_without_its_pieces(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the pieces are gone when the commit comes, nothing is promised."""
    real = queue._write_ahead

    async def swept(message: object, first: bytes, rest: object, now_s: float) -> None:
        await real(message, first, rest, now_s)  # type: ignore[arg-type]

        def sweep(connection: Connection) -> None:
            message_rows.sweep_messages(connection, message_rows.INCOMING, now_s + 1, 10)

        await queue.store.write(sweep)

    monkeypatch.setattr(queue, "_write_ahead", swept)
    with pytest.raises(StoreFailed, match="swept"):
        await queue.accept(queued_message(1, 0.0), MemoryBody(b"z" * 300_000), [queued_recipient(0, "ana", 0)])
