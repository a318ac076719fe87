"""What a worker may ask of the queue. In a worker `QueueClient` answers it over the channel to the keeper; in a test a
fake does.

Every request carries the message's id and is harmless when it is sent again. The keeper stamps leases: a worker gives
rows that are still being delivered the state `active`, their node and `attempts=1`, and nothing else.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from mailfront.base.ids import MessageId
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.outcome import Outcome
from mailfront.queue.dsn import NoticeKind
from mailfront.queue.rows import QueuedMessage, QueuedRecipient


class CopyRecipient(Protocol):
    """One mailbox that a handed-off copy is meant for."""

    @property
    def number(self) -> int:
        """Its number in the message."""
        ...

    @property
    def address(self) -> str:
        """The address as the client wrote it."""
        ...

    @property
    def mailbox_key(self) -> MailboxKey:
        """Whose mailbox."""
        ...

    @property
    def node_user(self) -> NodeUser:
        """What its home is told."""
        ...

    @property
    def options(self) -> RecipientOptions:
        """Its DSN parameters."""
        ...


class HandoffCopy(Protocol):
    """One copy of a message for one home that cannot be reached."""

    @property
    def id(self) -> MessageId:
        """The message."""
        ...

    @property
    def home(self) -> NodeId:
        """The node that cannot be reached."""
        ...

    @property
    def reverse_path(self) -> str | None:
        """The sender; None is the null reverse-path."""
        ...

    @property
    def arrived_s(self) -> float:
        """When the message arrived."""
        ...

    @property
    def recipients(self) -> Sequence[CopyRecipient]:
        """The mailboxes at `home`."""
        ...


class QueuePort(Protocol):
    """See the module."""

    def gate_is_open(self, size_bytes: int) -> bool:
        """Whether a message of this size could be queued, as far as this process knows. Never waits."""
        ...

    async def accept(
        self,
        message: QueuedMessage,
        body: BodyRef,
        recipients: Sequence[QueuedRecipient],
        hints_superseded: Sequence[tuple[NodeId, NodeId]] = (),
        refused: Sequence[QueuedRecipient] = (),
        told: Sequence[tuple[QueuedRecipient, NoticeKind]] = (),
    ) -> None:
        """Keep a message. Durable when this returns; raises Unavailable otherwise, and then nothing may be promised.

        `refused`: recipients that were refused for good with their `last_reply` while the message as a whole is
        accepted. They are not queued; the notice to the sender is, in the same transaction.

        `told`: recipients that are not queued and of which the sender hears this at once.

        `hints_superseded`: (holder, home) of handed-off copies that these rows replace.
        """
        ...

    async def settle(
        self,
        message_id: MessageId,
        outcomes: Mapping[int, Outcome],
        *,
        withdrawn: Collection[int] = (),
    ) -> None:
        """Report how the attempt of rows accepted as `active` ended, by recipient number.

        `withdrawn`: the client heard of these itself that they were not taken; they end without a notice.

        Returns when the report is in safe hands: committed, or kept here and sent again until it is. If this process
        dies first, the rows become `unknown`.
        """
        ...

    async def hint_begin(self, copy: HandoffCopy, holder: NodeId) -> None:
        """Commit that `holder` is about to get this copy. Call it before the final dot. Raises Unavailable."""
        ...

    async def hints_superseded(self, message_id: MessageId, places: Sequence[tuple[NodeId, NodeId]]) -> None:
        """Commit that copies which these holders may have for these homes, as (holder, home), are not needed.

        A holder's copy for another home stays as it is. Raises Unavailable.
        """
        ...
