"""Taking exported messages back in: once, whole, and to places that exist here."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.mail.body import MemoryBody
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.next_hop import RELAY, RESOLVE, next_hop_key
from mailfront.mail.outcome import Delivered
from mailfront.mail.reply import reply
from mailfront.queue.exports import QueueExport
from mailfront.queue.imports import Answer, Places, QueueImport
from mailfront.queue.operations import Order, QueueOperations, Verb
from mailfront.queue.queue import Queue
from mailfront.queue.rows import QueuedRecipient, RecipientState
from mailfront.queue.views import QueueViews
from mailfront.store import message_rows, recipient_rows
from mailfront.store.audit_rows import AuditRow, latest_audits
from mailfront.store.errors import StoreFailed
from mailfront.store.queue_queries import FIRST_KEY, Selector
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

BODY = b"Subject: x\r\n\r\nhello\r\n"
LARGE = b"y" * 300_000
DAY_S = 86_400.0


class Site:
    """A queue that can be imported into: it has node `a` and the look-up, and mailbox keys of one bucket."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        folder.mkdir()
        self.clock = clock
        self.store = open_store(folder, clock)
        homes = FakeHomes(nodes=(A,), pins=HOPS)
        self.queue = Queue(self.store, homes, retry_s=RETRY_S, notices=NOTICES, alarm=lambda *_: None)
        self.views = QueueViews(self.store, homes)
        self.imports = QueueImport(self.queue, Places({A, RESOLVE}, lambda key: len(key)))

    async def take(self, number: int, *rows: QueuedRecipient, body: bytes = BODY, keep_keys: bool = True) -> Any:
        """Import one message whose body is one piece."""
        message = replace(queued_message(number, self.clock.wall_s()), size_bytes=len(body))
        return await self.imports.commit(message, rows, keep_keys=keep_keys, data=body, audit_number=0)

    async def row(self, number: int, at: int = 0) -> QueuedRecipient:
        """A recipient as it is stored."""
        found = await self.store.read(lambda connection: recipient_rows.recipient_rows(connection, message_id(number)))
        return recipient_rows.recipient_from_row(next(row for row in found if row.number == at))

    async def total(self) -> int:
        """How many recipients are queued."""
        return (await self.views.stats()).total


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path / "site", ManualClock())
    await made.queue.load()
    yield made
    await made.store.close()


async def test_all_that_is_exported_comes_in(site: Site, tmp_path: Path) -> None:
    """Envelope with DSN parameters, states, reasons and bytes: what is read here is written there."""
    there = Site(tmp_path / "there", site.clock)
    now_s = site.clock.wall_s()
    rows = [
        replace(
            queued_recipient(0, "ana", 3, now_s + 60.0),
            options=RecipientOptions(notify="FAILURE,DELAY", orcpt="rfc822;ana@example.edu"),
            attempts=4,
            tried_s=now_s - 5.0,
            blame="mailbox",
            last_reply="452 4.2.2 full",
            via="list@example.edu",
            list_owner="owner@example.edu",
            warned=True,
        ),
        replace(queued_recipient(1, "ben", 3), state=RecipientState.HELD, reason="held by uid 0: why"),
        replace(queued_recipient(2, "cid", 3), state=RecipientState.QUARANTINED, reason="spam"),
    ]
    message = replace(queued_message(1, now_s), ret="HDRS", envid="e1", client_ip="192.0.2.1", smtputf8=True)
    await site.queue.accept(message, MemoryBody(BODY), rows)
    page = await QueueExport(site.store, site.views).page(Selector(), FIRST_KEY)
    (found,) = page.messages
    done = await there.imports.commit(found.message, found.recipients, keep_keys=True, data=BODY, audit_number=0)
    assert (done.answer, done.rows_count) == (Answer.NEW, 3)
    shown = await there.views.show(message_id(1))
    assert shown is not None
    assert shown.message == replace(message, size_bytes=len(BODY))
    assert [await there.row(1, at) for at in range(3)] == [replace(row, bucket=3) for row in rows]
    assert b"".join(there.queue.body(shown.message).pieces()) == BODY
    await there.store.close()


