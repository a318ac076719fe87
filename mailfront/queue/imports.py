"""Taking messages back into the queue that were written out of one: this one, or another front end's.

Importing is known by (message id, recipient number) for `MEMORY_S`, also after the mail has gone: a file that is
imported twice brings every recipient once. A message that this queue has by itself is left as it is.

Order of calls for a body of more than one piece: `begin`, `put` for each piece, `commit`; a smaller one goes with
`commit` alone. Pieces that no commit follows are swept after an hour, as with `Queue.accept`.

| exported recipient | here |
|---|---|
| waiting, held, quarantined | as it was |
| unknown at a node, or active there | unknown at that node: searched for before it is sent |
| the same, and there is no such node here | looked up anew; a possible duplicate, and the row says so |
| whose mailbox key means nothing here (`keep_keys` false) | looked up anew by its address |

Raises StoreFailed; what was committed stays, and the import can be repeated.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from mailfront.base.ids import MessageId
from mailfront.mail.body import PIECE_BYTES
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RESOLVE, is_next_hop, next_hop_key
from mailfront.queue.changes import Changes, accepted
from mailfront.queue.queue import Queue
from mailfront.queue.rows import QueuedMessage, QueuedRecipient, RecipientState
from mailfront.store import audit_rows, imported_rows, message_rows, recipient_rows
from mailfront.store.errors import StoreFailed
from mailfront.store.writer import Connection

MEMORY_S = imported_rows.MEMORY_S


class Answer(Enum):
    """What became of a message. NEW: rows came in. HERE: nothing new in it. BODY: send its body first."""

    NEW = "new"
    HERE = "here"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class Imported:
    """The answer, and how many recipients came in."""

    answer: Answer
    rows_count: int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """What this front end can deliver to: node and hop ids, and the bucket of a mailbox key."""

    nodes: Collection[NodeId]
    bucket_of: Callable[[MailboxKey], int]


class QueueImport:
    """See the module."""

    def __init__(self, queue: Queue, places: Places) -> None:
        self._queue = queue
        self._places = places

    async def note(self, audit: audit_rows.AuditRow) -> int:
        """Write down who imports what, before it is done. Returns the number that `commit` counts on."""
        return await self._queue.store.write(lambda connection: audit_rows.add_audit(connection, audit))

    async def begin(self, message: QueuedMessage, numbers: Collection[int]) -> Imported:
        """Make room for a body that comes in pieces: BODY if it is wanted, NEW if only the rows are, else HERE."""
        self._require_room(message.size_bytes)
        now_s = self._queue.store.clock.wall_s()

        def operation(connection: Connection) -> Imported:
            state, fresh = _fresh(connection, message.id, numbers)
            if not fresh:
                return Imported(Answer.HERE)
            if state in (message_rows.QUEUED, message_rows.EXPIRED):
                return Imported(Answer.NEW)
            _open(connection, message, state, now_s)
            return Imported(Answer.BODY)

        return await self._queue.store.write(operation)

    async def put(self, message_id: MessageId, number: int, data: bytes) -> None:
        """One piece of a body; all but the last are of `PIECE_BYTES`."""

        def operation(connection: Connection) -> None:
            if message_rows.message_state(connection, message_id) == message_rows.INCOMING:
                message_rows.put_chunk(connection, message_id, number, data)

        await self._queue.store.write(operation, size_bytes=len(data))

    async def commit(
        self,
        message: QueuedMessage,
        recipients: Sequence[QueuedRecipient],
        *,
        keep_keys: bool,
        data: bytes | None,
        audit_number: int,
    ) -> Imported:
        """Take the recipients in that are new here. `data`: the whole body, if it is one piece.

        Returns BODY, and has done nothing, if the body is not there as it should be.
        """
        self._require_room(message.size_bytes)
        queue, now_s = self._queue, self._queue.store.clock.wall_s()

        def operation(connection: Connection) -> tuple[Imported, Changes]:
            state, fresh = _fresh(connection, message.id, [row.number for row in recipients])
            if not fresh:
                return Imported(Answer.HERE), Changes()
            if state not in (message_rows.QUEUED, message_rows.EXPIRED):
                if data is not None:
                    _open(connection, message, state, now_s)
                    message_rows.put_chunk(connection, message.id, 0, data)
                stored = message_rows.body_sizes(connection, [message.id]).get(message.id, 0)
                if stored != message.size_bytes or (data is None and state != message_rows.INCOMING):
                    return Imported(Answer.BODY), Changes()
                message_rows.set_message_state(connection, message.id, message_rows.QUEUED, now_s)
            rows = [self._placed(row, keep_keys, now_s) for row in recipients if row.number in fresh]
            recipient_rows.insert_recipients(connection, message.id, message.arrived_s, rows)
            imported_rows.add(connection, message.id, fresh, now_s)
            audit_rows.raise_audit_count(connection, audit_number, len(rows))
            return Imported(Answer.NEW, len(rows)), accepted(rows)

        result, _ = await queue.store.write(
            operation, size_bytes=len(data or b""), committed=lambda answer: queue.note(answer[1])
        )
        return result

    def _require_room(self, size_bytes: int) -> None:
        if why := self._queue.store.gate.reason_for(size_bytes):
            raise StoreFailed(f"the queue takes nothing in now: {why}")

    def _placed(self, row: QueuedRecipient, keep_keys: bool, now_s: float) -> QueuedRecipient:
        """The row as it is here."""
        row = replace(row, lease_owner=None, lease_until_s=None)
        was_tried = row.state in (RecipientState.ACTIVE, RecipientState.UNKNOWN)
        hop = NodeId(row.mailbox_key)
        is_known = hop in self._places.nodes if is_next_hop(hop) else keep_keys
        if not is_known or (row.node is not None and row.node not in self._places.nodes):
            maybe = f"possible duplicate: {row.node} may have it" if row.node is not None else row.reason
            return replace(
                row,
                mailbox_key=next_hop_key(RESOLVE),
                bucket=NEXT_HOP_BUCKET,
                node_user=NodeUser(row.address),
                state=RecipientState.WAITING if was_tried else row.state,
                next_attempt_s=now_s if was_tried else row.next_attempt_s,
                node=None,
                reason=maybe,
            )
        bucket = NEXT_HOP_BUCKET if is_next_hop(hop) else self._places.bucket_of(row.mailbox_key)
        if was_tried and row.node is not None:
            return replace(row, bucket=bucket, state=RecipientState.UNKNOWN, next_attempt_s=now_s)
        return replace(row, bucket=bucket, state=RecipientState.WAITING if was_tried else row.state)


def _fresh(connection: Connection, message_id: MessageId, numbers: Collection[int]) -> tuple[str | None, set[int]]:
    """The message's state here, and which of these recipients have never come in."""
    state = message_rows.message_state(connection, message_id)
    known = imported_rows.numbers_of(connection, message_id)
    if state is not None and state != message_rows.INCOMING and not known:
        return state, set()  # it is this queue's own, and so is the word on all of its recipients
    return state, set(numbers) - known


def _open(connection: Connection, message: QueuedMessage, state: str | None, now_s: float) -> None:
    """A message under whose id nothing is queued becomes one that waits for its body."""
    if state is None:
        message_rows.insert_message(connection, message, message_rows.INCOMING, now_s)
    elif state != message_rows.INCOMING:
        message_rows.set_message_state(connection, message.id, message_rows.INCOMING, now_s)


def fits_one_piece(size_bytes: int) -> bool:
    """Whether a body of this size goes with `commit`."""
    return size_bytes <= PIECE_BYTES
