"""What a filter says about a message, and how it wants the message changed. Frozen values, no policy.

A `Verdict` comes from a scanner or a plug-in and is not believed: nothing in here is checked when it is made. The chain
checks it (`mailfront.filters.checked`) before anything of it reaches a reply, a header or a log.

Positions count in the message as it arrived. `occurrence` is the n-th field of that name, from 1, whatever other
filters do to the message at the same time.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Self

from mailfront.mail.address import Address


class Action(Enum):
    """What is to become of the message, mildest first.

    DISCARD: accept it and throw it away. HOLD and QUARANTINE: accept it, keep it in the queue until a person decides.
    TEMPFAIL: 4xx. REJECT: 5xx.
    """

    CONTINUE = "continue"
    DISCARD = "discard"
    HOLD = "hold"
    QUARANTINE = "quarantine"
    TEMPFAIL = "tempfail"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class AddHeader:
    """Add a field at the end of the header."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class InsertHeader:
    """Add a field in front of the field that arrived at `position` (0: above all of them, trace fields included)."""

    position: int
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    """Give a field another value. If it is not there, it is added at the end of the header."""

    name: str
    occurrence: int
    value: str


@dataclass(frozen=True, slots=True)
class DeleteHeader:
    """Remove one field, or (`occurrence` None) all fields of that name."""

    name: str
    occurrence: int | None = None


@dataclass(frozen=True, slots=True)
class AddRecipient:
    """Deliver to one more address. It passes the same rules as one that the client names at RCPT."""

    address: Address


@dataclass(frozen=True, slots=True)
class DeleteRecipient:
    """Do not deliver to an address of the envelope."""

    address: Address


@dataclass(frozen=True, slots=True)
class ChangeSender:
    """Send the message on under another reverse-path; None is the null one. What happens to it is told there."""

    address: Address | None


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    """Put other bytes behind the header. Line ends are CRLF."""

    data: bytes


Edit = (
    AddHeader | InsertHeader | ChangeHeader | DeleteHeader | AddRecipient | DeleteRecipient | ChangeSender | ReplaceBody
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One filter's answer. Make it with `CONTINUE`, `Verdict.reject(...)` and the like.

    code, enhanced, text   the reply of a reject or tempfail; the chain fills in what is missing or wrong
    reason                 for people: the log, `filter test`, the queue row of what is held
    edits                  changes, in order; they are made only if the message is accepted
    score                  what the scanner thought of it, for the log; nothing is decided by it
    sender_proven          whether the reverse-path's domain vouches for this client: true and false are words of that
                           domain (SPF, DMARC), None is everything else. Decides who hears of a delivery's fate
    """

    action: Action = Action.CONTINUE
    code: int = 0
    enhanced: str = ""
    text: str = ""
    reason: str = ""
    edits: tuple[Edit, ...] = ()
    score: float | None = None
    sender_proven: bool | None = None

    @classmethod
    def reject(cls, text: str, *, code: int = 550, enhanced: str = "5.7.1", reason: str = "") -> Self:
        """Refuse for good."""
        return cls(action=Action.REJECT, code=code, enhanced=enhanced, text=text, reason=reason)

    @classmethod
    def tempfail(cls, text: str, *, code: int = 451, enhanced: str = "4.7.1", reason: str = "") -> Self:
        """Refuse for now."""
        return cls(action=Action.TEMPFAIL, code=code, enhanced=enhanced, text=text, reason=reason)

    @classmethod
    def quarantine(cls, reason: str, *, edits: tuple[Edit, ...] = ()) -> Self:
        """Accept, and keep it until a person decides."""
        return cls(action=Action.QUARANTINE, reason=reason, edits=edits)

    @classmethod
    def discard(cls, reason: str) -> Self:
        """Accept, and throw it away."""
        return cls(action=Action.DISCARD, reason=reason)


CONTINUE = Verdict()
"""Nothing against it, nothing to change."""
