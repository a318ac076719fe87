"""The next hop of addresses outside: rows of the queue, handed to the smarthost by `delivery.relay`."""

from collections.abc import Awaitable, Callable, Mapping

from mailfront.delivery.message import LmtpRecipient, LmtpTransaction
from mailfront.delivery.relay import Relay
from mailfront.mail.address import parse_path
from mailfront.mail.body import BodyRef
from mailfront.mail.outcome import Outcome
from mailfront.queue.rows import Claimed


class Smarthost:
    """One hop over one `Relay`."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def attempt(
        self, claimed: Claimed, body: BodyRef, before_dot: Callable[[], Awaitable[None]]
    ) -> Mapping[int, Outcome]:
        """See `NextHop`. All recipients go in one transaction: their addresses differ."""
        message, rows = claimed.message, claimed.recipients
        transaction = LmtpTransaction(
            id=message.id,
            reverse_path=None if message.reverse_path is None else parse_path(message.reverse_path),
            body_type=message.body_type,
            smtputf8=message.smtputf8,
            ret=message.ret,
            envid=message.envid,
            recipients=tuple(LmtpRecipient(row.node_user, row.options) for row in rows),
            body=body,
        )
        outcomes = await self._relay.send(transaction, before_dot=before_dot)
        return {row.number: outcome for row, outcome in zip(rows, outcomes, strict=True)}
