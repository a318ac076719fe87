"""From what happened in the mailboxes to what the client is told. Pure; the only place that decides it.

Two folds. First the outcomes of the mailboxes that one RCPT led to become one standing for that RCPT (RCPTs that
share a mailbox share its outcome). Then the standings become one reply (SMTP) or one reply each (LMTP), and the list
of mailboxes whose copy must be kept. `250` is only in a decision whose `keep` is committed first by the caller.

| RCPTs | kept | reply |
|---|---|---|
| all delivered | nothing | 250 ID delivered |
| all failed | nothing | the node's own 5xx, the first one |
| none delivered, all deferred by their mailbox | nothing | the node's own 4xx, the first one |
| all discarded by filters | nothing | 250 ID accepted |
| anything else | the deferred, unknown and retained ones; the failed ones as notices | 250 ID queued |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from mailfront.base.ids import MessageId
from mailfront.mail.outcome import (
    Blame,
    Deferred,
    Delivered,
    Discarded,
    Failed,
    Fate,
    HandedOff,
    Retained,
    Split,
    Unknown,
)
from mailfront.mail.reply import Reply, reply


class Standing(Enum):
    """Where one RCPT stands after all its mailboxes have answered."""

    DELIVERED = "delivered"
    FAILED = "failed"
    TEMPORARY = "temporary"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to keep and what to say.

    `keep`: mailboxes to queue (deferred or unknown) before the replies are sent. `notices`: mailboxes that failed for
    good while the message as a whole is accepted, so that the sender must be told by other means. `replies`: one for
    SMTP, one per RCPT for LMTP. `already_kept` is true if a secondary holds a copy for at least one RCPT.
    """

    keep: tuple[int, ...]
    notices: tuple[int, ...]
    replies: tuple[Reply, ...]


def fold(
    message_id: MessageId,
    recipients: Sequence[Sequence[int]],
    outcomes: Sequence[Fate],
    *,
    per_recipient: bool,
    asked_count: int | None = None,
) -> Decision:
    """Fold mailbox outcomes into a decision.

    `recipients[i]` lists the indexes into `outcomes` of the mailboxes that RCPT i led to, at least one each. An outcome
    that no RCPT leads to counts for nothing. The first `asked_count` are the client's (None: all); the others were
    added by filters, so no client keeps what is deferred for them, and one reply each is there only to be counted.
    """
    if per_recipient:
        return _fold_each(message_id, recipients, outcomes, len(recipients) if asked_count is None else asked_count)
    standings = [_standing([outcomes[index] for index in indexes]) for indexes in recipients]
    if all(standing is Standing.FAILED for standing in standings):
        return Decision((), (), (_first_reply(outcomes, Failed),))
    if all(standing is Standing.TEMPORARY for standing in standings):
        return Decision((), (), (_first_reply(outcomes, Deferred),))
    everybody = sorted({index for indexes in recipients for index in indexes})
    keep, notices = _to_keep(everybody, outcomes), _to_tell(everybody, outcomes)
    return Decision(keep, notices, (_accepted(message_id, [outcomes[index] for index in everybody]),))


def _fold_each(
    message_id: MessageId, recipients: Sequence[Sequence[int]], outcomes: Sequence[Fate], asked_count: int
) -> Decision:
    kept: dict[int, None] = {}
    notices: dict[int, None] = {}
    replies: list[Reply] = []
    for number, indexes in enumerate(recipients):
        own = [outcomes[index] for index in indexes]
        standing = _standing(own)
        if standing is Standing.FAILED:
            replies.append(_first_reply(own, Failed))
        elif standing is Standing.TEMPORARY and number < asked_count:
            replies.append(_first_reply(own, Deferred))
        else:
            kept.update(dict.fromkeys(_to_keep(indexes, outcomes)))
            notices.update(dict.fromkeys(_to_tell(indexes, outcomes)))
            replies.append(_accepted(message_id, own))
    return Decision(tuple(sorted(kept)), tuple(sorted(notices)), tuple(replies))


def _standing(outcomes: Sequence[Fate]) -> Standing:
    if all(isinstance(outcome, Delivered | Discarded) for outcome in outcomes):
        return Standing.DELIVERED
    if all(isinstance(outcome, Failed) for outcome in outcomes):
        return Standing.FAILED
    if all(isinstance(outcome, Deferred) and outcome.blame is Blame.MAILBOX for outcome in outcomes):
        return Standing.TEMPORARY
    return Standing.KEPT


def must_be_queued(outcome: Fate) -> bool:
    """Whether a mailbox's copy exists nowhere durable yet, or may not."""
    match outcome:
        case Deferred() | Unknown() | Retained():
            return True
        case Delivered() | HandedOff() | Failed() | Discarded() | Split():
            return False
        case _:
            assert_never(outcome)


def _to_keep(indexes: Sequence[int], outcomes: Sequence[Fate]) -> tuple[int, ...]:
    return tuple(index for index in indexes if must_be_queued(outcomes[index]))


def _to_tell(indexes: Sequence[int], outcomes: Sequence[Fate]) -> tuple[int, ...]:
    return tuple(index for index in indexes if isinstance(outcomes[index], Failed))


def _accepted(message_id: MessageId, outcomes: Sequence[Fate]) -> Reply:
    if all(isinstance(outcome, Discarded) for outcome in outcomes):
        done = "accepted"
    else:
        done = "delivered" if all(isinstance(each, Delivered | Discarded) for each in outcomes) else "queued"
    return reply(250, "2.0.0", f"{message_id} {done}")


def _first_reply(outcomes: Sequence[Fate], kind: type[Failed] | type[Deferred]) -> Reply:
    return next(outcome.reply for outcome in outcomes if isinstance(outcome, kind))
