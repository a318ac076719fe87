"""Turn recipients into queue rows, and commit them.

`commit` is the last step before a 250: what a fan-out could not finish. `commit_ahead` comes before the fan-out, for a
message that surely needs the queue: all its recipients get rows at once, those that are tried now as `active`, so that
one id and one body stand for the whole message whatever happens then.

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
from mailfront.intake.leaves import Leaf, Target
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import Envelope, RecipientOptions
from mailfront.mail.names import NodeId, NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RESOLVE, next_hop_key
from mailfront.mail.outcome import Deferred, Delivered, Discarded, Failed, Fate, HandedOff, Retained, Split, Unknown
from mailfront.queue.dsn import NoticeKind
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
        leaves: Sequence[Leaf],
        outcomes: Sequence[Fate],
        decision: Decision,
        pending: Mapping[int, LmtpAttempt],
        superseded: Collection[tuple[NodeId, NodeId]],
    ) -> None:
        """Make durable what `decision` keeps. Returns after the commit; raises Unavailable if there was none."""
        rows = [self._row(i, leaves[i], outcomes[i], pending.get(i)) for i in sorted(decision.keep)]
        refused = [self._row(i, leaves[i], outcomes[i], None) for i in sorted(decision.notices)]
        if not rows and not refused:
            await self._queue.hints_superseded(envelope.id, tuple(superseded))
            return
        message = self._message(envelope, body)
        await self._queue.accept(message, body, rows, hints_superseded=tuple(superseded), refused=refused)

    async def commit_ahead(
        self,
        envelope: Envelope,
        body: BodyRef,
        leaves: Sequence[Leaf],
        *,
        tried: Collection[int],
        left_out: Collection[int],
        fates: Mapping[int, Fate],
        told: Sequence[tuple[Address, RecipientOptions, NoticeKind]],
    ) -> None:
        """Make all recipients durable but those that are `left_out`. Returns after the commit; raises Unavailable if
        there was none.

        `tried` are about to be delivered to by this process. `fates` were decided without a delivery: what failed is
        told to the sender, what is retained waits for a person. All others wait for the queue. `told`: what the sender
        hears at once, because he asked to hear of success.
        """
        now_s = self._clock.wall_s()
        rows: list[QueuedRecipient] = []
        refused: list[QueuedRecipient] = []
        for index, leaf in enumerate(leaves):
            fate = fates.get(index)
            if index in left_out:
                continue
            if fate is not None:
                (refused if isinstance(fate, Failed) else rows).append(self._row(index, leaf, fate, None))
                continue
            row = self._row_of(index, leaf, now_s)
            if index in tried:
                assert isinstance(leaf, Target)
                home = leaf.placement.home
                row = replace(row, state=RecipientState.ACTIVE, node=home, attempts=1, tried_s=now_s)
            rows.append(row)
        await self._queue.accept(
            self._message(envelope, body),
            body,
            rows,
            refused=refused,
            told=[
                (_heard_of(len(leaves) + number, address, options), kind)
                for number, (address, options, kind) in enumerate(told)
            ],
        )

    def _message(self, envelope: Envelope, body: BodyRef) -> QueuedMessage:
        return QueuedMessage(
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
            sender_proven=envelope.sender_proven,
        )

    def _row_of(self, index: int, leaf: Leaf, now_s: float) -> QueuedRecipient:
        return QueuedRecipient(
            number=index,
            address=str(leaf.address),
            mailbox_key=leaf.mailbox_key,
            bucket=leaf.bucket,
            node_user=leaf.node_user,
            options=leaf.options,
            next_attempt_s=now_s,
            via=leaf.via,
            list_owner=leaf.list_owner,
        )

    def _row(self, index: int, leaf: Leaf, outcome: Fate, attempt: LmtpAttempt | None) -> QueuedRecipient:
        now_s = self._clock.wall_s()
        next_s = now_s + jittered_s(self._first_retry_s)
        row = replace(self._row_of(index, leaf, now_s), next_attempt_s=next_s, attempts=1, tried_s=now_s)
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
            case Delivered() | HandedOff() | Discarded() | Split():
                raise AssertionError("what is durable elsewhere, or thrown away, is not queued")
            case _:
                assert_never(outcome)


def _heard_of(number: int, address: Address, options: RecipientOptions) -> QueuedRecipient:
    """A recipient that is told of and never queued: a list, or an address that was expanded."""
    return QueuedRecipient(
        number=number,
        address=str(address),
        mailbox_key=next_hop_key(RESOLVE),
        bucket=NEXT_HOP_BUCKET,
        node_user=NodeUser(str(address)),
        options=options,
    )