async def test_a_second_import_changes_nothing_even_after_delivery(site: Site) -> None:
    """Known while it is queued, when it is done, and when its mark has been swept; forgotten after a month."""
    row = queued_recipient(0, "ana", 3)
    assert (await site.take(1, row)).answer is Answer.NEW
    assert (await site.take(1, row)).answer is Answer.HERE
    (claimed,) = await site.queue.claim(A, limit=5, owner="me")
    await site.queue.settle(claimed.message.id, {0: Delivered(A, reply(250, "2.0.0", "ok"))})
    for wait_s in (0.0, 2 * 3600.0, 29 * DAY_S):
        site.clock.advance(wait_s)
        await site.queue.sweep()
        assert (await site.take(1, row)).answer is Answer.HERE
    assert await site.total() == 0
    site.clock.advance(2 * DAY_S)
    await site.queue.sweep()
    assert (await site.take(1, row)).answer is Answer.NEW


async def test_what_is_still_queued_is_known_for_longer_than_a_month(site: Site) -> None:
    """Recipients that came in by two files, days apart: the first is held, and is not taken for a new one."""
    held = replace(queued_recipient(0, "ana", 3), state=RecipientState.HELD, reason="why")
    other = replace(queued_recipient(1, "ben", 3), state=RecipientState.HELD, reason="why")
    await site.take(1, held)
    site.clock.advance(20 * DAY_S)
    await site.take(1, other)
    site.clock.advance(20 * DAY_S)
    await site.queue.sweep()
    assert (await site.take(1, held, other)).answer is Answer.HERE
    assert await site.total() == 2


async def test_recipients_of_one_message_may_come_in_two_files(site: Site) -> None:
    """Each is taken once, whether the message is still queued or done by then."""
    first, second, third = (queued_recipient(number, f"u{number}", 3) for number in range(3))
    assert (await site.take(1, first)).rows_count == 1
    assert (await site.take(1, first, second)).rows_count == 1
    await QueueOperations(site.queue, site.views).run(Order(verb=Verb.DELETE, selector=Selector(), uid=0))
    assert (await site.take(1, first, second, third)).rows_count == 1
    assert [row.recipient for row in (await site.views.list_rows(Selector(), limit=9)).rows] == ["u2@example.edu"]
    (claimed,) = await site.queue.claim(A, limit=5, owner="me")
    assert b"".join(site.queue.body(claimed.message).pieces()) == BODY


async def test_a_message_of_our_own_is_left_alone(site: Site) -> None:
    """What was delivered from here must not come back by an older export."""
    rows = [queued_recipient(number, f"u{number}", 0) for number in range(2)]
    await site.queue.accept(queued_message(1, site.clock.wall_s()), MemoryBody(BODY), rows)
    await site.queue.claim(A, limit=1, owner="me")
    await site.queue.settle(message_id(1), {0: Delivered(A, reply(250, "2.0.0", "ok"))})
    assert (await site.take(1, *rows)).answer is Answer.HERE
    assert await site.total() == 1
    await site.queue.disown(message_id(2))
    assert (await site.take(2, *rows)).answer is Answer.HERE


@pytest.mark.parametrize("state", [RecipientState.ACTIVE, RecipientState.UNKNOWN])
async def test_an_attempt_whose_end_is_not_known_is_unknown(site: Site, state: RecipientState) -> None:
    """At a node that is here: searched for first. At another one: looked up anew, as a possible duplicate."""
    await site.take(1, replace(queued_recipient(0, "ana", 3), state=state, node=A, lease_owner="x", lease_until_s=9e9))
    row = await site.row(1)
    assert (row.state, row.node, row.lease_owner) == (RecipientState.UNKNOWN, A, None)
    (claimed,) = await site.queue.claim(A, limit=5, owner="me")
    assert claimed.was_unknown
    await site.take(2, replace(queued_recipient(0, "ben", 3), state=state, node=NodeId("gone")))
    row = await site.row(2)
    assert (row.state, row.mailbox_key, row.node) == (RecipientState.WAITING, next_hop_key(RESOLVE), None)
    assert row.reason == "possible duplicate: gone may have it"


