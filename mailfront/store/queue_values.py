"""What queue and handoff rows say, as frozen values. `mailfront.queue.rows` gives them to the rest of the program."""

from dataclasses import dataclass
from enum import Enum

from mailfront.base.ids import MessageId
from mailfront.mail.envelope import NO_OPTIONS, BodyType, RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser


class RecipientState(Enum):
    """The stored state of a queued recipient. WAITING is shown as due or deferred."""

    WAITING = "waiting"
    ACTIVE = "active"
    HELD = "held"
    QUARANTINED = "quarantined"
    UNKNOWN = "unknown"


class HandoffState(Enum):
    """The stored state of one recipient's copy in a secondary's handoff mailbox.

    STORED: to be brought home. DRAINING: an attempt to do so began; without a live lease its outcome is unknown.
    DONE: it is at home, the copy may still be there. SUPERSEDED: the queue or another holder has it; a copy found
    there goes. EXPUNGED: at home and the copy is gone. HELD: home refused it; an administrator must look.
    """

    STORED = "stored"
    DRAINING = "draining"
    HELD = "held"
    DONE = "done"
    SUPERSEDED = "superseded"
    EXPUNGED = "expunged"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedMessage:
    """One message in the queue, without its body. `reverse_path` None is the null reverse-path.

    Times are seconds since 1970. `client_ip` and `sha256` (hex, of the message as the client sent it, or '') are for
    records only. `sender_proven`: whether the reverse-path's domain vouches for the client (see `Verdict`).
    """

    id: MessageId
    reverse_path: str | None
    arrived_s: float
    expires_s: float
    size_bytes: int
    body_type: BodyType = BodyType.SEVENBIT
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None
    client_ip: str = ""
    sha256: str = ""
    sender_proven: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRecipient:
    """One recipient of a queued message; `number` is its place in the message.

    It keeps the mailbox key and never its home: each attempt asks placement. `node` is set only while the row is active
    or unknown (and while an unknown row is held): where the attempt is or was. `node_user` is what that node is told,
    detail included. `blame` is "node" or "mailbox" after a deferral, else ''. `reason` says why a row is held.

    `via` is the address of ours that forwarded the message or was expanded to this recipient, '' if the client named
    it. `list_owner` replaces the reverse-path for this recipient; None: it does not. `warned`: the sender has been told
    that it is late.
    """

    number: int
    address: str
    mailbox_key: MailboxKey
    bucket: int
    node_user: NodeUser
    options: RecipientOptions = NO_OPTIONS
    state: RecipientState = RecipientState.WAITING
    next_attempt_s: float = 0.0
    attempts: int = 0
    tried_s: float = 0.0
    blame: str = ""
    last_reply: str = ""
    reason: str = ""
    node: NodeId | None = None
    lease_owner: str | None = None
    lease_until_s: float | None = None
    via: str = ""
    list_owner: str | None = None
    warned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffRow:
    """One recipient's copy at `holder`, to be brought to whoever owns the mailbox by then.

    `home` is the node that was unreachable. `node` is where an attempt to bring it home is or was. `changed_s` is when
    the state last changed; `number` is the recipient's number in the message.
    """

    id: MessageId
    holder: NodeId
    number: int
    home: NodeId
    mailbox_key: MailboxKey
    address: str
    node_user: NodeUser
    options: RecipientOptions = NO_OPTIONS
    reverse_path: str | None = None
    arrived_s: float = 0.0
    state: HandoffState = HandoffState.STORED
    changed_s: float = 0.0
    attempts: int = 0
    next_attempt_s: float = 0.0
    last_reply: str = ""
    node: NodeId | None = None
    lease_owner: str | None = None
    lease_until_s: float | None = None
