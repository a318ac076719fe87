"""Turn what a fan-out could not finish into queue rows, and commit them: the last step before a 250.

Each mailbox that must be kept becomes one row. Deferred: `waiting`. Unknown: `unknown`, bound to the node that may have
it. Past the dot and still running: `active`, leased to this process; its answer settles the row, and if this process
dies the row becomes `unknown`. Failed while the message as a whole is accepted: no row, but a notice to the sender with
the node's word, in the same commit. Retained on a filter's word: `held` or `quarantined`, never tried before a person
releases it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from mailfront.base.backoff import jittered_s
from mailfront.base.clock import Clock
from mailfront.delivery.transaction import LmtpAttempt
from mailfront.intake.fold import Decision
from mailfront.intake.recipients import Target
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import Envelope
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Deferred, Delivered, Discarded, Failed, Fate, HandedOff, Retained, Unknown
from mailfront.queue.port import QueuePort
from mailfront.queue.rows import QueuedMessage, QueuedRecipient, RecipientState


class Keeping:
    """Commits what must be kept of one message. One object per worker."""

    def __init__(self, queue: QueuePort, clock: Clock, *, first_retry_s: float, lifetime_s: float) -> None:
        self._queue = queue
        self._clock = clock
        self._first_retry_s = first_retry_s
        self._lifetime_s = lifetime_s

    async def commit(
        self,
        envelope: Envelope,
        body: BodyRef,
        mailboxes: Sequence[Target],
        outcomes: Sequence[Fate],
        decision: Decision,
        pending: Mapping[int, LmtpAttempt],
        superseded: Collection[tuple[NodeId, NodeId]],
    ) -> None:
        """Make durable what `decision` keeps. Returns after the commit; raises Unavailable if there was none."""
        rows = [self._row(i, mailboxes[i], outcomes[i], pending.get(i)) for i in sorted(decision.keep)]
        refused = [self._row(i, mailboxes[i], outcomes[i], None) for i in sorted(decision.notices)]
        if not rows and not refused:
            await self._queue.hints_superseded(envelope.id, tuple(superseded))
            return
        message = QueuedMessage(
            id=envelope.id,
            reverse_path=None if envelope.reverse_path is None else str(envelope.reverse_path),
            arrived_s=envelope.arrived_s,
            expires_s=envelope.arrived_s + self._lifetime_s,
            size_bytes=body.size_bytes,
            body_type=envelope.body_type,
            smtputf8=envelope.smtputf8,
            ret=envelope.ret,
            envid=envelope.envid,
            client_ip=envelope.client.ip,
        )
        await self._queue.accept(message, body, rows, hints_superseded=tuple(superseded), refused=refused)

    def _row(self, index: int, target: Target, outcome: Fate, attempt: LmtpAttempt | None) -> QueuedRecipient:
        now_s = self._clock.wall_s()
        row = QueuedRecipient(
            number=index,
            address=str(target.address),
            mailbox_key=target.mailbox_key,
            bucket=target.placement.bucket,
            node_user=target.node_user,
            options=target.options,
            next_attempt_s=now_s + jittered_s(self._first_retry_s),
            attempts=1,
            tried_s=now_s,
        )
        if attempt is not None:
            return replace(row, state=RecipientState.ACTIVE, node=attempt.node)
        match outcome:
            case Deferred():
                return replace(row, blame=outcome.blame.value, last_reply=str(outcome.reply))
            case Unknown():
                return replace(row, state=RecipientState.UNKNOWN, node=outcome.node, last_reply=outcome.reason)
            case Failed():
                return replace(row, last_reply=str(outcome.reply))
            case Retained():
                state = RecipientState.QUARANTINED if outcome.quarantined else RecipientState.HELD
                return replace(row, state=state, attempts=0, tried_s=0.0, reason=outcome.reason)
            case Delivered() | HandedOff() | Discarded():
                raise AssertionError("what is durable elsewhere, or thrown away, is not queued")
            case _:
                assert_never(outcome)
