"""What an administrator's verb does to rows, inside the transaction that looks at them once more.

| verb | applies to | the row afterwards |
|---|---|---|
| retry | waiting, unknown | due now |
| hold | waiting, unknown, quarantined | held |
| release | held, quarantined | due now; of unknown outcome again if it was |
| bounce | all but active, and unnamed ones of the null sender | gone, with its notice in the same transaction |
| delete | all but active | gone, and nobody is told |
| redirect | all but active | due at the look-up of its new address; the old one stays as ORCPT |

Two verbs on one row at once are two transactions one after the other: the second one finds what the first has left, and
says so. What is not any more as it was selected (it goes to another address by now, or its state is none of those that
were named) is left alone: nobody has asked for that one. A row that is active belongs to its attempt: it is left alone
and reported as `active at NODE`.

Handed-off copies can only be retried, and released when home had refused them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.mail.names import NodeId
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RESOLVE, next_hop_key
from mailfront.mail.original_recipient import original_recipient
from mailfront.queue.changes import Changes, end_rows
from mailfront.queue.notices import NoticePolicy
from mailfront.queue.rows import HandoffState, RecipientState
from mailfront.store import handoff_rows, message_rows, recipient_rows
from mailfront.store.message_rows import split_key
from mailfront.store.queue_queries import HANDED_OFF, ListedRow, Selector
from mailfront.store.writer import Connection

GIVEN_UP = "554 5.0.0 the administrator of this mail system has given up the delivery"
"""What the sender of a bounced message is told. The reason in the order is for the audit, not for the sender."""
GONE = "it is gone: delivered, or ended by another command"
NULL_SENDER = "its sender is null: bounce it by --id or by --sender '<>', or delete it"
MOST_SHOWN = 100


class Verb(Enum):
    """RETRY: try what waits now. HOLD: do not try until released. RELEASE: try what is held. BOUNCE: give it up and
    tell the sender. DELETE: give it up and tell nobody. REDIRECT: deliver it to another address instead."""

    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    BOUNCE = "bounce"
    DELETE = "delete"
    REDIRECT = "redirect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A verb, on what, and on whose word. `selector` empty means everything: the caller has made sure that it is.

    `to` is the new address of REDIRECT, checked by the caller; '' for other verbs.
    """

    verb: Verb
    selector: Selector
    uid: int
    reason: str = ""
    dry_run: bool = False
    to: str = ""


@dataclass(slots=True)
class VerbResult:
    """`matched_count` rows fit the selector; `changed_count` of them were (or with dry_run would be) changed.

    `skipped` says why others were not: (id, recipient, why). Of both lists at most `most_shown` are kept.
    """

    matched_count: int = 0
    changed_count: int = 0
    skipped_count: int = 0
    skipped: list[tuple[MessageId, str, str]] = field(default_factory=list)
    changed: list[tuple[MessageId, str]] = field(default_factory=list)
    most_shown: int = MOST_SHOWN

    def count(self, row: ListedRow) -> None:
        """The verb changes this row."""
        self.changed_count += 1
        if len(self.changed) < self.most_shown:
            self.changed.append((row.id, row.recipient))

    def skip(self, row: ListedRow, why: str) -> None:
        """The verb leaves this row alone."""
        self.skipped_count += 1
        if len(self.skipped) < self.most_shown:
            self.skipped.append((row.id, row.recipient, why))

    def add(self, page: "VerbResult") -> None:
        """Count a page that was committed. Its matches are counted already."""
        self.changed_count += page.changed_count
        self.skipped_count += page.skipped_count
        self.changed += page.changed[: self.most_shown - len(self.changed)]
        self.skipped += page.skipped[: self.most_shown - len(self.skipped)]


