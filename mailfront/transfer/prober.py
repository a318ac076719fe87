"""The keeper's prober: asks every node, over and over, whether it would take mail and give back what it holds.

Per node one round every `EVERY_S` seconds, every second while it is ill: LMTP (greeting, LHLO, RCPT for the handoff
account), an IMAP login to that account, and a look at each further port that people log in to. What a round finds goes
into the node table; the table's rules decide. One probe of a node at a time; a node that hangs delays only its own
rounds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from mailfront.base.backoff import jittered_s
from mailfront.base.clock import Clock
from mailfront.base.errors import Unavailable
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.node_states import Health, Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.delivery.transaction import Delivery, ProbeResult
from mailfront.mail.names import NodeId
from mailfront.observe.log import get
from mailfront.transfer.imap import ImapFailed
from mailfront.transfer.node_imap import NodeImap

EVERY_S = 5.0
EVERY_WHILE_ILL_S = 1.0
IMAP_TIMEOUT_S = 10.0
LMTP_TIMEOUT_S = 10.0

Look = Callable[[NodeId], Awaitable[object]]
"""Sees whether a node serves. Raises Unavailable if not, within a time of its own."""

log = get("prober")


class Prober:
    """See the module. One per keeper."""

    def __init__(
        self,
        nodes: Sequence[NodeId],
        states: NodeStateTable,
        delivery: Delivery,
        imap: NodeImap,
        clock: Clock,
        handoff_mailbox: str | None,
        looks: Mapping[Service, Look] | None = None,
    ) -> None:
        """`looks`: how to see whether a node serves POP3 or SIEVE, where these are used."""
        self._looks = dict(looks or {})
        self._nodes = tuple(nodes)
        self._states = states
        self._delivery = delivery
        self._imap = imap
        self._clock = clock
        self._handoff_mailbox = handoff_mailbox
        self._soon = {node: asyncio.Event() for node in nodes}

    def look_at(self, node: NodeId) -> None:
        """Somebody suspects this node: ask it now."""
        if node in self._soon:
            self._soon[node].set()

    async def run(self) -> None:
        """Probe until cancelled."""
        tasks = [spawn(self._rounds(node), name=f"probe {node}") for node in self._nodes]
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel_and_wait(*tasks)

    async def probe(self, node: NodeId) -> None:
        """One round for one node."""
        looks = (self._look(node, service, look) for service, look in self._looks.items())
        await asyncio.gather(self._probe_lmtp(node), self._probe_imap(node), *looks)

    async def _rounds(self, node: NodeId) -> None:
        while True:
            self._soon[node].clear()
            try:
                await self.probe(node)
            except Exception as error:
                log.error("a probe failed by our fault", node=node, exc_info=error)
            well = all(self._states.state(node, service).health is Health.UP for service in Service)
            try:
                async with asyncio.timeout(jittered_s(EVERY_S if well else EVERY_WHILE_ILL_S)):
                    await self._soon[node].wait()
            except TimeoutError:
                continue

    async def _probe_lmtp(self, node: NodeId) -> None:
        began_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(LMTP_TIMEOUT_S):
                result = await self._delivery.probe(node, self._handoff_mailbox)
        except TimeoutError:
            result = ProbeResult(lmtp_ok=False, handoff_ok=None, text=f"no answer within {LMTP_TIMEOUT_S:g} s")
        self._told(node, Service.LMTP, began_s, "" if result.lmtp_ok else result.text)
        if self._handoff_mailbox is not None:
            problem = f"the handoff account is refused: {result.text}" if result.lmtp_ok else "LMTP does not work"
            self._told(node, Service.HANDOFF, began_s, "" if result.handoff_ok else problem)

    async def _probe_imap(self, node: NodeId) -> None:
        if self._imap.handoff is None:
            return
        began_s = self._clock.monotonic_s()
        try:
            async with self._imap.as_handoff(node, timeout_s=IMAP_TIMEOUT_S):
                pass
        except ImapFailed as error:
            self._told(node, Service.IMAP, began_s, str(error))
            return
        self._told(node, Service.IMAP, began_s, "")

    async def _look(self, node: NodeId, service: Service, look: Look) -> None:
        began_s = self._clock.monotonic_s()
        try:
            await look(node)
        except Unavailable as error:
            self._told(node, service, began_s, str(error))
            return
        self._told(node, service, began_s, "")

    def _told(self, node: NodeId, service: Service, began_s: float, problem: str) -> None:
        now_s = self._clock.monotonic_s()
        if problem:
            self._states.probe_failed(node, service, now_s, problem)
        else:
            self._states.probe_ok(node, service, now_s, began_s)
