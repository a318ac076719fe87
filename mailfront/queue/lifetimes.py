"""What becomes of mail that waits too long: the sender is warned once, and told when it is given up.

Called by the clock, again and again; each call does one page of work and says how much it was. What is held or
quarantined waits for an administrator, however long, and what is handed off never expires.

What survives a crash: each message's end and its notice are one transaction. Who was warned stands in the rows; where
the look for late mail goes on is only in memory, so after a start it begins at the oldest.
"""

from mailfront.base.ids import MessageId
from mailfront.queue import results
from mailfront.queue.changes import Changes, hold_damaged
from mailfront.queue.notices import Ended, NoticeKind
from mailfront.queue.queue import Queue
from mailfront.queue.rows import QueuedRecipient, RecipientState
from mailfront.store import message_rows, recipient_rows
from mailfront.store.writer import Connection

PAGE_MESSAGES = 200
_STILL_TRIED = (RecipientState.WAITING.value, RecipientState.UNKNOWN.value)


class Lifetimes:
    """See the module. One per keeper."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._looked_at = (0.0, MessageId(""))

    async def expire(self) -> int:
        """Give up what could not be delivered in its lifetime, and tell the senders. Returns how many messages."""
        queue, now_s = self._queue, self._queue.store.clock.wall_s()

        def operation(connection: Connection) -> Changes:
            changes = Changes()
            for message_id in message_rows.expired_messages(connection, now_s, PAGE_MESSAGES):
                rows = _tried_rows(connection, changes, message_id)
                # Told while the message still counts as queued; what stays (active, held) is expired from now on.
                if rows:
                    ended = [results.expired(row, row.last_reply, row.blame) for row in rows]
                    changes.tell_about(connection, queue.notices, message_id, ended, now_s)
                    recipient_rows.delete_recipients(connection, message_id, [row.number for row in rows])
                if not message_rows.finish_if_empty(connection, message_id, now_s):
                    message_rows.set_message_state(connection, message_id, message_rows.EXPIRED, now_s)
                changes.count += 1
            return changes

        return (await queue.store.write(operation, committed=queue.note)).count

    async def warn(self) -> int:
        """Tell senders who may be warned that their message is late, once. Returns how many messages were looked at."""
        queue, policy, now_s = self._queue, self._queue.notices, self._queue.store.clock.wall_s()
        before_s = now_s + policy.lifetime_s - policy.warn_after_s
        after = self._looked_at

        def operation(connection: Connection) -> tuple[Changes, tuple[float, MessageId]]:
            changes, last = Changes(), after
            for expires_s, message_id in message_rows.late_messages(connection, after, before_s, PAGE_MESSAGES):
                changes.count += 1
                last = (expires_s, message_id)
                message = message_rows.get_message(connection, message_id)
                if message is None or not policy.may_warn(message):
                    continue
                rows = [row for row in _tried_rows(connection, changes, message_id) if not row.warned]
                if rows:
                    ended = [_late(row, expires_s) for row in rows]
                    changes.tell(connection, policy, message, ended, now_s)
                    numbers = [row.number for row in rows]
                    recipient_rows.change_recipients(connection, message_id, numbers, {"warned": True})
            return changes, last

        def committed(answer: tuple[Changes, tuple[float, MessageId]]) -> None:
            queue.note(answer[0])
            self._looked_at = answer[1]

        changes, _ = await queue.store.write(operation, committed=committed)
        return changes.count


def _tried_rows(connection: Connection, changes: Changes, message_id: MessageId) -> list[QueuedRecipient]:
    rows = []
    for found in recipient_rows.recipient_rows(connection, message_id):
        if found.state in _STILL_TRIED:
            try:
                rows.append(recipient_rows.recipient_from_row(found))
            except (ValueError, TypeError) as error:
                hold_damaged(connection, changes, message_id, found.number, str(error))
    return rows


def _late(row: QueuedRecipient, expires_s: float) -> Ended:
    match = results.STATUS.search(row.last_reply)
    status = match[0] if match is not None and match[0][0] == "4" else "4.4.7"
    return Ended(row=row, kind=NoticeKind.DELAYED, status=status, diagnostic=row.last_reply, give_up_s=expires_s)
