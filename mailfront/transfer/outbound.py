"""The next hops that send: rows of the queue, handed to the smarthost (`delivery.relay`) or to the server of a route.

A copy that a forward or a list of ours sends outside says so in a `Delivered-To:` line on top, by which the forward
knows it when it comes back (see `intake.ahead`).

A server of a route is another LMTP server and obeys RFC 2033 more or less: some answer fewer times after the dot than
they accepted recipients, and then nobody knows about the rest. So rows of unknown outcome go one by one, where one
answer is enough, and no recipient is sent twice more than once because of such a server.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from mailfront.delivery.relay import Relay
from mailfront.delivery.transaction import Delivery
from mailfront.mail.body import BodyRef, PrefixedBody
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Outcome
from mailfront.queue.rows import Claimed, QueuedRecipient
from mailfront.transfer.batches import batches, transaction_of
from mailfront.transfer.hops import SLOT_WAIT_S


class Smarthost:
    """One hop over one `Relay`."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def attempt(
        self, claimed: Claimed, body: BodyRef, before_dot: Callable[[], Awaitable[None]]
    ) -> Mapping[int, Outcome]:
        """See `NextHop`. All recipients with one reverse-path, of one forward or list, go in one transaction."""
        outcomes: dict[int, Outcome] = {}
        for via, rows in _by_forward(claimed.recipients).items():
            copy = PrefixedBody(f"Delivered-To: {via}\r\n".encode(), body) if via and via.isascii() else body
            for batch in batches(claimed.message, rows):
                transaction = transaction_of(claimed.message, batch, copy)
                attempt = max(row.attempts for row in batch)
                answers = await self._relay.send(transaction, before_dot=before_dot, attempt=attempt)
                outcomes |= {row.number: outcome for row, outcome in zip(batch, answers, strict=True)}
        return outcomes


def _by_forward(rows: Iterable[QueuedRecipient]) -> Mapping[str, list[QueuedRecipient]]:
    groups: dict[str, list[QueuedRecipient]] = {}
    for row in rows:
        groups.setdefault(row.via, []).append(row)
    return groups


class Route:
    """The hop of one `[[route]]`, over a `Delivery` that knows its server."""

    def __init__(self, name: NodeId, delivery: Delivery) -> None:
        self._name = name
        self._delivery = delivery

    async def attempt(
        self, claimed: Claimed, body: BodyRef, before_dot: Callable[[], Awaitable[None]]
    ) -> Mapping[int, Outcome]:
        """See `NextHop`. Recipients go together; one by one after an unknown outcome."""
        outcomes: dict[int, Outcome] = {}
        for batch in _route_batches(claimed):
            attempt = self._delivery.start(
                self._name,
                transaction_of(claimed.message, batch, body),
                slot_wait_s=SLOT_WAIT_S,
                before_dot=before_dot,
                source="queue",
                attempt=max(row.attempts for row in batch),
            )
            try:
                answers = await attempt.result()
            except asyncio.CancelledError:
                attempt.drop("the keeper ends")
                raise
            outcomes |= {row.number: outcome for row, outcome in zip(batch, answers, strict=True)}
        return outcomes


def _route_batches(claimed: Claimed) -> list[list[QueuedRecipient]]:
    if claimed.was_unknown:
        return [[row] for row in claimed.recipients]
    return batches(claimed.message, claimed.recipients)
