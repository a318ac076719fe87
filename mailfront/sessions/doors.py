"""The way into each node: open, or shut while the node is down; narrow for a while after its return.

A login for a home that is down waits here for at most `login.hold`, at most `login.held` of them per node; then it gets
the temporary error. It never goes to a node that is not the home; where the home is, is looked up again after each
wait. `changed` lets the waiting ones look again.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable

from mailfront.cluster.node_states import Service
from mailfront.mail.names import NodeId
from mailfront.sessions.pace import LoginRate
from mailfront.sessions.port import Nodes

LOOK_EVERY_S = 1.0


class Doors:
    """See the module. One per worker."""

    def __init__(self, nodes: Nodes, *, held_limit: int) -> None:
        self._nodes = nodes
        self._held_limit = held_limit
        self._loop = asyncio.get_running_loop()
        self._held: Counter[NodeId] = Counter()
        self._rates: dict[NodeId, LoginRate] = {}
        self._changed = asyncio.Event()

    @property
    def held_count(self) -> int:
        """How many logins wait now."""
        return self._held.total()

    def changed(self) -> None:
        """Something is known that was not: all who wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def returned(self, node: NodeId) -> None:
        """A node can be used again: from now on its logins come slowly, then faster."""
        self._rates.setdefault(node, LoginRate()).returned(self._loop.time())
        self.changed()

    async def enter(self, home: Callable[[], Awaitable[NodeId]], service: Service, until_s: float) -> NodeId | None:
        """Wait until a login may go to the mailbox's home, and return that node. `home` says where that is; it is asked
        again after each wait, because the mailbox may have moved meanwhile. Returns None if it is not possible by
        `until_s` (the loop's time), or if too many wait. What `home` raises goes through. Cancellation is safe."""
        node = await home()
        may = self._nodes.may_log_in(node, service)
        if may and node not in self._rates:
            return node
        if self._held[node] >= self._held_limit:
            return None
        self._held[node] += 1
        try:
            while await (self._until_its_turn(node, until_s) if may else self._until_changed(until_s)):
                now = await home()
                if may and now == node:
                    return node
                self._held[node] -= 1
                node = now
                self._held[node] += 1
                may = self._nodes.may_log_in(node, service)
            return None
        finally:
            self._held[node] -= 1

    async def _until_changed(self, until_s: float) -> bool:
        """Wait for news, or a moment. False if it is too late."""
        patience_s = until_s - self._loop.time()
        if patience_s <= 0:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(patience_s, LOOK_EVERY_S)):
                await self._changed.wait()
        return True

    async def _until_its_turn(self, node: NodeId, until_s: float) -> bool:
        rate = self._rates.get(node)
        if rate is None:
            return True
        slot_s = rate.reserve(self._loop.time(), until_s)
        if slot_s is None:
            return False
        if (wait_s := slot_s - self._loop.time()) > 0:
            await asyncio.sleep(wait_s)
        return True
