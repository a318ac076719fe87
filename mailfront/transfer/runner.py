"""The queue runner: takes what is due for a node that is up, delivers it there, and writes down how it ended.

Each node has a window of attempts at once that grows with success and is halved by the node's failures; a node that
returned begins slowly; nodes take turns. Rows of a node that is not up are not even looked at. A row whose outcome is
unknown is first searched for in the mailbox at the node that may have it, and tried at that node only.

What survives a crash: everything. A claim is committed before a node hears of it; an attempt whose end was not
committed is found as unknown. A result that cannot be committed is kept here and tried again, and while it waits the
store's gate is shut.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol

from mailfront.base.backoff import exponential_s
from mailfront.base.clock import Clock
from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.node_states import Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.delivery.attempt_record import describe
from mailfront.delivery.transaction import Delivery
from mailfront.mail.body import BodyRef
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.next_hop import is_next_hop
from mailfront.mail.outcome import Blame, Deferred, Delivered, Outcome, Unknown, says_full
from mailfront.observe.log import emit, get
from mailfront.queue.queue import Queue
from mailfront.queue.rows import Claimed, QueuedMessage, QueuedRecipient
from mailfront.queue.schedule import Window, queue_slots, turns
from mailfront.store.errors import CorruptBody
from mailfront.transfer.batches import batches, transaction_of
from mailfront.transfer.hops import FIRST_PAUSE_S, SLOT_WAIT_S, HopPause, NextHop
from mailfront.transfer.unknown import after_sending, without_sending

LONGEST_SLEEP_S = 5.0
GATHER_S = 0.002
"""After something happened, how long more of it is awaited: one claim for ten free places costs little more than one
for a single place, and under load places become free all the time."""
MOST_RETRY_S = 30.0

log = get("queue")


class MailboxSearch(Protocol):
    """Looks into mailboxes for a message that may be there already."""

    @property
    def can_search(self) -> bool:
        """Whether there is somebody to search as."""
        ...

    async def find(self, node: NodeId, node_user: str, message_id: MessageId, arrived_s: float) -> bool | None:
        """Whether the mailbox has the message; None: it cannot be looked at."""
        ...


class Alarms(Protocol):
    """Where it is told that a next hop fails. Must be quick and must not raise."""

    def raise_alarm(self, name: str, text: str) -> None:
        """Raise one, or count it once more."""
        ...

    def clear_alarm(self, name: str) -> None:
        """It is over."""
        ...


@dataclass(slots=True)
class _Lane:
    """What the runner knows of one node."""

    window: Window
    in_use: int = 0
    returned_s: float | None = None
    was_up: bool = True
    hop: NextHop | None = None
    pause: HopPause = field(default_factory=HopPause)


class QueueRunner:
    """See the module. One per keeper; all in one event loop.

    `slots` is how many LMTP connections the queue and new mail together have to each node.
    """

    def __init__(
        self,
        queue: Queue,
        delivery: Delivery,
        states: NodeStateTable,
        search: MailboxSearch,
        clock: Clock,
        *,
        owner: str,
        slots: Mapping[NodeId, int],
        hops: Mapping[NodeId, tuple[NextHop, int]],
        alarms: Alarms,
        lease_s: float,
        final_timeout_s: float,
        mailbox_full: Callable[[MailboxKey], None] = lambda _key: None,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._queue = queue
        self._delivery = delivery
        self._states = states
        self._search = search
        self._clock = clock
        self._owner = owner
        self._lanes = {node: _Lane(Window(most=most)) for node, most in slots.items()}
        for name, (hop, most) in hops.items():
            # Nobody else sends there: all of it is the queue's.
            self._lanes[name] = _Lane(Window(most=2 * most), hop=hop, pause=HopPause(first_pause_s))
        self._alarms = alarms
        self._mailbox_full = mailbox_full
        self._lease_s = lease_s
        self._final_timeout_s = final_timeout_s
        self._wake = asyncio.Event()
        self._attempts: set[asyncio.Task[None]] = set()
        self._last: NodeId | None = None
        self._stopping = False
        queue.changed = self._rows_changed

    def wake(self) -> None:
        """Something may be due: rows were written, a node changed, an attempt ended."""
        self._wake.set()

    def _rows_changed(self, is_urgent: bool) -> None:
        if is_urgent:
            for lane in self._lanes.values():
                lane.pause.hurry()
        self.wake()

    @property
    def in_use_count(self) -> int:
        """Attempts that have not been settled."""
        return len(self._attempts)

    async def run(self) -> None:
        """Work until cancelled. Attempts go on after that; see `drain`."""
        failures_count = 0
        while True:
            self._wake.clear()
            try:
                await self._turn()
                failures_count = 0
            except Unavailable as error:
                failures_count += 1
                log.warning("the queue cannot be read", reason=str(error))
            if self._wake.is_set() and not failures_count:
                await asyncio.sleep(GATHER_S)
                continue
            now_s = self._clock.wall_s()
            up = [node for node, lane in self._lanes.items() if self._is_up(node, lane)]
            due_s = self._queue.pending.next_due_s(up) - now_s
            pause_s = min((lane.pause.left_s(self._clock.monotonic_s()) for lane in self._lanes.values()), default=inf)
            sleep_s = min(LONGEST_SLEEP_S, max(0.05, min(due_s, pause_s)))
            if failures_count:
                sleep_s = exponential_s(failures_count, first_s=0.5, most_s=MOST_RETRY_S)
            try:
                async with asyncio.timeout(sleep_s):
                    await self._wake.wait()
                await asyncio.sleep(GATHER_S)
            except TimeoutError:
                continue

    async def drain(self, grace_s: float) -> None:
        """Begin nothing new; wait for the attempts under way, at most `grace_s`. What is left is found as unknown."""
        self._stopping = True
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=grace_s)
        await cancel_and_wait(*self._attempts)

    async def _turn(self) -> None:
        """Give every node that is up, in turn, what it may get now."""
        now_s, monotonic_s = self._clock.wall_s(), self._clock.monotonic_s()
        for node in turns(list(self._lanes), self._last):
            lane = self._lanes[node]
            is_up = self._is_up(node, lane)
            if is_up and not lane.was_up:
                lane.returned_s = monotonic_s
                self._queue.pending.kick(node, now_s)
            lane.was_up = is_up
            if not is_up or self._stopping:
                continue
            slots = queue_slots(lane.window, lane.returned_s, monotonic_s, in_use=lane.in_use)
            if slots <= 0 or not self._queue.pending.has_due(node, now_s):
                continue
            self._last = node
            for claimed in await self._queue.claim(node, limit=slots, owner=self._owner):
                lane.in_use += 1
                task = spawn(self._try(node, lane, claimed), name=f"queue {claimed.message.id}")
                self._attempts.add(task)
                task.add_done_callback(self._attempts.discard)

    def _is_up(self, node: NodeId, lane: _Lane) -> bool:
        if lane.hop is not None:
            # One that fails gets one attempt at a time, at the end of its pause.
            now_s = self._clock.monotonic_s()
            return lane.pause.may_try(now_s) and not (lane.pause.is_failing and lane.in_use)
        return self._states.is_up(node, Service.LMTP)

    async def _try(self, node: NodeId, lane: _Lane, claimed: Claimed) -> None:
        """One claimed message to one node, to the committed end. The lease is renewed as long as this process lives, so
        the rows must not stay active whatever happens here."""
        outcomes: dict[int, Outcome] = {}
        try:
            try:
                await self._attempt(node, claimed, outcomes)
            except Exception as error:
                log.error("a queued message failed by our fault", id=claimed.message.id, node=node, exc_info=error)
                doubt = Unknown(node, "our fault: nobody knows how far it came")
                outcomes = {row.number: outcomes.get(row.number, doubt) for row in claimed.recipients}
            trouble = next((outcome for outcome in outcomes.values() if _is_node_trouble(outcome)), None)
            if trouble is not None:
                lane.window = lane.window.node_failed()
                self._hop_failed(node, lane, trouble)
            elif lane.hop is not None or any(isinstance(outcome, Delivered) for outcome in outcomes.values()):
                lane.window = lane.window.succeeded()
                self._hop_worked(node, lane)
            for row in claimed.recipients:
                if row.number in outcomes and says_full(outcomes[row.number]):
                    self._mailbox_full(row.mailbox_key)
        finally:
            # The node is done with it: the next one need not wait for our disk. If that fails, so does the next claim.
            lane.in_use -= 1
            self.wake()
        await self._settle(claimed, outcomes)

    def _hop_failed(self, node: NodeId, lane: _Lane, trouble: Outcome) -> None:
        if lane.hop is not None:
            lane.pause.failed(self._clock.monotonic_s())
            text = f"mail for {node} waits in the queue; the last attempt there: {describe(trouble)}"
            self._alarms.raise_alarm(f"queue.hop_fails.{node}", text)

    def _hop_worked(self, node: NodeId, lane: _Lane) -> None:
        if lane.pause.worked():
            self._queue.pending.kick(node, self._clock.wall_s())
            self._alarms.clear_alarm(f"queue.hop_fails.{node}")

    async def _attempt(self, node: NodeId, claimed: Claimed, outcomes: dict[int, Outcome]) -> None:
        """Fill in the outcomes as they become known."""
        hop = self._lanes[node].hop
        there = await self._search_for(node, claimed) if claimed.was_unknown else {}
        for row in claimed.recipients:
            if row.number in there:
                can_search = hop is None and self._search.can_search
                outcome = without_sending(there[row.number], node, can_search=can_search, attempts=row.attempts)
                if outcome is not None:
                    outcomes[row.number] = outcome
        if hop is not None:
            left = replace(claimed, recipients=tuple(row for row in claimed.recipients if row.number not in outcomes))
            for number, outcome in (await self._hand_on(hop, left)).items():
                outcomes[number] = after_sending(there.get(number, False), outcome, node)
            return
        for batch in batches(claimed.message, [row for row in claimed.recipients if row.number not in outcomes]):
            for number, outcome in (await self._deliver(node, claimed.message, batch)).items():
                outcomes[number] = after_sending(there.get(number, False), outcome, node)

    async def _search_for(self, node: NodeId, claimed: Claimed) -> dict[int, bool | None]:
        """Search the mailboxes of rows whose outcome is unknown: see `MailboxSearch.find`."""
        answers: dict[int, bool | None] = {}
        for row in claimed.recipients:
            there = None
            if not is_next_hop(node):
                there = await self._search.find(node, row.node_user, claimed.message.id, claimed.message.arrived_s)
            answers[row.number] = there
            emit(
                "queue_resolved",
                id=claimed.message.id,
                recipient=row.address,
                node=node,
                mailbox=row.mailbox_key,
                outcome="found" if there else "not found" if there is False else "cannot search",
            )
        return answers

    async def _deliver(
        self, node: NodeId, message: QueuedMessage, rows: Sequence[QueuedRecipient]
    ) -> dict[int, Outcome]:
        body = _WatchedBody(self._queue.body(message))
        attempt = self._delivery.start(
            node,
            transaction_of(message, rows, body),
            slot_wait_s=SLOT_WAIT_S,
            before_dot=self._lease_check(),
            source="queue",
            attempt=max(row.attempts for row in rows),
        )
        try:
            outcomes = await attempt.result()
        except asyncio.CancelledError:
            attempt.drop("the keeper ends")
            raise
        if body.problem:
            await self._queue.set_aside(message.id, body.problem)
            return {}
        return {row.number: outcome for row, outcome in zip(rows, outcomes, strict=True)}

    async def _hand_on(self, hop: NextHop, claimed: Claimed) -> Mapping[int, Outcome]:
        body = _WatchedBody(self._queue.body(claimed.message))
        outcomes: Mapping[int, Outcome] = {}
        try:
            outcomes = await hop.attempt(claimed, body, self._lease_check())
        except CorruptBody:
            pass
        if not body.problem:
            return outcomes
        await self._queue.set_aside(claimed.message.id, body.problem)
        return {}

    def _lease_check(self) -> Callable[[], Awaitable[None]]:
        """A claim's last check before the final dot: raises Unavailable if its lease would not outlast the answer."""
        began_s = self._clock.monotonic_s()

        async def lease_is_long_enough() -> None:
            left_s = self._lease_s - (self._clock.monotonic_s() - began_s)
            if left_s <= self._final_timeout_s:
                raise Unavailable("the lease is too short to wait for the node's answer")

        return lease_is_long_enough

    async def _settle(self, claimed: Claimed, outcomes: Mapping[int, Outcome]) -> None:
        """Commit the outcomes, however often it takes."""
        numbers = {row.number: row.attempts for row in claimed.recipients}
        failures_count = 0
        while outcomes:
            try:
                await self._queue.settle(claimed.message.id, outcomes, attempts=numbers)
                return
            except Unavailable as error:
                failures_count += 1
                log.warning("a result cannot be committed yet", id=claimed.message.id, reason=str(error))
                await asyncio.sleep(exponential_s(failures_count, first_s=0.5, most_s=MOST_RETRY_S))


class _WatchedBody:
    """A stored body that remembers if it was found damaged while it was read."""

    def __init__(self, body: BodyRef) -> None:
        self._body = body
        self.problem = ""

    @property
    def size_bytes(self) -> int:
        return self._body.size_bytes

    def pieces(self) -> Iterator[bytes]:
        try:
            yield from self._body.pieces()
        except CorruptBody as error:
            self.problem = str(error)
            raise

    def head(self, limit_bytes: int) -> bytes:
        return self._body.head(limit_bytes)


def _is_node_trouble(outcome: Outcome) -> bool:
    return isinstance(outcome, Unknown) or (isinstance(outcome, Deferred) and outcome.blame is Blame.NODE)
