"""Deliver one message to the homes of its mailboxes, all at once, while the client waits.

Per home one LMTP transaction. A home that cannot be reached costs only its own mailboxes: their copy goes to the first
willing secondary's handoff mailbox (its hint rows are committed before the final dot), and what finds no secondary is
left for the queue. At the deadline a transaction before its final dot is aborted; one past it is left running and
reported as pending: the caller commits its rows as active and settles them when the answer comes.

What the home itself says (4xx, 5xx after it was reached) is never handed off.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mailfront.base.deadlines import Deadlines
from mailfront.base.secret import Secret
from mailfront.delivery.handoff_block import HandoffEnvelope, HandoffRecipient, write_block
from mailfront.delivery.transaction import Delivery, LmtpAttempt, LmtpRecipient, LmtpTransaction
from mailfront.intake.leaves import WAITS, Leaf, Target
from mailfront.intake.recipients import Locator
from mailfront.mail.address import Address, parse_path
from mailfront.mail.body import BodyRef, PrefixedBody
from mailfront.mail.envelope import NO_OPTIONS, Envelope
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Blame, Deferred, Delivered, HandedOff, Outcome
from mailfront.mail.reply import reply
from mailfront.queue.port import QueuePort

SLOT_WAIT_S = 1.0
"""How long a waiting client may wait for a free connection to a node. After that its mail is queued: a node that
hangs must not eat the front end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffPlan:
    """How copies are handed to a secondary: the account that takes them and the key that signs them."""

    mailbox: str
    secret: Secret


@dataclass(slots=True)
class FanoutResult:
    """What a fan-out came to. `outcomes[i]` belongs to mailbox i; for a pending one it is a placeholder."""

    outcomes: list[Outcome]
    pending: list[tuple[LmtpAttempt, tuple[int, ...]]] = field(default_factory=list)
    superseded: list[tuple[NodeId, NodeId]] = field(default_factory=list)
    """(holder, home) of copies that may have been taken without our knowing: the queue's rows, or a copy at another
    holder, supersede their hints."""


class Fanout:
    """Delivers one message at a time; one object serves all messages of a worker."""

    def __init__(self, delivery: Delivery, locator: Locator, queue: QueuePort, handoff: HandoffPlan | None) -> None:
        self._delivery = delivery
        self._locator = locator
        self._queue = queue
        self._handoff = handoff
        self._deadlines = Deadlines()

    async def run(
        self,
        envelope: Envelope,
        body: BodyRef,
        leaves: Sequence[Leaf],
        wanted: Sequence[int],
        deadline_s: float,
        *,
        hand_off: bool = True,
    ) -> FanoutResult:
        """Deliver to the mailboxes whose indexes are `wanted`, until `deadline_s` (the loop's clock).

        Without `hand_off` no secondary is asked: the message is in the queue already, and a copy would be one too many.
        Cancellation is not safe: the caller runs this in a task that nobody cancels.
        """
        result = FanoutResult(outcomes=[WAITS] * len(leaves))
        groups: dict[tuple[NodeId, str | None], tuple[list[int], list[Target]]] = {}
        for index in wanted:
            target = leaves[index]
            assert isinstance(target, Target)
            indexes, targets = groups.setdefault((target.placement.home, target.list_owner), ([], []))
            indexes.append(index)
            targets.append(target)
        runs = [
            self._deliver_group(
                result,
                _sent_by(envelope, owner),
                body,
                targets,
                home,
                tuple(indexes),
                deadline_s,
                # A holder tells copies apart by message and home: a list's copy, with another sender, is queued.
                self._handoff if hand_off and owner is None else None,
            )
            for (home, owner), (indexes, targets) in groups.items()
        ]
        if len(runs) == 1:
            await runs[0]
        else:
            await asyncio.gather(*runs)
        return result

    async def _deliver_group(
        self,
        result: FanoutResult,
        envelope: Envelope,
        body: BodyRef,
        targets: Sequence[Target],
        home: NodeId,
        indexes: tuple[int, ...],
        deadline_s: float,
        handoff: HandoffPlan | None,
    ) -> None:
        if self._locator.may_try(home):
            transaction = _transaction(envelope, body, targets)
            attempt = self._delivery.start(home, transaction, slot_wait_s=SLOT_WAIT_S)
            outcomes = await self._until(attempt, deadline_s)
            if outcomes is None:
                result.pending.append((attempt, indexes))
                busy = Deferred(Blame.NODE, reply(451, "4.4.2", f"{home} has it and has not answered yet"), home)
                for index in indexes:
                    result.outcomes[index] = busy
                return
            for index, outcome in zip(indexes, outcomes, strict=True):
                result.outcomes[index] = outcome
            if attempt.had_no_slot or not all(_is_node_trouble(outcome) for outcome in outcomes):
                return
        else:
            down = Deferred(Blame.NODE, reply(451, "4.4.1", f"{home} is not available now"), home)
            for index in indexes:
                result.outcomes[index] = down
        if handoff is not None:
            await self._hand_off(handoff, result, envelope, body, targets, home, indexes, deadline_s)

    async def _hand_off(
        self,
        plan: HandoffPlan,
        result: FanoutResult,
        envelope: Envelope,
        body: BodyRef,
        targets: Sequence[Target],
        home: NodeId,
        indexes: tuple[int, ...],
        deadline_s: float,
    ) -> None:
        """Try the secondaries in order. On any trouble the outcomes stay deferred and the queue takes over."""
        holders = self._locator.handoff_order(targets[0].placement)
        if not holders or asyncio.get_running_loop().time() >= deadline_s:
            return
        copy = handoff_envelope(envelope, home, targets, indexes)
        block = await asyncio.get_running_loop().run_in_executor(None, write_block, copy, body, plan.secret)
        transaction = LmtpTransaction(
            id=envelope.id,
            reverse_path=None,
            body_type=envelope.body_type,
            smtputf8=False,
            ret=None,
            envid=None,
            recipients=(LmtpRecipient(plan.mailbox, NO_OPTIONS),),
            body=PrefixedBody(block, body),
        )
        for holder in holders:
            hinted = _HintWriter(self._queue, copy, holder)
            attempt = self._delivery.start(holder, transaction, slot_wait_s=SLOT_WAIT_S, before_dot=hinted.write)
            outcomes = await self._until(attempt, deadline_s)
            if outcomes is not None and isinstance(outcomes[0], Delivered):
                for index in indexes:
                    result.outcomes[index] = HandedOff(holder, home)
                return
            if hinted.written:
                result.superseded.append((holder, home))
            if outcomes is None or asyncio.get_running_loop().time() >= deadline_s:
                return

    async def _until(self, attempt: LmtpAttempt, deadline_s: float) -> tuple[Outcome, ...] | None:
        """Wait for an attempt until the deadline. None: it is past its final dot and still running."""
        if await self._deadlines.wait(attempt.task, deadline_s) or attempt.abort(
            "the deadline for the reply has passed"
        ):
            return await attempt.result()
        return None


