"""Recipients that nobody has looked up yet: what each answer of the directory makes of their rows."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.errors import Unavailable
from mailfront.mail.address import Address
from mailfront.mail.body import MemoryBody
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import MailboxKey, NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RELAY, RESOLVE, next_hop_key
from mailfront.mail.outcome import Blame, Deferred, Failed, Outcome
from mailfront.mail.reply import Reply, reply
from mailfront.queue.queue import Queue
from mailfront.queue.rows import Place, QueuedRecipient, RecipientState
from mailfront.store import recipient_rows
from mailfront.transfer.resolver import Resolver
from tests.support.queue_rows import (
    HOPS,
    NOTICES,
    RETRY_S,
    FakeHomes,
    message_id,
    open_store,
    queued_message,
    queued_recipient,
)

NEVER = RecipientOptions(notify="NEVER")
HOME = Place(
    address="ana@example.edu", mailbox_key=MailboxKey("ana"), bucket=4, node_user=NodeUser("ana"), options=NEVER
)
AWAY = Place(
    address="ana@out.example",
    mailbox_key=next_hop_key(RELAY),
    bucket=NEXT_HOP_BUCKET,
    node_user=NodeUser("ana@out.example"),
    options=NEVER,
    via="ana@example.edu",
)


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Queue]:
    store = open_store(tmp_path, ManualClock())
    yield Queue(store, FakeHomes(pins=HOPS), retry_s=RETRY_S, alarm=lambda name, text: None, notices=NOTICES)
    await store.close()


class LooksUp:
    """One answer for everybody; notes who was asked for, in whose name."""

    def __init__(self, answer: Sequence[Place] | Reply | Unavailable) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, str | None]] = []

    async def __call__(
        self, address: Address, options: RecipientOptions, sender: Address | None
    ) -> Sequence[Place] | Reply:
        self.asked.append((str(address), str(sender), options.notify))
        if isinstance(self.answer, Unavailable):
            raise self.answer
        return self.answer


async def attempt(queue: Queue, look_up: LooksUp, *addresses: str) -> dict[int, Outcome]:
    """Queue one message for addresses that nobody has looked up, and have them looked up."""
    rows = [
        replace(
            queued_recipient(number, "x", NEXT_HOP_BUCKET),
            address=address,
            mailbox_key=next_hop_key(RESOLVE),
            options=NEVER,
            list_owner="owner@example.edu",
        )
        for number, address in enumerate(addresses)
    ]
    await queue.accept(queued_message(1, queue.store.clock.wall_s()), MemoryBody(b"\r\nx\r\n"), rows)
    (claimed,) = await queue.claim(RESOLVE, limit=1, owner="me")

    async def nothing_is_sent() -> None:
        raise AssertionError("there is no dot here")

    return dict(await Resolver(queue, look_up).attempt(claimed, queue.body(claimed.message), nothing_is_sent))


async def rows_of(queue: Queue) -> list[QueuedRecipient]:
    found = await queue.store.read(lambda connection: recipient_rows.recipient_rows(connection, message_id(1)))
    return [recipient_rows.recipient_from_row(row) for row in found]


async def test_a_mailbox_and_its_forward_become_rows_that_are_due_there(queue: Queue) -> None:
    """One row more, both waiting where they belong, with what the row knew; no outcome, for nothing was tried."""
    look_up = LooksUp([HOME, AWAY])
    assert await attempt(queue, look_up, "ana@example.edu") == {}
    assert look_up.asked == [("ana@example.edu", "sender@out.example", "NEVER")]
    home, away = await rows_of(queue)
    assert {(row.state, row.list_owner) for row in (home, away)} == {(RecipientState.WAITING, "owner@example.edu")}
    assert (home.number, home.mailbox_key, home.via) == (0, "ana", "")
    assert (away.mailbox_key, away.via) == (next_hop_key(RELAY), "ana@example.edu")
    assert away.number != home.number
    assert len(await queue.claim(RELAY, limit=1, owner="me")) == 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reply(550, "5.1.1", "nobody"), Failed(reply(550, "5.1.1", "nobody"), None)),
        (reply(452, "4.2.2", "full"), Deferred(Blame.MAILBOX, reply(452, "4.2.2", "full"), RESOLVE)),
        (Unavailable("LDAP is away"), Deferred(Blame.NODE, reply(451, "4.4.3", "LDAP is away"), RESOLVE)),
    ],
)
async def test_what_cannot_be_delivered_changes_no_row_by_itself(
    queue: Queue, answer: Reply | Unavailable, outcome: Outcome
) -> None:
    """Refused: failed. Not now: later, for this row alone. The directory is away: later, for all rows."""
    assert await attempt(queue, LooksUp(answer), "ana@example.edu", "ben@example.edu") == {0: outcome, 1: outcome}
    assert [row.state for row in await rows_of(queue)] == [RecipientState.ACTIVE] * 2


async def test_what_is_no_address_fails_without_a_question(queue: Queue) -> None:
    """A damaged or foreign row asks nobody, and the others of its message go on."""
    look_up = LooksUp([HOME])
    outcomes = await attempt(queue, look_up, "no address at all", "ana@example.edu")
    assert [type(outcome) for outcome in outcomes.values()] == [Failed]
    assert [asked[0] for asked in look_up.asked] == ["ana@example.edu"]
    assert {row.mailbox_key for row in await rows_of(queue)} == {next_hop_key(RESOLVE), "ana"}
