"""Queue values as JSON between a worker and the keeper. Pure; both ends are this program, of one version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from mailfront.base.ids import MessageId
from mailfront.mail.envelope import BodyType, RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.mail.reply import Reply
from mailfront.queue.port import HandoffCopy
from mailfront.queue.rows import QueuedMessage, QueuedRecipient, RecipientState

Wire = dict[str, Any]


def message_to_wire(message: QueuedMessage) -> Wire:
    """See the module."""
    return {
        "id": message.id,
        "reverse_path": message.reverse_path,
        "arrived_s": message.arrived_s,
        "expires_s": message.expires_s,
        "size_bytes": message.size_bytes,
        "body_type": message.body_type.value,
        "smtputf8": message.smtputf8,
        "ret": message.ret,
        "envid": message.envid,
        "client_ip": message.client_ip,
        "sha256": message.sha256,
        "sender_proven": message.sender_proven,
    }


def message_from_wire(wire: Wire) -> QueuedMessage:
    """See the module."""
    return QueuedMessage(**{**wire, "body_type": BodyType(wire["body_type"])})


def recipient_to_wire(row: QueuedRecipient) -> Wire:
    """What a worker decides about a row; leases are the keeper's."""
    return {
        "number": row.number,
        "address": row.address,
        "mailbox_key": row.mailbox_key,
        "bucket": row.bucket,
        "node_user": row.node_user,
        "options": [row.options.notify, row.options.orcpt],
        "state": row.state.value,
        "next_attempt_s": row.next_attempt_s,
        "attempts": row.attempts,
        "tried_s": row.tried_s,
        "blame": row.blame,
        "last_reply": row.last_reply,
        "reason": row.reason,
        "node": row.node,
        "via": row.via,
        "list_owner": row.list_owner,
    }


def recipient_from_wire(wire: Wire) -> QueuedRecipient:
    """See the module."""
    notify, orcpt = wire["options"]
    options = RecipientOptions(notify=notify, orcpt=orcpt)
    return QueuedRecipient(**{**wire, "options": options, "state": RecipientState(wire["state"])})


def outcomes_to_wire(outcomes: Mapping[int, Outcome]) -> list[list[Any]]:
    """Recipient numbers with what became of them."""
    return [[number, *_outcome_to_wire(outcome)] for number, outcome in outcomes.items()]


def outcomes_from_wire(wire: Sequence[Sequence[Any]]) -> dict[int, Outcome]:
    """See the module."""
    return {number: _outcome_from_wire(kind, values) for number, kind, *values in wire}


def _outcome_to_wire(outcome: Outcome) -> list[Any]:
    match outcome:
        case Delivered(node=node, reply=answer, notifies=notifies):
            return ["delivered", node, notifies, *_reply_to_wire(answer)]
        case HandedOff(holder=holder, home=home):
            return ["handed-off", holder, home]
        case Deferred(blame=blame, reply=answer, node=node, alarm=alarm):
            return ["deferred", blame.value, node, alarm, *_reply_to_wire(answer)]
        case Failed(reply=answer, node=node):
            return ["failed", node, *_reply_to_wire(answer)]
        case Unknown(node=node, reason=reason):
            return ["unknown", node, reason]
    assert_never(outcome)


def _outcome_from_wire(kind: str, values: Sequence[Any]) -> Outcome:
    match kind, *values:
        case "delivered", node, notifies, code, enhanced, lines:
            return Delivered(node, Reply(code, enhanced, tuple(lines)), notifies)
        case "handed-off", holder, home:
            return HandedOff(holder, home)
        case "deferred", blame, node, alarm, code, enhanced, lines:
            return Deferred(Blame(blame), Reply(code, enhanced, tuple(lines)), node, alarm)
        case "failed", node, code, enhanced, lines:
            return Failed(Reply(code, enhanced, tuple(lines)), node)
        case "unknown", node, reason:
            return Unknown(node, reason)
    raise ValueError(f"outcome {kind!r}")


def _reply_to_wire(answer: Reply) -> list[Any]:
    return [answer.code, answer.enhanced, list(answer.lines)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRecipientValue:
    """See `port.CopyRecipient`."""

    number: int
    address: str
    mailbox_key: MailboxKey
    node_user: NodeUser
    options: RecipientOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffCopyValue:
    """See `port.HandoffCopy`."""

    id: MessageId
    home: NodeId
    reverse_path: str | None
    arrived_s: float
    recipients: tuple[CopyRecipientValue, ...]


def copy_to_wire(copy: HandoffCopy) -> Wire:
    """What hint rows are made of."""
    return {
        "id": copy.id,
        "home": copy.home,
        "reverse_path": copy.reverse_path,
        "arrived_s": copy.arrived_s,
        "recipients": [
            [to.number, to.address, to.mailbox_key, to.node_user, to.options.notify, to.options.orcpt]
            for to in copy.recipients
        ],
    }


def places_to_wire(places: Sequence[tuple[NodeId, NodeId]]) -> list[list[str]]:
    """Where copies may be: (holder, home)."""
    return [[holder, home] for holder, home in places]


def places_from_wire(wire: Sequence[Sequence[str]]) -> list[tuple[NodeId, NodeId]]:
    """See the module."""
    return [(NodeId(holder), NodeId(home)) for holder, home in wire]


def copy_from_wire(wire: Wire) -> HandoffCopyValue:
    """See the module."""
    recipients = tuple(
        CopyRecipientValue(
            number=number,
            address=address,
            mailbox_key=MailboxKey(key),
            node_user=NodeUser(user),
            options=RecipientOptions(notify=notify, orcpt=orcpt),
        )
        for number, address, key, user, notify, orcpt in wire["recipients"]
    )
    return HandoffCopyValue(**{**wire, "recipients": recipients})