class _HintWriter:
    """Commits the hint rows of one copy when its transaction is ready for the final dot."""

    def __init__(self, queue: QueuePort, copy: HandoffEnvelope, holder: NodeId) -> None:
        self._queue = queue
        self._copy = copy
        self._holder = holder
        self.written = False

    async def write(self) -> None:
        self.written = True
        await self._queue.hint_begin(self._copy, self._holder)


def _is_node_trouble(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred) and outcome.blame is Blame.NODE and not outcome.alarm


def _sent_by(envelope: Envelope, owner: str | None) -> Envelope:
    """The envelope for members of a list: what they have to say goes to its owner. The null sender stays null."""
    if owner is None:
        return envelope
    sender: Address | None = envelope.reverse_path and parse_path(owner)
    return replace(envelope, reverse_path=sender, ret=None, envid=None)


def _transaction(envelope: Envelope, body: BodyRef, targets: Sequence[Target]) -> LmtpTransaction:
    return LmtpTransaction(
        id=envelope.id,
        reverse_path=envelope.reverse_path,
        body_type=envelope.body_type,
        smtputf8=envelope.smtputf8,
        ret=envelope.ret,
        envid=envelope.envid,
        recipients=tuple(LmtpRecipient(target.node_user, target.options) for target in targets),
        body=body,
    )


def handoff_envelope(
    envelope: Envelope, home: NodeId, targets: Sequence[Target], indexes: Sequence[int]
) -> HandoffEnvelope:
    """The envelope that travels inside a copy, with the numbers that its rows will have."""
    return HandoffEnvelope(
        id=envelope.id,
        home=home,
        reverse_path=None if envelope.reverse_path is None else str(envelope.reverse_path),
        body_type=envelope.body_type.value,
        smtputf8=envelope.smtputf8,
        ret=envelope.ret,
        envid=envelope.envid,
        arrived_s=envelope.arrived_s,
        recipients=tuple(
            HandoffRecipient(
                number=index,
                address=str(target.address),
                mailbox_key=target.mailbox_key,
                node_user=target.node_user,
                options=target.options,
            )
            for index, target in zip(indexes, targets, strict=True)
        ),
    )
