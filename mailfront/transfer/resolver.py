"""The next hop of recipients whose address nobody has looked up yet: notices to senders.

An attempt asks who the address is, as RCPT does. A mailbox or an address outside: the row is changed in place, in one
transaction, and waits for its home or the smarthost from then on. A forward or a list: the row becomes as many as there
are places. Refused: it fails with our own word, which nobody
hears of a notice. The directory cannot say: later.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from mailfront.base.errors import Unavailable
from mailfront.mail.address import Address, parse_path
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.next_hop import RESOLVE
from mailfront.mail.outcome import Blame, Deferred, Failed, Outcome
from mailfront.mail.reply import Reply, reply
from mailfront.queue.queue import Queue
from mailfront.queue.rows import Claimed, Place

LookUp = Callable[[Address, RecipientOptions, Address | None], Awaitable[Sequence[Place] | Reply]]
"""Where mail of a sender for an address goes, at least one place; or the reply that refuses it."""


class Resolver:
    """See the module. `look_up` may raise Unavailable."""

    def __init__(self, queue: Queue, look_up: LookUp) -> None:
        self._queue = queue
        self._look_up = look_up

    async def attempt(
        self, claimed: Claimed, body: BodyRef, before_dot: Callable[[], Awaitable[None]]
    ) -> Mapping[int, Outcome]:
        """See `NextHop`. Nothing is sent from here."""
        outcomes: dict[int, Outcome] = {}
        sender = claimed.message.reverse_path and parse_path(claimed.message.reverse_path)
        for row in claimed.recipients:
            address = parse_path(row.address)
            if address is None:
                outcomes[row.number] = Failed(reply(550, "5.1.3", "this is not an address"), None)
                continue
            try:
                found = await self._look_up(address, row.options, sender or None)
            except Unavailable as error:
                outcomes[row.number] = Deferred(Blame.NODE, reply(451, "4.4.3", str(error)), RESOLVE)
                continue
            if not isinstance(found, Reply):
                await self._queue.redirect_row(claimed.message.id, row.number, row.attempts, found)
            elif found.is_permanent:
                outcomes[row.number] = Failed(found, None)
            else:
                outcomes[row.number] = Deferred(Blame.MAILBOX, found, RESOLVE)
        return outcomes
