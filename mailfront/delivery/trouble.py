"""What an answer, or the lack of one, means. Pure; the only place that decides it.

| what the node did | outcome | evidence |
|---|---|---|
| cannot connect; TLS or greeting did not come about | deferred by the node | connect failed |
| greeting, LHLO or STARTTLS refused; 421; lost, stalled, garbled before dot | deferred by the node | message failed |
| 5xx to LHLO or STARTTLS | the same, with an alarm: our configuration and the node's do not fit | message failed |
| 4xx to MAIL or DATA | deferred by the node | message failed |
| 5xx to MAIL or DATA | deferred, with an alarm: what we say does not suit the node; never handed off | none |
| 2xx after the final dot | delivered | succeeded |
| 4xx to RCPT or after the dot | deferred by the mailbox: this node only, never handed off | none |
| 5.1.x to RCPT or after the dot | deferred by the mailbox, with an alarm: directory and node disagree | unknown user |
| the same, if `storage.unknown_at_node` is "refuse" | failed, the node's word | unknown user |
| other 5xx to RCPT or after the dot | failed, the node's word | none |
| lost, stalled or garbled after the final dot; 421 there | unknown | message failed |
| stopped by ourselves because it takes too long | deferred by the node | as if it had stalled |
| no free connection in time; stopped by ourselves for another reason; a fault of ours | deferred by the node | none |
| a path or parameter that cannot be written | the same, with an alarm | none |

The smarthost and the server of a `[[route]]` are other mail systems and no stores of ours. They alone know their users
and what suits them (`Authority.ELSEWHERE`): any 5xx to MAIL, RCPT, DATA or after the dot is failed with their word, any
4xx is a deferral of this message and says nothing about the server.

A connection from the pool that is lost, garbled or closing before the final dot proves nothing about the node: the
attempt is made once more on a fresh one (`try_fresh`). A time-out is not repeated.

421 after the final dot is no answer about the message: Dovecot says it when it is shut down, and has often stored the
message by then.

A deferral's reply is always 4xx and never 421, which would be about the client's own connection.
"""

from dataclasses import dataclass
from enum import Enum

from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Outcome, Unknown
from mailfront.mail.reply import Reply, reply


class Stage(Enum):
    """Where in an attempt something happened, in order."""

    SLOT = "waiting for a connection"
    CONNECT = "connect"
    TLS = "TLS handshake"
    GREETING = "greeting"
    LHLO = "LHLO"
    STARTTLS = "STARTTLS"
    IDLE = "idle"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BODY = "body"
    FINAL = "final dot"


class Cause(Enum):
    """Why a connection is of no use any more, or never was."""

    NO_SLOT = "no free connection"
    NO_CONNECTION = "cannot connect"
    REFUSED = "refused"
    CLOSING = "closing"
    LOST = "connection lost"
    STALLED = "no answer"
    GARBLED = "protocol error"
    TOO_SLOW = "given up"
    STOPPED = "stopped"
    UNSENDABLE = "cannot be written"
    LOCAL = "not sent"


class Evidence(Enum):
    """What the attempt says about the node's health."""

    NONE = "none"
    CONNECT_FAILED = "connect failed"
    MESSAGE_FAILED = "message failed"
    UNKNOWN_USER = "unknown user"
    SUCCEEDED = "succeeded"


class Authority(Enum):
    """Whose word counts about who exists at a server, and about what it takes."""

    DIRECTORY = "directory"
    """A storage node: the directory knows its mailboxes; a node that denies one is wrong until somebody has looked."""
    NODE = "node"
    """A storage node whose word about a mailbox is taken."""
    ELSEWHERE = "elsewhere"
    """Another mail system."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A connection that cannot go on. `text` is printable; `reply` is what the node said, if it said anything."""

    stage: Stage
    cause: Cause
    text: str
    reply: Reply | None = None

    def __str__(self) -> str:
        return f"{self.cause.value} at {self.stage.value}: {self.text}"


@dataclass(frozen=True, slots=True)
class Ruling:
    """The outcome of one mailbox and what to tell the judge of nodes."""

    outcome: Outcome
    evidence: Evidence


_SERVICE_CLOSING = 421
_OUR_SIDE = frozenset({Cause.NO_SLOT, Cause.STOPPED, Cause.UNSENDABLE, Cause.LOCAL})
_FRESH_MAY_HELP = frozenset({Cause.LOST, Cause.GARBLED, Cause.CLOSING})
_DIALOGUE = frozenset({Stage.IDLE, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY})


