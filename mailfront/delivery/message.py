"""What is handed to one node: one message, the mailboxes it is for, and how far it has come."""

from dataclasses import dataclass
from enum import Enum

from mailfront.base.ids import MessageId
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import BodyType, RecipientOptions


@dataclass(frozen=True, slots=True)
class LmtpRecipient:
    """One mailbox as the node knows it (detail included), with its DSN parameters."""

    node_user: str
    options: RecipientOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LmtpTransaction:
    """One message for mailboxes of one node. No two recipients have the same node user."""

    id: MessageId
    reverse_path: Address | None
    body_type: BodyType
    smtputf8: bool
    ret: str | None
    envid: str | None
    recipients: tuple[LmtpRecipient, ...]
    body: BodyRef

    def __post_init__(self) -> None:
        count = len(self.recipients)
        if count != 1 and (count == 0 or len({recipient.node_user for recipient in self.recipients}) != count):
            raise ValueError("a transaction needs recipients, each of them once")


class Phase(Enum):
    """How far an attempt is."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    SENDING = "sending"
    DOTTED = "dotted"
    DONE = "done"
