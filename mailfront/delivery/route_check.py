"""Asking the server of a route, while the client waits at RCPT, whether it takes an address.

Without this a mail system behind a route would refuse only after we had said 250, and strangers would get notices for
what others sent in their name. The question is LMTP up to RCPT, with the null sender, over a connection of its own.

A refusal of the address for good is the client's answer, in the server's own words. Anything else (accepted, "not now",
no answer in `PATIENCE_S`) lets the recipient in: the queue keeps its mail, whatever happens. So does a refusal for
other reasons than the address (5.3, 5.5, 5.7): it may be about the null sender, which is not the client's.

Answers are remembered, good ones for longer; a server that did not answer is not asked again for a while. In memory
only. Must not raise for a server's trouble; cancellation is safe.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection

from mailfront.base.clock import Clock
from mailfront.delivery.transaction import Delivery
from mailfront.mail.address import Address
from mailfront.mail.names import NodeId
from mailfront.mail.reply import Reply
from mailfront.observe import metrics

PATIENCE_S = 5.0
ACCEPTED_S = 300.0
REFUSED_S = 30.0
SILENT_S = 15.0
MOST_REMEMBERED = 10_000
AT_ONCE = 4
"""Questions to one server at a time, from one process. Who finds no room is let in."""


class RouteCheck:
    """See the module. One per worker. `asked` are the hops whose server is asked; `to_routes` knows where they are."""

    def __init__(self, to_routes: Delivery, asked: Collection[NodeId], clock: Clock) -> None:
        self._to_routes = to_routes
        self._clock = clock
        self._room = dict.fromkeys(asked, AT_ONCE)
        self._silent_until_s = dict.fromkeys(asked, 0.0)
        self._remembered: OrderedDict[tuple[NodeId, str], tuple[float, Reply | None]] = OrderedDict()

    async def refusal(self, hop: NodeId, address: Address) -> Reply | None:
        """The server's refusal of an address, or None: it may have mail."""
        now_s, key = self._clock.monotonic_s(), (hop, str(address))
        known = self._remembered.get(key)
        if known is not None and known[0] > now_s:
            metrics.DELIVERY_ROUTE_CHECKS.inc("remembered")
            return known[1]
        if self._room.get(hop, 0) <= 0 or self._silent_until_s[hop] > now_s:
            metrics.DELIVERY_ROUTE_CHECKS.inc("not asked")
            return None
        self._room[hop] -= 1
        try:
            return await self._ask(hop, address, key)
        finally:
            self._room[hop] += 1

    async def _ask(self, hop: NodeId, address: Address, key: tuple[NodeId, str]) -> Reply | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                seen = await self._to_routes.probe(hop, str(address))
        except TimeoutError:
            seen = None
        now_s = self._clock.monotonic_s()
        if seen is None or not seen.lmtp_ok:
            self._silent_until_s[hop] = now_s + SILENT_S
            metrics.DELIVERY_ROUTE_CHECKS.inc("no answer")
            return None
        refusal = seen.refusal if seen.refusal is not None and _is_about_the_address(seen.refusal) else None
        metrics.DELIVERY_ROUTE_CHECKS.inc("accepted" if refusal is None else "refused")
        if seen.refusal is None or refusal is not None:
            self._remember(key, now_s + (ACCEPTED_S if refusal is None else REFUSED_S), refusal)
        return refusal

    def _remember(self, key: tuple[NodeId, str], until_s: float, refusal: Reply | None) -> None:
        self._remembered[key] = (until_s, refusal)
        self._remembered.move_to_end(key)
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)


def _is_about_the_address(refusal: Reply) -> bool:
    return refusal.is_permanent and not refusal.enhanced.startswith(("5.3.", "5.5.", "5.7."))
