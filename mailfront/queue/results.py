"""What an attempt's outcome does to its queue row. Pure: one table.

| outcome | the row |
|---|---|
| Delivered, HandedOff | is deleted (a handed-off copy has its hint rows) |
| Deferred | waits for its next attempt; past its lifetime it is held |
| Failed | is held with the node's word: this version writes no DSN, and mail is never dropped |
| Unknown | is unknown at that node, tried there only |

An outcome that comes late (its lease lapsed, or it was reported twice) may still delete the row, since what is
delivered is delivered; anything weaker counts only for the attempt that the row is in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from mailfront.base.printable import printable
from mailfront.mail.outcome import Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.queue.rows import QueuedRecipient, RecipientState
from mailfront.queue.schedule import next_attempt_s

REPLY_CHARS = 512
_NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_until_s": None}


@dataclass(frozen=True, slots=True)
class RowResult:
    """New column values of a row, or `values` None: delete it. `alarm` is for the administrator, or ''."""

    values: dict[str, Any] | None
    alarm: str = ""


def counts_for(row: QueuedRecipient, outcome: Outcome, attempt: int | None) -> bool:
    """Whether this outcome, of attempt number `attempt` (None: the present one), may change the row."""
    if isinstance(outcome, Delivered | HandedOff):
        return True
    return row.state is RecipientState.ACTIVE and (attempt is None or attempt == row.attempts)


def result_of(
    row: QueuedRecipient, outcome: Outcome, *, now_s: float, expires_s: float, retry_s: Sequence[float], chance: float
) -> RowResult:
    """What becomes of a row. `chance` is a random number in 0..1 for the jitter."""
    next_s = next_attempt_s(now_s, row.attempts, retry_s, chance)
    match outcome:
        case Delivered() | HandedOff():
            return RowResult(None)
        case Deferred(blame=blame, reply=answer):
            text = printable(str(answer), REPLY_CHARS)
            values = {"blame": blame.value, "last_reply": text, "node": None, **_NO_LEASE}
            if now_s >= expires_s:
                return RowResult({"state": RecipientState.HELD.value, "reason": "expired", **values}, "expired")
            return RowResult({"state": RecipientState.WAITING.value, "next_attempt_s": next_s, **values})
        case Failed(reply=answer, node=node):
            text = printable(str(answer), REPLY_CHARS)
            reason = f"{node or 'we'} refused it for good; the sender has not been told"
            return RowResult(
                {
                    "state": RecipientState.HELD.value,
                    "reason": reason,
                    "last_reply": text,
                    "blame": "",
                    "node": None,
                    **_NO_LEASE,
                },
                "refused",
            )
        case Unknown(node=node, reason=reason):
            return RowResult(
                {
                    "state": RecipientState.UNKNOWN.value,
                    "next_attempt_s": next_s,
                    "node": node,
                    "last_reply": printable(reason, REPLY_CHARS),
                    "blame": "node",
                    **_NO_LEASE,
                }
            )
    assert_never(outcome)