_WAITING, _ACTIVE, _HELD, _QUARANTINED, _UNKNOWN = (
    state.value
    for state in (
        RecipientState.WAITING,
        RecipientState.ACTIVE,
        RecipientState.HELD,
        RecipientState.QUARANTINED,
        RecipientState.UNKNOWN,
    )
)
_ANY_BUT_ACTIVE = (_WAITING, _UNKNOWN, _HELD, _QUARANTINED)
_APPLIES_TO = {
    Verb.RETRY: (_WAITING, _UNKNOWN),
    Verb.HOLD: (_WAITING, _UNKNOWN, _QUARANTINED),
    Verb.RELEASE: (_HELD, _QUARANTINED),
    Verb.BOUNCE: _ANY_BUT_ACTIVE,
    Verb.DELETE: _ANY_BUT_ACTIVE,
    Verb.REDIRECT: _ANY_BUT_ACTIVE,
}


def change_queued(
    connection: Connection,
    order: Order,
    rows: Sequence[ListedRow],
    done: VerbResult,
    changes: Changes,
    notices: NoticePolicy,
    now_s: float,
) -> None:
    """Apply the verb to queued rows as they are now. `changes` gets what memory must know after the commit."""
    listed = {(row.id, row.number): row for row in rows}
    found = recipient_rows.states_of(connection, list(listed)) if rows else []
    fit = [now for now in found if _judge_now(done, listed[now.message_id, now.number], order, now)]
    for key in listed.keys() - {(now.message_id, now.number) for now in found}:
        done.skip(listed[key], GONE)
    keys = [(MessageId(row.message_id), row.number) for row in fit]
    match order.verb:
        case Verb.BOUNCE:
            for message_id in dict.fromkeys(message_id for message_id, _ in keys):
                numbers = {number for of, number in keys if of == message_id}
                end_rows(connection, changes, notices, message_id, numbers, GIVEN_UP, now_s)
        case Verb.DELETE:
            recipient_rows.delete_rows(connection, keys)
            for message_id in dict.fromkeys(message_id for message_id, _ in keys):
                message_rows.finish_if_empty(connection, message_id, now_s)
        case Verb.HOLD:
            why = f"held by uid {order.uid}" + (f": {printable(order.reason, 200)}" if order.reason else "")
            recipient_rows.change_rows(connection, keys, {"state": _HELD, "reason": why})
        case Verb.REDIRECT:
            _redirect(connection, order, [(listed[now.message_id, now.number], now) for now in fit], done, now_s)
            changes.waiting.append((NEXT_HOP_BUCKET, next_hop_key(RESOLVE), now_s))
        case Verb.RETRY | Verb.RELEASE:
            _make_due(connection, fit, changes, now_s)


def _make_due(connection: Connection, rows: Sequence[Any], changes: Changes, now_s: float) -> None:
    # A held row that still names a node was of unknown outcome there: it goes back to being searched for first.
    unknown = [(MessageId(row.message_id), row.number) for row in rows if row.node is not None]
    waiting = [(MessageId(row.message_id), row.number) for row in rows if row.node is None]
    due: dict[str, Any] = {"next_attempt_s": now_s, "reason": ""}
    changes.is_urgent = bool(rows)
    recipient_rows.change_rows(connection, unknown, {"state": _UNKNOWN, **due})
    recipient_rows.change_rows(connection, waiting, {"state": _WAITING, **due})
    for row in rows:
        if row.node is None:
            changes.waiting.append((row.bucket, row.mailbox_key, now_s))
        else:
            changes.unknown.append((NodeId(row.node), now_s))


def _redirect(
    connection: Connection, order: Order, rows: Sequence[tuple[ListedRow, Any]], done: VerbResult, now_s: float
) -> None:
    """Give rows their new address, unless a message has a row for that already: nobody gets two copies."""
    domain, local = split_key(order.to)
    served = recipient_rows.messages_with_address(connection, list({row.id for row, _ in rows}), domain, local)
    redirected: list[tuple[MessageId, int, dict[str, Any]]] = []
    for row, now in rows:
        if row.id in served:
            done.skip(row, f"{order.to} gets this message already")
            continue
        served.add(row.id)
        values: dict[str, Any] = {
            "address": order.to,
            "domain": domain,
            "local_key": local,
            "mailbox_key": next_hop_key(RESOLVE),
            "bucket": NEXT_HOP_BUCKET,
            "node_user": order.to,
            "orcpt": now.orcpt or original_recipient(now.address),
            "via": now.address,
            "state": _WAITING,
            "next_attempt_s": now_s,
            "node": None,
            "blame": "",
            "reason": f"possible duplicate: {now.node} may have it for {now.address}" if now.node else "",
        }
        redirected.append((row.id, row.number, values))
        done.count(row)
    recipient_rows.change_each(connection, redirected)