def judge_reply(stage: Stage, answer: Reply, node: NodeId, authority: Authority = Authority.DIRECTORY) -> Ruling:
    """What an answer to MAIL, RCPT, DATA or the final dot means for the mailbox that it is about.

    For MAIL, RCPT and DATA the answer must be negative.
    """
    if stage is Stage.FINAL and answer.is_positive:
        return Ruling(Delivered(node, answer), Evidence.SUCCEEDED)
    if authority is Authority.ELSEWHERE and answer.code != _SERVICE_CLOSING:
        if answer.is_permanent:
            return Ruling(Failed(answer, node), Evidence.NONE)
        return Ruling(Deferred(Blame.MAILBOX, answer, node), Evidence.NONE)
    if stage is Stage.MAIL or stage is Stage.DATA:
        if answer.is_permanent:
            alarm = f"{node} answers {stage.value} with {answer}; check its limits and what its LHLO offers"
            return Ruling(Deferred(Blame.NODE, _transient(answer, node, stage), node, alarm), Evidence.NONE)
        return Ruling(Deferred(Blame.NODE, _transient(answer, node, stage), node), Evidence.MESSAGE_FAILED)
    if answer.code == _SERVICE_CLOSING:
        if stage is Stage.FINAL:
            return Ruling(Unknown(node, f"{Cause.CLOSING.value} at {stage.value}: {answer}"), Evidence.MESSAGE_FAILED)
        return Ruling(Deferred(Blame.NODE, _transient(answer, node, stage), node), Evidence.MESSAGE_FAILED)
    if answer.is_transient:
        return Ruling(Deferred(Blame.MAILBOX, _transient(answer, node, stage), node), Evidence.NONE)
    if answer.enhanced.startswith("5.1."):
        if authority is Authority.NODE:
            return Ruling(Failed(answer, node), Evidence.UNKNOWN_USER)
        alarm = f"directory and {node} disagree: the directory knows a mailbox that {node} refuses with {answer}"
        ours = reply(451, "4.3.0", "the mailbox cannot be reached now; try again later")
        return Ruling(Deferred(Blame.MAILBOX, ours, node, alarm), Evidence.UNKNOWN_USER)
    return Ruling(Failed(answer, node), Evidence.NONE)


def judge_trouble(trouble: Trouble, node: NodeId) -> Ruling:
    """What a lost connection means for every mailbox that has no answer of its own yet."""
    if trouble.stage is Stage.FINAL:
        return Ruling(Unknown(node, str(trouble)), _evidence(trouble))
    enhanced = "4.4.1" if trouble.stage in (Stage.SLOT, Stage.CONNECT) else "4.4.2"
    ours = reply(451, enhanced, f"{node}: {trouble}")
    alarm = ""
    refused = trouble.reply is not None and trouble.reply.is_permanent
    if refused and trouble.stage in (Stage.LHLO, Stage.STARTTLS):
        alarm = f"{node} refuses {trouble.stage.value} with {trouble.reply}"
    elif trouble.cause is Cause.UNSENDABLE:
        alarm = f"{node}: {trouble}"
    return Ruling(Deferred(Blame.NODE, ours, node, alarm), _evidence(trouble))


def try_fresh(trouble: Trouble, *, reused: bool) -> bool:
    """Whether the same attempt deserves a fresh connection at once."""
    return reused and trouble.cause in _FRESH_MAY_HELP and trouble.stage in _DIALOGUE


def _evidence(trouble: Trouble) -> Evidence:
    if trouble.cause in _OUR_SIDE:
        return Evidence.NONE
    if trouble.stage in (Stage.CONNECT, Stage.TLS):
        return Evidence.CONNECT_FAILED
    if trouble.stage is Stage.GREETING and trouble.reply is None:
        return Evidence.CONNECT_FAILED
    return Evidence.MESSAGE_FAILED


def _transient(answer: Reply, node: NodeId, stage: Stage) -> Reply:
    """The node's answer as a 4xx that we may repeat to a client or keep in the queue."""
    if answer.is_transient and answer.code != _SERVICE_CLOSING:
        return answer
    return reply(451, "4.3.0", f"{node} answered {stage.value} with {answer}")
