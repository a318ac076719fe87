"""What one transaction on queue rows changes, and what must be known of it once it is committed.

A transaction fills a `Changes`; `Queue.note` gives it to memory, the log and the administrator after the commit, never
before: what was rolled back is told to nobody.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RESOLVE, next_hop_key
from mailfront.queue import results
from mailfront.queue.notices import Ended, NoticePolicy, Told, tell
from mailfront.queue.results import RowResult
from mailfront.queue.rows import QueuedMessage, QueuedRecipient, RecipientState
from mailfront.store import message_rows, recipient_rows
from mailfront.store.writer import Connection


@dataclass(slots=True)
class Changes:
    """What a transaction changed that memory must know."""

    waiting: list[tuple[int, MailboxKey, float]] = field(default_factory=list)
    unknown: list[tuple[NodeId, float]] = field(default_factory=list)
    alarms: list[tuple[str, str]] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    count: int = 0
    refused: str = ""
    is_urgent: bool = False
    """An administrator wants it tried now."""

    def tell(
        self,
        connection: Connection,
        policy: NoticePolicy,
        message: QueuedMessage,
        ended: Sequence[Ended],
        now_s: float,
    ) -> None:
        """Insert notices, and remember that they are due."""
        for told in tell(connection, policy, message, ended, now_s):
            self.told.append(told)
            if told.notice:
                self.waiting.append((NEXT_HOP_BUCKET, next_hop_key(RESOLVE), now_s))

    def tell_about(
        self,
        connection: Connection,
        policy: NoticePolicy,
        message_id: MessageId,
        ended: Sequence[Ended],
        now_s: float,
    ) -> None:
        """The same for a message that is in the queue. Call it before its last rows are deleted."""
        message = message_rows.get_message(connection, message_id)
        if message is not None:
            self.tell(connection, policy, message, ended, now_s)


def accepted(recipients: Sequence[QueuedRecipient]) -> Changes:
    changes = Changes(count=len(recipients))
    for row in recipients:
        if row.state is RecipientState.WAITING:
            changes.waiting.append((row.bucket, row.mailbox_key, row.next_attempt_s))
        elif row.state is RecipientState.UNKNOWN and row.node is not None:
            changes.unknown.append((row.node, row.next_attempt_s))
    return changes


def note_result(changes: Changes, row: QueuedRecipient, result: RowResult) -> None:
    values = result.values or {}
    if values["state"] == RecipientState.WAITING.value:
        changes.waiting.append((row.bucket, row.mailbox_key, values["next_attempt_s"]))
    elif values["state"] == RecipientState.UNKNOWN.value:
        changes.unknown.append((values["node"], values["next_attempt_s"]))


def hold_damaged(connection: Connection, changes: Changes, message_id: MessageId, number: int, why: str) -> None:
    reason = f"damaged row: {printable(why)}"
    values = {"state": RecipientState.HELD.value, "reason": reason, "lease_owner": None, "lease_until_s": None}
    recipient_rows.change_recipients(connection, message_id, [number], values)
    changes.alarms.append(("queue.damaged", f"{message_id}/{number} is held: {reason}"))


def end_rows(
    connection: Connection,
    changes: Changes,
    policy: NoticePolicy,
    message_id: MessageId,
    numbers: Collection[int],
    answer: str,
    now_s: float,
) -> None:
    """Give up rows of one message that are not active, and tell their sender `answer` (a reply with its code)."""
    ended, gone = [], []
    for found in recipient_rows.recipient_rows(connection, message_id):
        if found.number not in numbers or found.state == RecipientState.ACTIVE.value:
            continue
        gone.append(found.number)
        try:
            row = recipient_rows.recipient_from_row(found)
        except (ValueError, TypeError):
            continue  # a row that cannot be read names nobody to be told about
        maybe = row.state is RecipientState.UNKNOWN or row.node is not None
        ended.append(replace(results.refused(row, answer), maybe_delivered=maybe))
    if ended:
        changes.tell_about(connection, policy, message_id, ended, now_s)
    if gone:
        recipient_rows.delete_recipients(connection, message_id, gone)
        message_rows.finish_if_empty(connection, message_id, now_s)
