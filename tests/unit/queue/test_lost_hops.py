"""A route that was taken out of the configuration: its mail is looked up anew, and nothing else is touched."""

from dataclasses import replace
from pathlib import Path

import pytest

from mailfront.base.clock import ManualClock
from mailfront.mail.body import MemoryBody
from mailfront.mail.names import NodeId, NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RELAY, RESOLVE, next_hop_key, route_hop
from mailfront.queue.queue import Queue
from mailfront.queue.rows import QueuedRecipient, RecipientState
from mailfront.store import recipient_rows
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

KEPT, GONE = route_hop("lists.example.edu"), route_hop("old.example.edu")
WAITING, HELD, UNKNOWN = RecipientState.WAITING, RecipientState.HELD, RecipientState.UNKNOWN


@pytest.mark.parametrize(
    ("hop", "state", "after"),
    [
        (GONE, WAITING, RESOLVE),
        (GONE, HELD, RESOLVE),
        (GONE, UNKNOWN, GONE),
        (KEPT, WAITING, KEPT),
        (RELAY, WAITING, RELAY),
        (None, WAITING, None),
    ],
)
async def test_whose_hop_is_gone_is_looked_up_anew(
    tmp_path: Path, hop: NodeId | None, state: RecipientState, after: NodeId | None
) -> None:
    """What waits there is due for the look-up at once; what may be on its way there stays, as do mailboxes."""
    clock = ManualClock()
    store = open_store(tmp_path, clock)
    queue = Queue(store, FakeHomes(pins=HOPS), retry_s=RETRY_S, notices=NOTICES, alarm=lambda name, text: None)
    row = queued_recipient(0, "ana", 0, next_attempt_s=clock.wall_s() + 5000.0)
    if hop is not None:
        row = replace(row, mailbox_key=next_hop_key(hop), bucket=NEXT_HOP_BUCKET, node_user=NodeUser("other@x"))
    if state is UNKNOWN:
        row = replace(row, node=hop)
    await queue.accept(queued_message(1, clock.wall_s()), MemoryBody(b"x: y\r\n"), [replace(row, state=state)])
    await queue.look_up_lost({RELAY, RESOLVE, KEPT})
    found = await store.read(lambda connection: recipient_rows.recipient_rows(connection, message_id(1)))
    now: QueuedRecipient = recipient_rows.recipient_from_row(found[0])
    assert now.state is state
    assert now.mailbox_key == ("ana" if after is None else next_hop_key(after))
    is_moved = after is not hop
    assert (now.next_attempt_s <= clock.wall_s()) == is_moved
    await queue.load()
    claimed = await queue.claim(RESOLVE, limit=5, owner="me")
    assert [each.recipients[0].address for each in claimed] == (
        ["ana@example.edu"] if is_moved and state is WAITING else []
    )
    await store.close()
