"""What became of one mailbox's copy of a message.

A closed union: match on the class and end with `assert_never`. `reply` is the node's own answer where there was one.
"""

from dataclasses import dataclass
from enum import Enum

from mailfront.base.ids import MessageId
from mailfront.mail.names import NodeId
from mailfront.mail.reply import Reply


class Blame(Enum):
    """Whose trouble a deferral is. NODE: another way may be tried at once. MAILBOX: this node only, later."""

    NODE = "node"
    MAILBOX = "mailbox"


@dataclass(frozen=True, slots=True)
class Delivered:
    """The home node answered 2xx after the final dot: it is durable there.

    `notifies`: it offered DSN and was given the sender's wishes, so that telling the sender is its task from now on.
    """

    node: NodeId
    reply: Reply
    notifies: bool = False


@dataclass(frozen=True, slots=True)
class HandedOff:
    """A secondary's handoff mailbox holds it, and a committed hint says so. Kept, not yet at home."""

    holder: NodeId
    home: NodeId


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not delivered now; trying later may work. `alarm` names a fault an administrator must see, or is ''."""

    blame: Blame
    reply: Reply
    node: NodeId | None
    alarm: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The home node's permanent word about this mailbox or message, or a named policy of ours."""

    reply: Reply
    node: NodeId | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The final dot was sent and the answer was lost: it may or may not be in the mailbox at `node`."""

    node: NodeId
    reason: str


Outcome = Delivered | HandedOff | Deferred | Failed | Unknown


@dataclass(frozen=True, slots=True)
class Retained:
    """A filter's word: it is kept in our queue until a person decides. Nobody has tried to deliver it."""

    reason: str
    quarantined: bool


@dataclass(frozen=True, slots=True)
class Discarded:
    """A filter's word: accepted, and thrown away."""

    reason: str


@dataclass(frozen=True, slots=True)
class Split:
    """Filters changed its copy in another way than the others': it is in our queue as a message of its own, `id`."""

    id: MessageId


Fate = Outcome | Retained | Discarded | Split
"""What became of one mailbox's copy at intake: an outcome, or what filters decided instead of a delivery."""


def says_full(outcome: Fate) -> bool:
    """Whether this is a node's word that the mailbox has no room."""
    return isinstance(outcome, Deferred | Failed) and outcome.node is not None and outcome.reply.enhanced in _FULL


_FULL = ("4.2.2", "5.2.2")
