"""From claimed rows to transactions: which rows may go together, and what one transaction says. Pure."""

from collections.abc import Iterable, Sequence

from mailfront.delivery.message import LmtpRecipient, LmtpTransaction
from mailfront.mail.address import parse_path
from mailfront.mail.body import BodyRef
from mailfront.queue.rows import QueuedMessage, QueuedRecipient, reverse_path_of


def batches(message: QueuedMessage, rows: Iterable[QueuedRecipient]) -> list[list[QueuedRecipient]]:
    """Split rows so that no transaction names a mailbox twice and each has one reverse-path (a list has its own)."""
    found: list[tuple[str | None, dict[str, QueuedRecipient]]] = []
    for row in rows:
        sender = reverse_path_of(message, row)
        batch = next((taken for of, taken in found if of == sender and row.node_user not in taken), None)
        if batch is None:
            found.append((sender, batch := {}))
        batch[row.node_user] = row
    return [list(batch.values()) for _, batch in found]


def transaction_of(message: QueuedMessage, rows: Sequence[QueuedRecipient], body: BodyRef) -> LmtpTransaction:
    """The transaction that delivers rows of one message, which `batches` put together."""
    sender = reverse_path_of(message, rows[0])
    return LmtpTransaction(
        id=message.id,
        reverse_path=None if sender is None else parse_path(sender),
        body_type=message.body_type,
        smtputf8=message.smtputf8,
        # What the sender asked for is not asked in the name of a list's owner.
        ret=message.ret if sender == message.reverse_path else None,
        envid=message.envid if sender == message.reverse_path else None,
        recipients=tuple(LmtpRecipient(row.node_user, row.options) for row in rows),
        body=body,
    )
