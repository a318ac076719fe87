"""Bringing handed-off mail home.

Copies wait in the handoff mailbox of a secondary (the holder), each with a hint row per recipient. When the home is up
again, each copy is fetched from the holder over IMAP, its block is cut off and verified, and the message is delivered
over LMTP to whoever owns the mailbox *now*; then the copy is expunged. One task per pair of holder and home, so a slow
home delays only its own mail.

    stored -> draining (node and lease committed before the final dot) -> done -> expunged

A row found `draining` without a live lease is of unknown outcome: the mailbox is searched first. A copy that its holder
does not have is waited for, then held with an alarm. Handed-off mail never expires.

A claim's lease is renewed as long as this process lives, so every claim must end here: what was not tried is given back
at once, and a result is committed however often that takes.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from mailfront.base.backoff import exponential_s
from mailfront.base.clock import Clock
from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.node_states import Service
from mailfront.cluster.node_table import NodeStateTable
from mailfront.cluster.placement import ClusterMap
from mailfront.delivery.handoff_block import BlockInvalid
from mailfront.delivery.transaction import Delivery, LmtpRecipient, LmtpTransaction
from mailfront.mail.address import parse_path
from mailfront.mail.envelope import BodyType
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.observe import metrics
from mailfront.observe.log import emit, get
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.rows import HandoffRow, HandoffState
from mailfront.transfer.copies import INBOX, HandoffCopies, HandoffCopy, NoCopy
from mailfront.transfer.imap import ImapSession
from mailfront.transfer.node_imap import MasterSearch, NodeImap
from mailfront.transfer.unknown import after_sending, without_sending

LOOK_EVERY_S = 2.0
MOST_RETRY_S = 30.0
ROWS_PER_CLAIM = 20
SLOT_WAIT_S = 60.0
PATIENCE_ATTEMPTS = 3
"""How often a copy that its holder does not have (yet) is looked for before an administrator is told."""
_OVER = (HandoffState.DONE, HandoffState.SUPERSEDED, HandoffState.EXPUNGED)

Alarm = Callable[[str, str], None]
log = get("drain")


class HandoffDrain:
    """See the module. One per keeper."""

    def __init__(
        self,
        table: HandoffTable,
        copies: HandoffCopies,
        imap: NodeImap,
        delivery: Delivery,
        states: NodeStateTable,
        current_map: Callable[[], ClusterMap],
        clock: Clock,
        *,
        owner: str,
        alarm: Alarm,
    ) -> None:
        self._table = table
        self._copies = copies
        self._imap = imap
        self._search = MasterSearch(imap)
        self._delivery = delivery
        self._states = states
        self._current_map = current_map
        self._clock = clock
        self._owner = owner
        self._alarm = alarm
        self._wake = asyncio.Event()
        self._pairs: dict[tuple[NodeId, NodeId], asyncio.Task[None]] = {}
        self._homes_up: set[NodeId] = set()
        self._holders_up: set[NodeId] = set()

    def wake(self) -> None:
        """A node changed, or something was handed off: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Drain until cancelled; copies under way are then finished by the next keeper."""
        failures_count = 0
        try:
            while True:
                self._wake.clear()
                try:
                    await self._start_pairs()
                    failures_count = 0
                except Unavailable as error:
                    failures_count += 1
                    log.warning("cannot look for handed-off mail", reason=str(error))
                try:
                    async with asyncio.timeout(exponential_s(failures_count + 1, first_s=LOOK_EVERY_S, most_s=30.0)):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            await cancel_and_wait(*self._pairs.values())

    async def _start_pairs(self) -> None:
        """One task for each pair of a holder and a home that are both up and have something between them."""
        nodes = [node.id for node in self._current_map().nodes]
        up = {node for node in nodes if self._states.is_up(node, Service.LMTP)}
        holders_up = {node for node in nodes if self._states.is_up(node, Service.IMAP)}
        for home in up if holders_up - self._holders_up else up - self._homes_up:
            await self._table.wake(home)
        self._homes_up, self._holders_up = up, holders_up
        for holder, home, state in await self._table.counts():
            pair = (holder, home)
            if state not in (HandoffState.STORED, HandoffState.DRAINING) or pair in self._pairs:
                continue
            if home in up and holder in holders_up:
                task = spawn(self._drain_pair(holder, home), name=f"drain {holder} to {home}")
                self._pairs[pair] = task
                task.add_done_callback(lambda _, pair=pair: self._pairs.pop(pair, None))  # type: ignore[misc]

    async def _drain_pair(self, holder: NodeId, home: NodeId) -> None:
        """Bring home what one holder has for one home, until nothing is due. `claimed` has what is not settled yet."""
        claimed: deque[list[HandoffRow]] = deque()
        try:
            claimed.extend(_by_message(await self._claim(holder, home)))
            if not claimed:
                return
            async with self._imap.as_handoff(holder) as session:
                while claimed:
                    copy = await self._bring_home(session, holder, home, claimed[0])
                    claimed.popleft()
                    if copy is not None:
                        await self._expunge_if_over(session, holder, copy)
                    if not claimed and self._states.is_up(home, Service.LMTP):
                        claimed.extend(_by_message(await self._claim(holder, home)))
        except Unavailable as error:
            log.warning("the drain was interrupted", holder=holder, home=home, reason=str(error))
            await self._give_back(holder, claimed, str(error))
        except Exception as error:
            log.error("the drain failed by our fault", holder=holder, home=home, exc_info=error)
            if claimed:  # Nobody knows how far the first message came.
                claimed[0] = [replace(row, state=HandoffState.DRAINING) for row in claimed[0]]
            await self._give_back(holder, claimed, "internal error")

    async def _give_back(self, holder: NodeId, groups: Iterable[Sequence[HandoffRow]], why: str) -> None:
        """End claims without a result, so that the rows may be claimed again. Unknown outcomes stay unknown."""
        for rows in groups:
            await self._committed(lambda rows=rows: self._postpone(holder, rows, why))  # type: ignore[misc]

    async def _postpone(self, holder: NodeId, rows: Sequence[HandoffRow], why: str) -> None:
        in_doubt = {row.number: why for row in rows if row.state is HandoffState.DRAINING}
        stored = {row.number: why for row in rows if row.number not in in_doubt}
        if in_doubt:
            await self._table.unknown(rows[0].id, holder, in_doubt)
        if stored:
            await self._table.deferred(rows[0].id, holder, stored)

    async def _committed(self, commit: Callable[[], Awaitable[None]]) -> None:
        """Commit, however often it takes. `commit` must be harmless when it is repeated."""
        failures_count = 0
        while True:
            try:
                await commit()
                return
            except Unavailable as error:
                failures_count += 1
                log.warning("the end of a claim cannot be committed yet", reason=str(error))
                await asyncio.sleep(exponential_s(failures_count, first_s=0.5, most_s=MOST_RETRY_S))

    async def _claim(self, holder: NodeId, home: NodeId) -> list[HandoffRow]:
        known, states = self._current_map(), self._states

        def target(row: HandoffRow) -> NodeId | None:
            owner = known.place(row.mailbox_key).home
            return owner if states.is_up(owner, Service.LMTP) else None

        return await self._table.claim(holder, home, limit=ROWS_PER_CLAIM, owner=self._owner, target=target)

    async def _bring_home(
        self, session: ImapSession, holder: NodeId, home: NodeId, rows: Sequence[HandoffRow]
    ) -> HandoffCopy | None:
        """One message's claimed rows: fetch the copy, deliver it, commit the result. Returns the copy if there is one.

        Raises Unavailable before anything was sent home.
        """
        message_id, began_s = rows[0].id, self._clock.monotonic_s()
        try:
            copy = await self._copies.find(session, message_id, home)
        except NoCopy:
            await self._committed(lambda: self._copy_missing(holder, rows))
            return None
        except BlockInvalid as error:
            why = str(error)
            await self._committed(lambda: self._table.refused(message_id, holder, {row.number: why for row in rows}))
            self._alarm("handoff.damaged", f"the copy of {message_id} at {holder} is held: {why}")
            return None
        outcomes: dict[int, Outcome] = {}
        for node, some in _by_node(rows).items():
            outcomes |= await self._deliver(node, copy, some)
        await self._committed(lambda: self._record(message_id, holder, outcomes))
        for row in rows:
            self._tell(holder, row, outcomes[row.number], self._clock.monotonic_s() - began_s)
        return copy

    async def _copy_missing(self, holder: NodeId, rows: Sequence[HandoffRow]) -> None:
        text = f"{holder} has no copy of it"
        waiting = [row for row in rows if row.attempts < PATIENCE_ATTEMPTS]
        given_up = {row.number: text for row in rows if row.attempts >= PATIENCE_ATTEMPTS}
        if waiting:
            await self._postpone(holder, waiting, text)
        if given_up:
            await self._table.refused(rows[0].id, holder, given_up)
            self._alarm(
                "handoff.missing",
                f"{holder} has no copy of {rows[0].id}; if trace shows no 250 for it, nothing is lost",
            )

    async def _deliver(self, node: NodeId, copy: HandoffCopy, rows: Sequence[HandoffRow]) -> dict[int, Outcome]:
        """Deliver to one node. Rows of unknown outcome are searched for there first."""
        outcomes: dict[int, Outcome] = {}
        there: dict[int, bool | None] = {}
        for row in rows:
            if row.state is HandoffState.DRAINING:
                there[row.number] = await self._search.find(node, row.node_user, row.id, row.arrived_s)
                outcome = without_sending(
                    there[row.number], node, can_search=self._search.can_search, attempts=row.attempts
                )
                if outcome is not None:
                    outcomes[row.number] = outcome
        left = {row.node_user: row for row in rows if row.number not in outcomes}
        if left:
            envelope = copy.envelope
            attempt = self._delivery.start(
                node,
                LmtpTransaction(
                    id=envelope.id,
                    reverse_path=None if envelope.reverse_path is None else parse_path(envelope.reverse_path),
                    body_type=BodyType(envelope.body_type),
                    smtputf8=envelope.smtputf8,
                    ret=envelope.ret,
                    envid=envelope.envid,
                    recipients=tuple(LmtpRecipient(row.node_user, row.options) for row in left.values()),
                    body=copy.body,
                ),
                slot_wait_s=SLOT_WAIT_S,
                source="drain",
                home=envelope.home,
            )
            try:
                results = await attempt.result()
            except asyncio.CancelledError:
                attempt.drop("the keeper ends")
                raise
            by_user = dict(zip(left, results, strict=True))
            outcomes |= {
                row.number: after_sending(there.get(row.number, False), by_user[row.node_user], node)
                for row in rows
                if row.number not in outcomes
            }
        return outcomes

    async def _record(self, message_id: MessageId, holder: NodeId, outcomes: Mapping[int, Outcome]) -> None:
        """Commit what became of each row. Harmless when it is repeated."""
        at_home: list[int] = []
        deferred: dict[int, str] = {}
        unknown: dict[int, str] = {}
        refused: dict[int, str] = {}
        for number, outcome in outcomes.items():
            match outcome:
                case Delivered() | HandedOff():
                    at_home.append(number)
                case Deferred():
                    deferred[number] = str(outcome.reply)
                case Unknown():
                    unknown[number] = outcome.reason
                case Failed():
                    refused[number] = str(outcome.reply)
                case _:
                    assert_never(outcome)
        if at_home:
            await self._table.at_home(message_id, holder, at_home)
        if deferred:
            await self._table.deferred(message_id, holder, deferred)
        if unknown:
            await self._table.unknown(message_id, holder, unknown)
        if refused:
            await self._table.refused(message_id, holder, refused)
            text = "; ".join(refused.values())
            self._alarm("handoff.refused", f"the home refuses {message_id}, its copy stays at {holder}: {text}")

    async def _expunge_if_over(self, session: ImapSession, holder: NodeId, copy: HandoffCopy) -> None:
        message_id, home = copy.envelope.id, copy.envelope.home
        rows = [row for row in await self._table.find([message_id], holder) if row.home == home]
        if rows and all(row.state in _OVER for row in rows):
            await session.delete(INBOX, copy.uids)
            await self._table.expunged(message_id, holder)
            metrics.TRANSFER_DRAINS.inc("expunged")

    def _tell(self, holder: NodeId, row: HandoffRow, outcome: Outcome, took_s: float) -> None:
        step, answer = "delivered", ""
        if isinstance(outcome, Deferred):
            step, answer = "postponed", str(outcome.reply)
        elif isinstance(outcome, Unknown):
            step, answer = "unknown", outcome.reason
        elif isinstance(outcome, Failed):
            step, answer = "held", str(outcome.reply)
        metrics.TRANSFER_DRAINS.inc(step)
        emit(
            "drain",
            id=row.id,
            recipient=row.address,
            mailbox=row.mailbox_key,
            holder=holder,
            home=row.home,
            node=row.node,
            step=step,
            reply=answer or None,
            duration_ms=round(took_s * 1000, 1),
            possible_duplicate=row.state is HandoffState.DRAINING and isinstance(outcome, Delivered),
        )


def _by_message(rows: Sequence[HandoffRow]) -> list[list[HandoffRow]]:
    groups: dict[str, list[HandoffRow]] = {}
    for row in rows:
        groups.setdefault(row.id, []).append(row)
    return list(groups.values())


def _by_node(rows: Sequence[HandoffRow]) -> dict[NodeId, list[HandoffRow]]:
    groups: dict[NodeId, list[HandoffRow]] = {}
    for row in rows:
        assert row.node is not None  # A claim says where.
        groups.setdefault(row.node, []).append(row)
    return groups
