"""Handed-off copies in the keeper: which holder has what for whom, until it is at home.

    begin -> STORED --claim--> DRAINING --at_home--> DONE --expunged--> EXPUNGED --30 days--> forgotten
               ^                  |
               +----deferred------+        refused: HELD       superseded: SUPERSEDED (from STORED, DRAINING, HELD)

`begin` is committed before the holder is sent its final dot, `claim` before home is. A DRAINING row without a live
lease (its process died, or the answer was lost) is of unknown outcome: search the mailbox at `node` first. A copy of a
DONE or SUPERSEDED row is to be expunged wherever it is found; after 30 days nobody remembers it. Every call is harmless
when it is sent again. Handed-off mail never expires.

Raises StoreFailed wherever the database cannot answer. What survives a crash: every call that returned.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.mail.names import NodeId
from mailfront.queue.port import HandoffCopy
from mailfront.queue.results import REPLY_CHARS
from mailfront.queue.rows import HandoffRow, HandoffState
from mailfront.queue.schedule import next_attempt_s
from mailfront.store import handoff_rows
from mailfront.store.writer import Connection, Store

TOMBSTONE_S = 30 * 86400.0
ASK_AGAIN_S = 60.0
SWEEP_LIMIT = 500
_LIVE = (HandoffState.STORED, HandoffState.DRAINING, HandoffState.HELD)
_OVER = (HandoffState.SUPERSEDED, HandoffState.DONE, HandoffState.EXPUNGED)


class HandoffTable:
    """See the module. `lease_s` is how long a claim holds without `renew`."""

    def __init__(
        self,
        store: Store,
        *,
        retry_s: Sequence[float],
        lease_s: float = 900.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._retry_s = tuple(retry_s)
        self._lease_s = lease_s
        self._chance = chance

    async def begin(self, copy: HandoffCopy, holder: NodeId) -> None:
        """Commit that `holder` is about to get this copy (or, after a scan, that it has one nobody knew of).

        Rows that are live already are left as they are; those of an older copy that is over begin anew.
        """
        now_s = self._store.clock.wall_s()
        rows = [
            HandoffRow(
                id=copy.id,
                holder=holder,
                number=recipient.number,
                home=copy.home,
                mailbox_key=recipient.mailbox_key,
                address=recipient.address,
                node_user=recipient.node_user,
                options=recipient.options,
                reverse_path=copy.reverse_path,
                arrived_s=copy.arrived_s,
                changed_s=now_s,
            )
            for recipient in copy.recipients
        ]

        def operation(connection: Connection) -> None:
            found = {row.number: row.state for row in handoff_rows.handoffs_of(connection, [copy.id], holder)}
            again = [row.number for row in rows if found.get(row.number) in _OVER]
            if again:
                values = {**_no_lease(HandoffState.STORED, now_s), "home": copy.home, "next_attempt_s": 0.0}
                handoff_rows.change_handoffs(connection, copy.id, (holder,), values, numbers=again)
            handoff_rows.insert_handoffs(connection, [row for row in rows if row.number not in found])

        await self._store.write(operation)

    async def supersede(self, message_id: MessageId, places: Sequence[tuple[NodeId, NodeId]]) -> None:
        """Copies that may be at these (holder, home) are not needed: another holder or the queue has the message."""
        now_s = self._store.clock.wall_s()
        await self._store.write(lambda connection: supersede(connection, message_id, places, now_s))

    async def drop(self, message_id: MessageId, holder: NodeId) -> None:
        """Forget the rows of a copy that the holder surely does not have."""
        await self._store.write(lambda connection: handoff_rows.delete_handoffs(connection, message_id, holder))

    async def find(self, message_ids: Sequence[MessageId], holder: NodeId | None = None) -> list[HandoffRow]:
        """The rows of these messages (at most a few hundred), tombstones included."""
        return await self._store.read(lambda connection: handoff_rows.handoffs_of(connection, message_ids, holder))

    async def claim(
        self, holder: NodeId, home: NodeId, *, limit: int, owner: str, target: Callable[[HandoffRow], NodeId | None]
    ) -> list[HandoffRow]:
        """Commit that copies at `holder` for `home` are being brought home: up to `limit` rows, each with a lease.

        `target` says where a mailbox lives now, or None: not now (that row is left; it is asked again in a minute). It
        runs in the writer's thread, so it must only read a frozen map. A returned row that says DRAINING was claimed
        before and its outcome at its `node` is unknown: such a row keeps its node. Claimed rows say STORED otherwise.
        """
        now_s = self._store.clock.wall_s()
        until_s = now_s + self._lease_s

        def operation(connection: Connection) -> list[HandoffRow]:
            claimed: list[HandoffRow] = []
            for row in handoff_rows.drainable(connection, holder, home, now_s, limit):
                was_unknown = row.state is HandoffState.DRAINING and row.node is not None
                node = row.node if was_unknown else target(row)
                if node is None:
                    values: dict[str, object] = {"next_attempt_s": now_s + ASK_AGAIN_S}
                else:
                    values = {
                        "state": HandoffState.DRAINING.value,
                        "changed_s": now_s,
                        "attempts": row.attempts + 1,
                        "node": node,
                        "lease_owner": owner,
                        "lease_until_s": until_s,
                    }
                    claimed.append(replace(row, attempts=row.attempts + 1, node=node, lease_until_s=until_s))
                handoff_rows.change_handoffs(connection, row.id, (holder,), values, numbers=[row.number])
            return claimed

        return await self._store.write(operation)

    async def at_home(self, message_id: MessageId, holder: NodeId, numbers: Sequence[int]) -> None:
        """Home has these recipients' copies. The copy at the holder can go when all its rows are over."""
        values = _no_lease(HandoffState.DONE, self._store.clock.wall_s())
        await self._change(message_id, holder, numbers, values)

    async def deferred(self, message_id: MessageId, holder: NodeId, numbers: Mapping[int, str]) -> None:
        """Home did not take these now; the value is what it said. Tried again by the retry schedule."""
        await self._try_later(message_id, holder, numbers, HandoffState.STORED)

    async def unknown(self, message_id: MessageId, holder: NodeId, numbers: Mapping[int, str]) -> None:
        """The answer to the final dot was lost: these stay DRAINING at their node, without a lease."""
        await self._try_later(message_id, holder, numbers, HandoffState.DRAINING)

    async def refused(self, message_id: MessageId, holder: NodeId, numbers: Mapping[int, str]) -> None:
        """Home refused these for good (or the copy is damaged): held for an administrator. The copy stays."""
        now_s = self._store.clock.wall_s()
        for number, text in numbers.items():
            values = {**_no_lease(HandoffState.HELD, now_s), "last_reply": printable(text, REPLY_CHARS)}
            await self._change(message_id, holder, [number], values)

    async def expunged(self, message_id: MessageId, holder: NodeId) -> None:
        """The holder's copy is gone; its rows that are over become tombstones."""
        values = _no_lease(HandoffState.EXPUNGED, self._store.clock.wall_s())
        await self._store.write(
            lambda connection: handoff_rows.change_handoffs(connection, message_id, (holder,), values, states=_OVER)
        )

    async def wake(self, home: NodeId) -> int:
        """Home is back: whatever waits for it is tried now. Returns how many rows."""
        return await self._store.write(lambda connection: handoff_rows.wake_handoffs(connection, home))

    async def renew(self, owner: str) -> int:
        """Give all leases of a process their full length again. Returns how many there are."""
        until_s = self._store.clock.wall_s() + self._lease_s
        return await self._store.write(lambda connection: handoff_rows.renew_handoff_leases(connection, owner, until_s))

    async def lease_owners(self) -> list[str]:
        """Every process that holds leases, as far as the rows know."""
        return await self._store.read(handoff_rows.handoff_lease_owners)

    async def release_leases_of(self, owner: str) -> int:
        """A process died: its claimed rows are of unknown outcome and may be claimed now."""
        return await self._store.write(lambda connection: handoff_rows.release_handoff_leases(connection, owner))

    async def counts(self) -> dict[tuple[NodeId, NodeId, HandoffState], int]:
        """How many rows that are not over there are, per (holder, home, state)."""
        return await self._store.read(handoff_rows.handoff_counts)

    async def oldest_arrived_s(self) -> float | None:
        """When the oldest message that is not at home arrived; None: all are."""
        return await self._store.read(handoff_rows.oldest_handoff_s)

    async def sweep(self) -> int:
        """Forget tombstones older than 30 days. Returns how many (a bounded number at a time)."""
        before_s = self._store.clock.wall_s() - TOMBSTONE_S
        return await self._store.write(
            lambda connection: handoff_rows.sweep_handoffs(connection, before_s, SWEEP_LIMIT)
        )

    async def _try_later(
        self, message_id: MessageId, holder: NodeId, numbers: Mapping[int, str], state: HandoffState
    ) -> None:
        now_s = self._store.clock.wall_s()

        def operation(connection: Connection) -> None:
            for row in handoff_rows.handoffs_of(connection, [message_id], holder):
                if row.number not in numbers or row.state is not HandoffState.DRAINING:
                    continue
                values = {
                    **_no_lease(state, now_s),
                    "next_attempt_s": next_attempt_s(now_s, row.attempts, self._retry_s, self._chance()),
                    "last_reply": printable(numbers[row.number], REPLY_CHARS),
                }
                handoff_rows.change_handoffs(connection, message_id, (holder,), values, numbers=[row.number])

        await self._store.write(operation)

    async def _change(
        self, message_id: MessageId, holder: NodeId, numbers: Sequence[int], values: Mapping[str, object]
    ) -> None:
        await self._store.write(
            lambda connection: handoff_rows.change_handoffs(
                connection, message_id, (holder,), values, numbers=numbers, states=_LIVE
            )
        )


def supersede(
    connection: Connection, message_id: MessageId, places: Sequence[tuple[NodeId, NodeId]], now_s: float
) -> None:
    """End the hints of a message at these (holder, home), inside somebody's transaction. The holder's copy for another
    home is another copy: its hints stay."""
    values = _no_lease(HandoffState.SUPERSEDED, now_s)
    for holder, home in places:
        handoff_rows.change_handoffs(connection, message_id, (holder,), values, home=home, states=_LIVE)


def _no_lease(state: HandoffState, now_s: float) -> dict[str, object]:
    return {"state": state.value, "changed_s": now_s, "lease_owner": None, "lease_until_s": None}