def change_handed_off(connection: Connection, verb: Verb, row: ListedRow, done: VerbResult) -> None:
    """Apply the verb to a copy in a handoff mailbox, where that is possible."""
    if verb not in (Verb.RETRY, Verb.RELEASE) or row.node is None:
        done.skip(row, f"handed-off at {row.node}")
        return
    values: dict[str, Any] = {"next_attempt_s": 0.0}
    states: tuple[HandoffState, ...] = (HandoffState.STORED, HandoffState.DRAINING)
    if verb is Verb.RELEASE:
        values["state"], states = HandoffState.STORED.value, (HandoffState.HELD,)
    changed = handoff_rows.change_handoffs(connection, row.id, (row.node,), values, numbers=[row.number], states=states)
    if changed:
        done.count(row)
    else:
        done.skip(row, f"handed-off at {row.node}")


def rehearse(done: VerbResult, order: Order, row: ListedRow, served: set[MessageId]) -> None:
    """Count what the verb would do to a row as it was listed. `served`: messages that a redirection's address has."""
    if row.state == HANDED_OFF:
        if order.verb in (Verb.RETRY, Verb.RELEASE):
            done.count(row)
        else:
            done.skip(row, f"handed-off at {row.node}")
    elif why := _objection(order, row.state, row.node, row.reason, row.recipient) or _is_of_nobody(row, order):
        done.skip(row, why)
    elif row.id in served:
        done.skip(row, f"{order.to} gets this message already")
    else:
        done.count(row)
        if order.verb is Verb.REDIRECT:
            served.add(row.id)


def _judge_now(done: VerbResult, row: ListedRow, order: Order, now: Any) -> bool:
    """Whether the verb applies to the row as it is now. A redirected row is counted when it is changed."""
    why = _objection(order, now.state, now.node, now.reason, now.address)
    if why := why or _changed_since(row, order, now) or _is_of_nobody(row, order):
        done.skip(row, why)
        return False
    if order.verb is not Verb.REDIRECT:
        done.count(row)
    return True


def _changed_since(row: ListedRow, order: Order, now: Any) -> str:
    """Why the row is not the one any more that was selected; '' if it is."""
    if now.address != row.recipient:
        return f"it goes to {printable(now.address, 400)} now"
    words = ("due", "deferred") if now.state == _WAITING else (now.state,)
    if order.selector.states and not set(words) & set(order.selector.states):
        return f"it is {'waiting' if now.state == _WAITING else now.state} now"
    return ""


def _is_of_nobody(row: ListedRow, order: Order) -> str:
    """Why a row is not bounced that could be lost by that. Among all rows there are notices, those of a bounce too."""
    if order.verb is not Verb.BOUNCE or row.sender is not None:
        return ""
    return "" if order.selector.ids or "<>" in order.selector.senders else NULL_SENDER


def _objection(order: Order, state: str, node: str | None, reason: str, address: str) -> str:
    """Why the verb does not apply to a row in this state; '' if it does."""
    if state == _ACTIVE:
        return f"active at {node}"
    if state not in _APPLIES_TO[order.verb]:
        word = "not held" if state == _WAITING else f"{state} at {node}" if state == _UNKNOWN else state
        return f"it is {word}" + (f" already: {reason}" if state == _HELD and reason else "")
    if order.verb is Verb.REDIRECT and split_key(address) == split_key(order.to):
        return f"it goes to {order.to} already"
    return ""
