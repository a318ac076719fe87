"""`queue import` in the keeper: what a file may say, whose keys are believed, and what is refused at once."""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.queue_exchange import ImportNote, ImportPiece, ImportRequest, QueueExchange, show_exported
from mailfront.admin.requests import read
from mailfront.base.clock import ManualClock
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.next_hop import RESOLVE, next_hop_key
from mailfront.observe import log
from mailfront.queue.exports import ExportedMessage
from mailfront.queue.imports import Places, QueueImport
from mailfront.queue.queue import Queue
from mailfront.queue.rows import RecipientState
from mailfront.queue.views import QueueViews
from mailfront.store.audit_rows import latest_audits
from mailfront.store.queue_queries import Selector
from mailfront.store.writer import Store
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


class Bench:
    """A server of the cluster `ours` that imports."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        homes = FakeHomes(nodes=(A,), pins=HOPS)
        self.store = store
        queue = Queue(store, homes, retry_s=RETRY_S, notices=NOTICES, alarm=lambda *_: None)
        self.views = QueueViews(store, homes)
        imports = QueueImport(queue, Places({A, RESOLVE}, lambda key: 3))
        self.exchange = QueueExchange(imports, cluster="ours", clock=clock)

    async def take(self, document: dict[str, Any]) -> dict[str, Any]:
        """Import one message."""
        return await self.exchange.commit(read(ImportRequest, document), uid=1000)

    async def keys(self) -> list[str]:
        """The mailbox keys of what is queued."""
        return [row.mailbox_key for row in (await self.views.list_rows(Selector(), limit=50)).rows]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = ManualClock()
    store = open_store(tmp_path, clock)
    yield Bench(store, clock)
    await store.close()


def document(**more: Any) -> dict[str, Any]:
    """One message of one recipient, as a file of the same cluster has it."""
    row = replace(queued_recipient(0, "ana", 3), options=RecipientOptions(notify="NEVER", orcpt=None))
    message = replace(queued_message(1, 1000.0), size_bytes=len(BODY))
    found = show_exported(ExportedMessage(message=message, recipients=(row,)))
    return {**found, "cluster": "ours", "data": base64.b64encode(BODY).decode(), **more}


@pytest.mark.parametrize(
    ("more", "key"),
    [({}, "ana"), ({"cluster": "theirs"}, next_hop_key(RESOLVE)), ({"resolve": True}, next_hop_key(RESOLVE))],
)
async def test_keys_are_believed_in_their_own_cluster_only(bench: Bench, more: dict[str, Any], key: str) -> None:
    """From another one, or on demand, recipients are looked up anew."""
    assert await bench.take(document(**more)) == {"answer": "new", "recipients": 1}
    assert await bench.keys() == [key]


def changed(part: str, **values: Any) -> dict[str, Any]:
    """The document with values of its message, or of its recipient, replaced."""
    made = document()
    if part == "message":
        made["message"] |= values
    else:
        made["recipients"] = [made["recipients"][0] | values]
    return made


@pytest.mark.parametrize(
    "wrong",
    [
        changed("message", of_a_newer_version=1),
        changed("recipient", of_a_newer_version=1),
        changed("message", id="../../etc/passwd"),
        changed("message", body_type="16BIT"),
        changed("message", arrived_s=float("nan")),
        changed("message", size_bytes=len(BODY) + 1),
        changed("recipient", state="handed-off"),
        changed("recipient", number=-1),
        changed("recipient", number=2**31),
        changed("recipient", address=""),
        document(recipients=[]),
        document(recipients=[document()["recipients"][0]] * 2),
        document(data="no base64!"),
        document(data=base64.b64encode(b"x" * 300_000).decode()),
    ],
)
async def test_what_is_not_understood_is_refused_and_nothing_comes_in(bench: Bench, wrong: dict[str, Any]) -> None:
    """A name of a newer version, a state that is none, a body of another length: a usage error."""
    with pytest.raises(AdminError) as caught:
        await bench.take(wrong)
    assert caught.value.kind is Kind.USAGE
    assert await bench.keys() == []


async def test_a_piece_is_for_a_message_id(bench: Bench) -> None:
    """Nothing else names a message."""
    with pytest.raises(AdminError, match="not a message id"):
        await bench.exchange.put(ImportPiece(id="x", number=0, data=""))


async def test_an_import_is_audited_and_each_message_told_of(bench: Bench) -> None:
    """Who, from which file, why; the count is what came in, not what was offered."""
    events: list[dict[str, Any]] = []
    with log.listening(events.append):
        number = await bench.exchange.note(ImportNote(source="mail\n.tar", reason="moved"), uid=1000)
        for _ in range(2):
            await bench.take(document(audit=number))
    assert [event["event"] for event in events] == ["admin_action", "queue_imported"]
    assert (events[1]["id"], events[1]["rows_count"], events[1]["by"]) == (message_id(1), 1, "uid 1000")
    (audit,) = await bench.store.read(lambda connection: latest_audits(connection, 9))
    assert (audit.verb, audit.uid, audit.selector, audit.reason, audit.rows_count) == (
        "queue import", 1000, "mail?.tar", "moved", 1,
    )  # fmt: skip


@pytest.mark.parametrize("state", list(RecipientState))
def test_every_row_is_written_as_it_is_read(state: RecipientState) -> None:
    """The form loses nothing but the bucket and the lease, which mean something here only."""
    row = replace(
        queued_recipient(2**31 - 1, "ana", 3, 5.0), state=state, node=A, blame="node", last_reply="450 later",
        reason="why", via="list@example.edu", list_owner="owner@example.edu", warned=True, tried_s=4.0,
    )  # fmt: skip
    message = replace(queued_message(1, 1000.0), ret="FULL", envid="e", sender_proven=False, smtputf8=True)
    written = show_exported(ExportedMessage(message=message, recipients=(row,)))
    request = read(ImportRequest, {**written, "cluster": "ours"})
    assert request.message.value() == message
    assert request.recipients[0].value() == replace(row, bucket=0)
