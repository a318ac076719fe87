"""Choosing what to try now at one node: the operation that runs in the writer's transaction.

First rows of unknown outcome at that node, then the visits that `PendingIndex` asked for, oldest first. Recipients of
one message that live on the node go together, at most `MAX_RECIPIENTS`. Each claimed row is committed as active, with
its node and lease, before anybody speaks to the node. A row that cannot be read is set aside as held and reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.mail.names import NodeId
from mailfront.queue.pending import Homes, Visit
from mailfront.queue.rows import Claimed, QueuedMessage, QueuedRecipient, RecipientState
from mailfront.store import message_rows, recipient_rows
from mailfront.store.writer import Connection

MAX_RECIPIENTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """For whom and how much. `limit` counts messages; `unknown_kicked_s` see `PendingIndex`."""

    node: NodeId
    homes: Homes
    visits: Sequence[Visit]
    with_unknown: bool
    unknown_kicked_s: float | None
    limit: int
    owner: str
    until_s: float
    now_s: float


@dataclass(slots=True)
class ClaimResult:
    """What was claimed, what each visit left behind, and what had to be set aside."""

    claimed: list[Claimed] = field(default_factory=list)
    visited: list[tuple[Visit, float | None, bool]] = field(default_factory=list)
    unknown_left: tuple[float | None, bool] | None = None
    set_aside: list[tuple[MessageId, int, str]] = field(default_factory=list)


def claim(connection: Connection, request: ClaimRequest) -> ClaimResult:
    """Run one claim inside the writer's transaction."""
    result = ClaimResult()
    if request.with_unknown:
        _claim_unknown(connection, request, result)
    for visit in request.visits:
        room = request.limit - len(result.claimed)
        if room <= 0:
            break
        found = recipient_rows.due_rows(
            connection,
            visit.bucket,
            request.now_s,
            room,
            keys_in=visit.keys_in,
            keys_not_in=visit.keys_not_in,
            kicked_s=visit.kicked_s,
        )
        is_all = len(found) < room
        for message_id in dict.fromkeys(message_id for message_id, _ in found):
            is_all = _take_waiting(connection, request, result, visit, message_id) and is_all
        earliest_s = recipient_rows.earliest_in_bucket(
            connection, visit.bucket, keys_in=visit.keys_in, keys_not_in=visit.keys_not_in
        )
        result.visited.append((visit, earliest_s, is_all))
    return result


def _claim_unknown(connection: Connection, request: ClaimRequest, result: ClaimResult) -> None:
    found = recipient_rows.unknown_rows(
        connection, request.node, request.now_s, request.limit, kicked_s=request.unknown_kicked_s
    )
    numbers: dict[MessageId, list[int]] = {}
    for message_id, number in found:
        numbers.setdefault(message_id, []).append(number)
    for message_id, wanted in numbers.items():
        rows = _readable(connection, result, message_id, RecipientState.UNKNOWN)
        _activate(connection, request, result, message_id, [row for row in rows if row.number in wanted], True)
    earliest_s = recipient_rows.earliest_unknown_at(connection, request.node)
    result.unknown_left = (earliest_s, len(found) < request.limit)


def _take_waiting(
    connection: Connection, request: ClaimRequest, result: ClaimResult, visit: Visit, message_id: MessageId
) -> bool:
    """Claim what the node may get now. Returns whether that is all that is due there."""
    rows = [
        row
        for row in _readable(connection, result, message_id, RecipientState.WAITING)
        if request.homes.home_of(row.mailbox_key, row.bucket) == request.node
        and (row.next_attempt_s <= request.now_s or _is_kicked(row, visit))
    ]
    # A long list fills many batches: no more of them at once than the node may get.
    for start in range(0, len(rows), MAX_RECIPIENTS):
        if len(result.claimed) >= request.limit:
            return False
        _activate(connection, request, result, message_id, rows[start : start + MAX_RECIPIENTS], False)
    return True


def _is_kicked(row: QueuedRecipient, visit: Visit) -> bool:
    return visit.kicked_s is not None and row.blame == "node" and row.tried_s < visit.kicked_s


def _activate(
    connection: Connection,
    request: ClaimRequest,
    result: ClaimResult,
    message_id: MessageId,
    rows: list[QueuedRecipient],
    was_unknown: bool,
) -> None:
    if not rows:
        return
    numbers = [row.number for row in rows]
    message = _readable_message(connection, result, message_id, numbers)
    if message is None:
        return
    recipient_rows.activate(
        connection,
        message_id,
        numbers,
        node=request.node,
        owner=request.owner,
        until_s=request.until_s,
        now_s=request.now_s,
    )
    recipients = tuple(
        replace(
            row,
            state=RecipientState.ACTIVE,
            node=request.node,
            lease_owner=request.owner,
            lease_until_s=request.until_s,
            attempts=row.attempts + 1,
            tried_s=request.now_s,
        )
        for row in rows
    )
    result.claimed.append(Claimed(message=message, recipients=recipients, was_unknown=was_unknown))


def _readable(
    connection: Connection, result: ClaimResult, message_id: MessageId, state: RecipientState
) -> list[QueuedRecipient]:
    values: list[QueuedRecipient] = []
    for row in recipient_rows.recipient_rows(connection, message_id, state):
        try:
            values.append(recipient_rows.recipient_from_row(row))
        except (ValueError, TypeError) as error:
            _set_aside(connection, result, message_id, [row.number], str(error))
    return values


def _readable_message(
    connection: Connection, result: ClaimResult, message_id: MessageId, numbers: list[int]
) -> QueuedMessage | None:
    try:
        message = message_rows.get_message(connection, message_id)
    except (ValueError, TypeError) as error:
        _set_aside(connection, result, message_id, numbers, str(error))
        return None
    if message is None:
        _set_aside(connection, result, message_id, numbers, "its message is not queued")
    return message


def _set_aside(
    connection: Connection, result: ClaimResult, message_id: MessageId, numbers: list[int], why: str
) -> None:
    reason = f"damaged row: {printable(why)}"
    values = {"state": RecipientState.HELD.value, "reason": reason, "lease_owner": None, "lease_until_s": None}
    recipient_rows.change_recipients(connection, message_id, numbers, values)
    result.set_aside += [(message_id, number, reason) for number in numbers]
