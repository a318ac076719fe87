"""The queue in the keeper: accept, claim, settle, and what time does to rows.

Order of calls: make it over an open `Store`, `load` once, then anything. Everything that changes rows is one
transaction per message and harmless when it is sent again: a message is known by its id, a result by its attempt.

`pending` mirrors in memory when each bucket is due. It is changed in the commit's own call-back, so it can never miss
a row that was committed.

What survives a crash: every call that returned. A row that was `active` in a process that died becomes `unknown` at its
node. A body of more than 256 KiB is written in pieces before the accepting commit; pieces that no commit followed are
swept after an hour.

What fails for good ends with a notice to its sender in the same transaction (`notices`).

Raises StoreFailed wherever the database cannot answer. Alarms go to `alarm(name, text)`; they are repeated by nobody.
"""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from mailfront.base.ids import MessageId
from mailfront.mail.body import PIECE_BYTES, BodyRef
from mailfront.mail.names import NodeId
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RESOLVE, next_hop_key
from mailfront.mail.outcome import Outcome
from mailfront.queue import claims, results
from mailfront.queue.changes import Changes, accepted, hold_damaged, note_result
from mailfront.queue.handoff_rows import supersede
from mailfront.queue.notices import Ended, NoticeKind, NoticePolicy, report_told
from mailfront.queue.pending import Homes, PendingIndex
from mailfront.queue.results import counts_for, result_of
from mailfront.queue.rows import Claimed, Place, QueuedMessage, QueuedRecipient, RecipientState
from mailfront.queue.stored_body import StoredBody
from mailfront.store import imported_rows, message_rows, recipient_rows
from mailfront.store.errors import StoreFailed
from mailfront.store.writer import Connection, Store

ORPHAN_S = 3600.0
SWEEP_LIMIT = 200
LOOKS_AT_ONCE = 100
_NEW_NUMBERS = range(2**24, 2**31 - 2**24)
"""Where rows that a look-up adds to a message take their numbers, at random: a number names one recipient for good, in
hints, late reports and exports too, which know of rows that have gone from here."""

Alarm = Callable[[str, str], None]


