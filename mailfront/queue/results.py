"""What an attempt's outcome does to its queue row. Pure: one table.

| outcome | the row |
|---|---|
| Delivered, HandedOff | is deleted (a handed-off copy has its hint rows); the sender is told if he asked for it |
| Deferred | waits for its next attempt; past its lifetime it is deleted and the sender is told |
| Failed | is deleted and the sender is told, with the node's word |
| Unknown | is unknown at that node, tried there only; past its lifetime it is deleted and the sender is told so |

An outcome that comes late (its lease lapsed, or it was reported twice) may still delete the row, since what is
delivered is delivered; anything weaker counts only for the attempt that the row is in.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

from mailfront.base.printable import printable
from mailfront.mail.next_hop import RELAY
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.queue.dsn import NoticeKind, notify_wants
from mailfront.queue.notices import Ended
from mailfront.queue.rows import QueuedRecipient, RecipientState
from mailfront.queue.schedule import next_attempt_s

REPLY_CHARS = 512
STATUS = re.compile(r"\b[245]\.\d{1,3}\.\d{1,3}\b")
_NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_until_s": None}


@dataclass(frozen=True, slots=True)
class RowResult:
    """New column values of a row, or `values` None: delete it, and tell the sender what `ended` says, if anything."""

    values: dict[str, Any] | None
    ended: Ended | None = None


def counts_for(row: QueuedRecipient, outcome: Outcome, attempt: int | None) -> bool:
    """Whether this outcome, of attempt number `attempt` (None: the present one), may change the row."""
    if isinstance(outcome, Delivered | HandedOff):
        return True
    return row.state is RecipientState.ACTIVE and (attempt is None or attempt == row.attempts)


def refused(row: QueuedRecipient, answer: str) -> Ended:
    """What the sender hears of a recipient that `answer` (a reply's text, with its code) refused for good."""
    text = printable(answer, REPLY_CHARS)
    match = STATUS.search(text)
    status = match[0] if match is not None and match[0][0] == "5" else "5.0.0"
    return Ended(row=row, kind=NoticeKind.FAILED, status=status, diagnostic=text)


def expired(row: QueuedRecipient, answer: str, blame: str) -> Ended:
    """What the sender hears of a recipient that could not be reached in its lifetime; `answer`: the last reply. What
    the mailbox said of itself (it is full) tells him more than that the time is over."""
    maybe = row.state is RecipientState.UNKNOWN
    match = STATUS.search(answer) if blame == Blame.MAILBOX.value else None
    status = match[0] if match is not None and match[0][0] == "4" else "4.4.7"
    return Ended(row=row, kind=NoticeKind.FAILED, status=status, diagnostic=answer, maybe_delivered=maybe)


def result_of(
    row: QueuedRecipient, outcome: Outcome, *, now_s: float, expires_s: float, retry_s: Sequence[float], chance: float
) -> RowResult:
    """What becomes of a row. `chance` is a random number in 0..1 for the jitter."""
    next_s = next_attempt_s(now_s, row.attempts, retry_s, chance)
    match outcome:
        case Delivered(node=node, reply=answer, notifies=notifies):
            kind = NoticeKind.RELAYED if node == RELAY else NoticeKind.DELIVERED
            if notifies or not notify_wants(row.options.notify, kind):
                return RowResult(None)
            return RowResult(None, Ended(row=row, kind=kind, status=answer.enhanced or "2.0.0"))
        case HandedOff():
            return RowResult(None)
        case Deferred(blame=blame, reply=answer):
            text = printable(str(answer), REPLY_CHARS)
            values = {"blame": blame.value, "last_reply": text, "node": None, **_NO_LEASE}
            if now_s >= expires_s:
                return RowResult(None, expired(row, text, blame.value))
            return RowResult({"state": RecipientState.WAITING.value, "next_attempt_s": next_s, **values})
        case Failed(reply=answer):
            return RowResult(None, refused(row, str(answer)))
        case Unknown(node=node, reason=reason):
            text = printable(reason, REPLY_CHARS)
            if now_s >= expires_s:
                return RowResult(None, replace(expired(row, text, "node"), maybe_delivered=True))
            return RowResult(
                {
                    "state": RecipientState.UNKNOWN.value,
                    "next_attempt_s": next_s,
                    "node": node,
                    "last_reply": text,
                    "blame": "node",
                    **_NO_LEASE,
                }
            )
    assert_never(outcome)
