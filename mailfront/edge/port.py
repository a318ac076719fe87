"""What the edge needs from the rest: somebody who takes messages, somebody who counts connections, a place for events.

Intake implements `Intake` and `Transaction`, the connection table `Admission`. Order of calls per message: `begin`,
`rcpt` any number of times, then exactly one of `commit` and `abandon`.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from mailfront.base.ids import MessageId
from mailfront.filters.contract import EarlyTalk, Finding
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef
from mailfront.mail.client import ClientInfo
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.reply import Reply
from mailfront.mail.request import MailRequest
from mailfront.net.connections import Refusal


class Transaction(Protocol):
    """One message between MAIL and its reply."""

    @property
    def id(self) -> MessageId:
        """The message's id."""
        ...

    @property
    def asks_at_mail(self) -> bool:
        """Whether `mail` must be called: filters want to be asked at MAIL."""
        ...

    async def mail(self) -> Reply | None:
        """Ask them. Returns the reply that refuses the message, or None."""
        ...

    async def rcpt(self, address: Address, options: RecipientOptions) -> Reply:
        """Decide about one recipient. 2xx: it takes part."""
        ...

    async def commit(self, body: BodyRef, *, protocol: str, per_recipient: bool) -> tuple[Reply, ...]:
        """Deliver or keep the message. Returns one reply, or one per accepted RCPT in order if `per_recipient`.

        Runs in a task of its own; a client that goes away does not cancel it.
        """
        ...

    def abandon(self) -> None:
        """End without a message: RSET, disconnect, a limit."""
        ...


Screened = tuple[Reply | None, tuple[Finding, ...]]
"""The reply to say instead of the greeting, or None; and what was found."""


class Screening(Protocol):
    """The filters, as far as the edge asks them."""

    @property
    def at_connect(self) -> bool:
        """Whether `connect` must be called."""
        ...

    def connect(self, client: ClientInfo, early: EarlyTalk) -> Screened | Awaitable[Screened]:
        """Ask before the greeting; the answer comes at once where no filter has to wait for anything."""
        ...


class Intake(Protocol):
    """Takes messages."""

    @property
    def screening(self) -> Screening | None:
        """The filters; None if there are none."""
        ...

    def begin(self, request: MailRequest, earlier: tuple[Finding, ...] = ()) -> Transaction | Reply:
        """Start a message at MAIL, or refuse it. `earlier`: what filters found when the client connected."""
        ...


class Admission(Protocol):
    """Counts connections over all workers."""

    def admit(self, ip: str) -> Refusal | None:
        """Count a connection from `ip`, or say which limit it meets; then it is not counted."""
        ...

    def release(self, ip: str) -> None:
        """A connection that was admitted has ended."""
        ...


EmitEvent = Callable[..., Any]
"""`emit(event, **fields)` of the log."""