class Queue:
    """See the module. `retry_s` are the configured waits between attempts."""

    def __init__(
        self,
        store: Store,
        homes: Homes,
        *,
        retry_s: Sequence[float],
        alarm: Alarm,
        notices: NoticePolicy,
        lease_s: float = 900.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.store = store
        self.pending = PendingIndex(homes)
        self._retry_s = tuple(retry_s)
        self._alarm = alarm
        self.notices = notices
        self.changed: Callable[[bool], None] = lambda is_urgent: None
        """Called in the loop when a commit has made rows due, now or later; with True if an administrator wants them
        tried now."""
        self._lease_s = lease_s
        self._chance = chance

    async def look_up_lost(self, hops: Collection[NodeId]) -> int:
        """Have recipients looked up anew whose next hop is none of these any more: a route was taken out of the
        configuration. Once, before `load`. Returns how many there are."""
        known, now_s = [next_hop_key(hop) for hop in hops], self.store.clock.wall_s()
        anew = next_hop_key(RESOLVE)
        return await self.store.write(
            lambda connection: recipient_rows.change_keys_except(connection, NEXT_HOP_BUCKET, known, anew, now_s)
        )

    async def load(self) -> None:
        """Learn from the rows when each bucket is due. Once, before the first claim."""
        per_bucket = await self.store.read(recipient_rows.earliest_per_bucket)
        unknown = await self.store.read(recipient_rows.earliest_unknown)
        self.pending.load(per_bucket, unknown)

    async def accept(
        self,
        message: QueuedMessage,
        body: BodyRef,
        recipients: Sequence[QueuedRecipient],
        hints_superseded: Sequence[tuple[NodeId, NodeId]] = (),
        *,
        refused: Sequence[QueuedRecipient] = (),
        told: Sequence[tuple[QueuedRecipient, NoticeKind]] = (),
        owner: str = "",
    ) -> int:
        """Keep a message: rows, body, and the end of the hints that they replace. Durable when this returns.

        `refused` are not queued: each was refused for good with its `last_reply`, and its sender is told by a notice in
        the same transaction; so is of `told` what is said there. Active recipients get a lease for `owner`.
        `message.size_bytes` is replaced by the body's.

        Returns how many rows are new: accepting an id that was accepted before changes nothing. Raises StoreFailed,
        also for an id that was disowned meanwhile. Cancellation: it may be kept all the same.
        """
        now_s = self.store.clock.wall_s()
        message = replace(message, size_bytes=body.size_bytes)
        until_s = now_s + self._lease_s
        stamped = [
            replace(row, lease_owner=owner, lease_until_s=until_s) if row.state is RecipientState.ACTIVE else row
            for row in recipients
        ]
        chunks = _chunks(body)
        first = next(chunks, b"")
        if body.size_bytes > PIECE_BYTES:
            await self._write_ahead(message, first, chunks, now_s)
            first = b""

        def operation(connection: Connection) -> Changes:
            state = message_rows.message_state(connection, message.id)
            # Said afterwards: an operation that raises StoreFailed would shut the gate.
            if state == message_rows.DISOWNED:
                return Changes(refused="it was disowned before it was accepted")
            if state not in (None, message_rows.INCOMING):
                return Changes()
            if state is None and body.size_bytes > PIECE_BYTES:
                return Changes(refused="the pieces of its body were swept before it was accepted")
            if state is None:
                message_rows.insert_message(connection, message, message_rows.QUEUED, now_s)
            else:
                message_rows.set_message_state(connection, message.id, message_rows.QUEUED, now_s)
            if first:
                message_rows.insert_whole_body(connection, message.id, first)
            recipient_rows.insert_recipients(connection, message.id, message.arrived_s, stamped)
            if hints_superseded:
                supersede(connection, message.id, hints_superseded, now_s)
            changes = accepted(stamped)
            if refused or told:
                ended = [results.refused(row, row.last_reply) for row in refused]
                ended += [Ended(row=row, kind=kind, status="2.0.0") for row, kind in told]
                changes.tell(connection, self.notices, message, ended, now_s)
                message_rows.finish_if_empty(connection, message.id, now_s)
            return changes

        changes = await self.store.write(operation, size_bytes=len(first), committed=self.note)
        if changes.refused:
            raise StoreFailed(f"{message.id}: {changes.refused}")
        return changes.count

    async def _write_ahead(self, message: QueuedMessage, first: bytes, rest: Iterator[bytes], now_s: float) -> None:
        """Write a large body in transactions of its own. The accepting commit comes after."""

        def begin(connection: Connection) -> None:
            if message_rows.message_state(connection, message.id) is None:
                message_rows.insert_message(connection, message, message_rows.INCOMING, now_s)

        await self.store.write(begin)
        number, data = 0, first
        while data:
            await self._write_chunk(message.id, number, data)
            number, data = number + 1, next(rest, b"")

    async def _write_chunk(self, message_id: MessageId, number: int, data: bytes) -> None:
        def operation(connection: Connection) -> None:
            if message_rows.message_state(connection, message_id) == message_rows.INCOMING:
                message_rows.put_chunk(connection, message_id, number, data)

        await self.store.write(operation, size_bytes=len(data))

    async def claim(self, node: NodeId, *, limit: int, owner: str) -> list[Claimed]:
        """Commit that attempts at `node` begin: up to `limit` messages that are due there, each with a lease.

        Unknown rows of the node come first. An empty list: nothing is due. Cancellation: rows may be claimed all the
        same; their lease lapses.
        """
        most = max(4 * limit, 16)
        for _ in range(LOOKS_AT_ONCE):
            claimed, visits_count = await self._claim_once(node, limit, owner, most)
            # A long list that was claimed from one bucket leaves nothing behind in the others: look on.
            if claimed or visits_count < most:
                return claimed
        return []

    async def _claim_once(self, node: NodeId, limit: int, owner: str, most: int) -> tuple[list[Claimed], int]:
        """One transaction; also how many buckets it was to look into."""
        now_s = self.store.clock.wall_s()
        pending = self.pending
        request = claims.ClaimRequest(
            node=node,
            homes=pending.homes,
            visits=pending.visits(node, now_s, most),
            with_unknown=pending.unknown_is_due(node, now_s),
            unknown_kicked_s=pending.unknown_kicked_s(node),
            limit=limit,
            owner=owner,
            until_s=now_s + self._lease_s,
            now_s=now_s,
        )
        if not request.visits and not request.with_unknown:
            return [], 0

        def committed(result: claims.ClaimResult) -> None:
            for visit, earliest_s, is_exhausted in result.visited:
                pending.visited(visit, earliest_s, is_exhausted=is_exhausted, now_s=now_s)
            if result.unknown_left is not None:
                earliest_s, is_exhausted = result.unknown_left
                pending.visited_unknown(node, request.unknown_kicked_s, earliest_s, is_exhausted=is_exhausted)
            for message_id, number, reason in result.set_aside:
                self._alarm("queue.damaged", f"{message_id}/{number} is held: {reason}")

        result = await self.store.write(lambda connection: claims.claim(connection, request), committed=committed)
        return result.claimed, len(request.visits)

    async def settle(
        self,
        message_id: MessageId,
        outcomes: Mapping[int, Outcome],
        *,
        attempts: Mapping[int, int] | None = None,
        withdrawn: Collection[int] = (),
    ) -> None:
        """Commit how attempts ended: by recipient number, all of it and the next attempt in one transaction.

        `withdrawn` of them end without a notice: the client heard it itself.

        `attempts` are the attempts' numbers as claimed (see `results.counts_for`). Settling rows that are gone changes
        nothing. The message and its body go with its last row.
        """
        now_s = self.store.clock.wall_s()
        numbered = attempts or {}

        def operation(connection: Connection) -> Changes:
            changes, done, ended = Changes(), [], []
            expires_s = message_rows.expiry_of(connection, message_id)
            for found in recipient_rows.rows_numbered(connection, message_id, outcomes):
                if expires_s is None:
                    continue
                try:
                    row = recipient_rows.recipient_from_row(found)
                except (ValueError, TypeError) as error:
                    hold_damaged(connection, changes, message_id, found.number, str(error))
                    continue
                outcome = outcomes[row.number]
                if not counts_for(row, outcome, numbered.get(row.number)):
                    continue
                if row.number in withdrawn:
                    done.append(row.number)
                    continue
                result = result_of(
                    row, outcome, now_s=now_s, expires_s=expires_s, retry_s=self._retry_s, chance=self._chance()
                )
                if result.values is None:
                    done.append(row.number)
                    if result.ended is not None:
                        ended.append(result.ended)
                else:
                    recipient_rows.change_recipients(connection, message_id, [row.number], result.values)
                    note_result(changes, row, result)
            if ended:
                changes.tell_about(connection, self.notices, message_id, ended, now_s)
            if done:
                recipient_rows.delete_recipients(connection, message_id, done)
                message_rows.finish_if_empty(connection, message_id, now_s)
            return changes

        await self.store.write(operation, committed=self.note)

    async def redirect_row(self, message_id: MessageId, number: int, attempt: int, places: Sequence[Place]) -> None:
        """Commit that a row, which is active in this attempt, goes elsewhere from now on; it is due at once there.

        With several places it becomes as many rows, all in one transaction.
        """
        now_s = self.store.clock.wall_s()

        def operation(connection: Connection) -> Changes:
            changes = Changes()
            rows = recipient_rows.recipient_rows(connection, message_id)
            message = message_rows.get_message(connection, message_id)
            mine = [row for row in rows if row.number == number and row.attempts == attempt]
            if not mine or mine[0].state != RecipientState.ACTIVE.value or message is None:
                return changes
            numbers = [number, *_new_numbers({row.number for row in rows}, len(places) - 1)]
            new = [
                QueuedRecipient(
                    number=at,
                    address=place.address,
                    mailbox_key=place.mailbox_key,
                    bucket=place.bucket,
                    node_user=place.node_user,
                    options=place.options,
                    next_attempt_s=now_s,
                    attempts=attempt,
                    via=place.via or mine[0].via,
                    list_owner=place.list_owner if place.list_owner is not None else mine[0].list_owner,
                )
                for at, place in zip(numbers, places, strict=True)
            ]
            recipient_rows.delete_recipients(connection, message_id, [number])
            recipient_rows.insert_recipients(connection, message_id, message.arrived_s, new)
            changes.waiting += [(row.bucket, row.mailbox_key, now_s) for row in new]
            return changes

        await self.store.write(operation, committed=self.note)

    async def disown(self, message_id: MessageId, *, owner: str = "") -> None:
        """The worker that sent this message told its client 451: forget what has not been tried from here.

        `owner` is that worker: what is active in it is forgotten too, since it does not know of it.

        The id is marked, because the accept itself may still be under way (a large body takes many writes): what comes
        later under it is refused.
        """
        now_s = self.store.clock.wall_s()

        def operation(connection: Connection) -> None:
            state = message_rows.message_state(connection, message_id)
            if state is None:
                message_rows.mark_disowned(connection, message_id, now_s)
                return
            untried = [
                row.number
                for row in recipient_rows.recipient_rows(connection, message_id)
                if row.attempts <= 1 and (row.state != RecipientState.ACTIVE.value or row.lease_owner == owner)
            ]
            recipient_rows.delete_recipients(connection, message_id, untried)
            if untried or state == message_rows.INCOMING:
                message_rows.finish_if_empty(connection, message_id, now_s, message_rows.DISOWNED)

        await self.store.write(operation)

    async def set_aside(self, message_id: MessageId, reason: str) -> None:
        """Hold every recipient of a message that cannot be used (a damaged body), with an alarm."""

        def operation(connection: Connection) -> Changes:
            numbers = [row.number for row in recipient_rows.recipient_rows(connection, message_id)]
            if numbers:
                values = {"state": RecipientState.HELD.value, "reason": reason, "node": None, "lease_until_s": None}
                recipient_rows.change_recipients(connection, message_id, numbers, values)
            return Changes(alarms=[("queue.damaged", f"{message_id} is held: {reason}")])

        await self.store.write(operation, committed=self.note)

    def body(self, message: QueuedMessage) -> BodyRef:
        """The bytes of a claimed message, read while they are used. See `StoredBody` for what it raises."""
        return StoredBody(self.store, message.id, message.size_bytes)

    async def renew(self, owner: str) -> int:
        """Give all leases of a process their full length again. Returns how many there are."""
        until_s = self.store.clock.wall_s() + self._lease_s
        return await self.store.write(lambda connection: recipient_rows.renew_leases(connection, owner, until_s))

    async def lease_owners(self) -> list[str]:
        """Every process that holds leases, as far as the rows know."""
        return await self.store.read(recipient_rows.lease_owners)

    async def release_leases_of(self, owner: str) -> int:
        """A process died: its active rows become unknown at their node, to be tried (after a search) now."""
        total_count = 0
        while count := await self._forget_attempts(owner=owner):
            total_count += count
        return total_count

    async def unknown_counts(self) -> dict[NodeId, int]:
        """How many rows of unknown outcome are bound to each node."""
        return await self.store.read(recipient_rows.unknown_counts)

    async def lapse(self) -> int:
        """Rows whose lease ended become unknown at their node. Returns how many (at most 1000 at a time)."""
        return await self._forget_attempts(lapsed_before_s=self.store.clock.wall_s())

    async def _forget_attempts(self, *, owner: str | None = None, lapsed_before_s: float | None = None) -> int:
        now_s = self.store.clock.wall_s()

        def operation(connection: Connection) -> Changes:
            changes = Changes()
            rows = recipient_rows.active_rows(connection, owner=owner, lapsed_before_s=lapsed_before_s)
            for message_id, number, node in rows:
                if node is None:
                    hold_damaged(connection, changes, message_id, number, "active without a node")
                    continue
                values = {
                    "state": RecipientState.UNKNOWN.value,
                    "next_attempt_s": now_s,
                    "lease_owner": None,
                    "lease_until_s": None,
                }
                changes.unknown.append((node, now_s))
                recipient_rows.change_recipients(connection, message_id, [number], values)
            changes.count = len(rows)
            return changes

        return (await self.store.write(operation, committed=self.note)).count

    async def sweep(self) -> int:
        """Delete what nobody waits for: pieces that were never accepted, and marks of messages that are done."""
        before_s = self.store.clock.wall_s() - ORPHAN_S

        def operation(connection: Connection) -> int:
            states = (message_rows.INCOMING, message_rows.DONE, message_rows.DISOWNED)
            imported_rows.forget(connection, before_s - imported_rows.MEMORY_S)
            return sum(len(message_rows.sweep_messages(connection, state, before_s, SWEEP_LIMIT)) for state in states)

        return await self.store.write(operation)

    def note(self, changes: Changes) -> None:
        """Tell memory, the log and the administrator what a transaction of this queue has committed."""
        for bucket, key, next_attempt_s in changes.waiting:
            self.pending.note(bucket, key, next_attempt_s)
        for node, next_attempt_s in changes.unknown:
            self.pending.note_unknown(node, next_attempt_s)
        for name, text in changes.alarms:
            self._alarm(name, text)
        for told in changes.told:
            report_told(told)
        if changes.waiting or changes.unknown:
            self.changed(changes.is_urgent)


def _new_numbers(taken: Collection[int], count: int) -> range:
    while True:
        first = random.choice(_NEW_NUMBERS)
        numbers = range(first, first + count)
        if not any(number in numbers for number in taken):
            return numbers


def _chunks(body: BodyRef) -> Iterator[bytes]:
    """The body in pieces of exactly `PIECE_BYTES`, the last one shorter."""
    held = bytearray()
    for piece in body.pieces():
        held += piece
        while len(held) >= PIECE_BYTES:
            yield bytes(held[:PIECE_BYTES])
            del held[:PIECE_BYTES]
    if held:
        yield bytes(held)
