"""The next hop of recipients whose address nobody has looked up yet: notices to senders.

An attempt asks who the address is, as RCPT does. A mailbox or an address outside: the row is changed in place, in one
transaction, and waits for its home or the smarthost from then on. Refused: it fails with our own word, which nobody
hears of a notice. The directory cannot say: later.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mailfront.base.errors import Unavailable
from mailfront.mail.address import Address, parse_path
from mailfront.mail.body import BodyRef
from mailfront.mail.names import MailboxKey, NodeUser
from mailfront.mail.next_hop import RESOLVE
from mailfront.mail.outcome import Blame, Deferred, Failed, Outcome
from mailfront.mail.reply import Reply, reply
from mailfront.queue.queue import Queue
from mailfront.queue.rows import Claimed


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where mail for an address goes: a mailbox, or a next hop with its name for a key."""

    mailbox_key: MailboxKey
    bucket: int
    node_user: NodeUser


LookUp = Callable[[Address], Awaitable[Whereabouts | Reply]]


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
        for row in claimed.recipients:
            address = parse_path(row.address)
            if address is None:
                outcomes[row.number] = Failed(reply(550, "5.1.3", "this is not an address"), None)
                continue
            try:
                found = await self._look_up(address)
            except Unavailable as error:
                outcomes[row.number] = Deferred(Blame.NODE, reply(451, "4.4.3", str(error)), RESOLVE)
                continue
            if isinstance(found, Whereabouts):
                await self._queue.redirect_row(
                    claimed.message.id,
                    row.number,
                    row.attempts,
                    mailbox_key=found.mailbox_key,
                    bucket=found.bucket,
                    node_user=found.node_user,
                )
            elif found.is_permanent:
                outcomes[row.number] = Failed(found, None)
            else:
                outcomes[row.number] = Deferred(Blame.MAILBOX, found, RESOLVE)
        return outcomes