async def test_keys_that_mean_nothing_here_are_looked_up(site: Site) -> None:
    """Of another cluster, or of a next hop that is not set up here; a held row stays held."""
    held = replace(queued_recipient(1, "ben", 3), state=RecipientState.HELD, reason="why")
    await site.take(1, queued_recipient(0, "ana", 3), held, keep_keys=False)
    first, second = await site.row(1, 0), await site.row(1, 1)
    assert (first.mailbox_key, first.node_user) == (next_hop_key(RESOLVE), "ana@example.edu")
    assert (second.mailbox_key, second.state, second.reason) == (
        next_hop_key(RESOLVE), RecipientState.HELD, "why",
    )  # fmt: skip
    outside = replace(queued_recipient(0, "x", 4096), mailbox_key=MailboxKey(RELAY))
    await site.take(2, outside)
    assert (await site.row(2)).mailbox_key == next_hop_key(RESOLVE)
    (one, two) = await site.queue.claim(RESOLVE, limit=5, owner="me")
    assert {one.message.id, two.message.id} == {message_id(1), message_id(2)}


async def test_a_large_body_comes_in_pieces_and_whole_or_not_at_all(site: Site) -> None:
    """Before its last piece the message cannot be taken; a repetition goes on where the first try ended."""
    message = replace(queued_message(1, site.clock.wall_s()), size_bytes=len(LARGE))
    row, piece = queued_recipient(0, "ana", 3), 262_144

    async def commit() -> Answer:
        done = await site.imports.commit(message, [row], keep_keys=True, data=None, audit_number=0)
        return done.answer

    assert await commit() is Answer.BODY
    assert (await site.imports.begin(message, [0])).answer is Answer.BODY
    await site.imports.put(message.id, 0, LARGE[:piece])
    assert await commit() is Answer.BODY
    assert await site.total() == 0
    assert (await site.imports.begin(message, [0])).answer is Answer.BODY
    for number in range(2):
        await site.imports.put(message.id, number, LARGE[number * piece : (number + 1) * piece])
    assert await commit() is Answer.NEW
    assert b"".join(site.queue.body(message).pieces()) == LARGE
    assert (await site.imports.begin(message, [0])).answer is Answer.HERE
    assert (await site.imports.begin(message, [0, 1])).answer is Answer.NEW


async def test_pieces_that_no_commit_followed_are_swept(site: Site) -> None:
    """An import that broke off leaves nothing for ever."""
    message = replace(queued_message(1, site.clock.wall_s()), size_bytes=len(LARGE))
    await site.imports.begin(message, [0])
    await site.imports.put(message.id, 0, LARGE[:1000])
    site.clock.advance(2 * 3600.0)
    assert await site.queue.sweep() == 1
    state = await site.store.read(lambda connection: message_rows.message_state(connection, message.id))
    assert state is None


async def test_nothing_comes_in_while_the_gate_is_shut(site: Site) -> None:
    """A full disk refuses an import as it refuses mail."""
    site.store.gate.commit_failed("disk full")
    with pytest.raises(StoreFailed, match="disk full"):
        await site.take(1, queued_recipient(0, "ana", 3))


async def test_the_audit_counts_all_messages_of_an_import(site: Site) -> None:
    """One line for the file, with as many rows as came in."""
    number = await site.imports.note(AuditRow(at_s=1.0, uid=7, verb="queue import", selector="x.tar", reason=""))
    for each in (1, 2):
        await site.imports.commit(
            replace(queued_message(each, site.clock.wall_s()), size_bytes=len(BODY)),
            [queued_recipient(at, f"u{at}", 3) for at in range(2)],
            keep_keys=True,
            data=BODY,
            audit_number=number,
        )
    (audit,) = await site.store.read(lambda connection: latest_audits(connection, 9))
    assert (audit.uid, audit.selector, audit.rows_count) == (7, "x.tar", 4)
