"""One message from MAIL to its reply.

Order of calls: `Intake.begin` at MAIL, `rcpt` for each recipient, then `commit` with the body or `abandon`. `commit` is
the one function that decides a 250: it is said only after every accepted mailbox is on a node that answered 2xx, in a
secondary's handoff mailbox with its hints committed, or in the queue in a committed transaction. It must run in a task
of its own that nobody cancels; a client that hangs up does not stop it.

What survives a crash in here: nothing, and no 250 was said. The client sends again.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mailfront.base.clock import Clock
from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId, new_message_id
from mailfront.base.tasks import spawn
from mailfront.delivery.transaction import LmtpAttempt
from mailfront.filters.contract import Finding, Mail, Recipient
from mailfront.intake.ahead import CommittedAhead, is_tried_now, needs_queue
from mailfront.intake.fanout import Fanout, FanoutResult
from mailfront.intake.filtering import Screened, Screening, bound_to, mailbox_fates, sender_proven, sent_on
from mailfront.intake.fold import Decision, fold
from mailfront.intake.full_mailboxes import FullMailboxes
from mailfront.intake.kept import Keeping
from mailfront.intake.leaves import WAITS, Expanded, Leaf, Target
from mailfront.intake.recipients import Recipients
from mailfront.intake.remembered import RememberedTable, body_sha256
from mailfront.intake.repetition import Repetition
from mailfront.intake.report import MOST_RECIPIENTS_SHOWN, Stages, identity, report_message, report_refused
from mailfront.intake.trace_header import message_header, received_count, trace_lines
from mailfront.intake.versions import look_up_added, queue_versions, traced
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import Envelope, RecipientOptions
from mailfront.mail.names import NodeId, NodeUser
from mailfront.mail.outcome import Delivered, Fate
from mailfront.mail.reply import Reply, reply
from mailfront.mail.request import MailRequest
from mailfront.observe import metrics
from mailfront.observe.log import get
from mailfront.queue.port import QueuePort

log = get("intake")

_NO_QUEUE = "our queue cannot keep mail now, try again later"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakePolicy:
    """The numbers that intake obeys."""

    hostname: str
    deadline_s: float
    max_received: int


class Intake:
    """Begins transactions. One object per worker."""

    def __init__(
        self,
        recipients: Recipients,
        fanout: Fanout,
        queue: QueuePort,
        keeping: Keeping,
        policy: IntakePolicy,
        clock: Clock,
        screening: Screening | None = None,
        full: FullMailboxes | None = None,
    ) -> None:
        self.recipients = recipients
        self.fanout = fanout
        self.queue = queue
        self.keeping = keeping
        self.policy = policy
        self.clock = clock
        self.screening = screening
        self.full = full
        self.remembered = RememberedTable()

    def begin(self, request: MailRequest, earlier: tuple[Finding, ...] = ()) -> "Transaction | Reply":
        """Start a message. Returns the transaction; a refusal at MAIL would be a reply.

        `earlier`: what filters found when the client connected.
        """
        return Transaction(self, request, earlier)


class Transaction:
    """One message between MAIL and its reply. See the module for the order of calls."""

    def __init__(self, intake: Intake, request: MailRequest, earlier: tuple[Finding, ...] = ()) -> None:
        self._intake = intake
        self._findings = earlier
        self._request = request
        self._arrived_s = intake.clock.wall_s()
        self._stages = Stages(mail_s=intake.clock.monotonic_s())
        self.id: MessageId = new_message_id(self._arrived_s)
        self._accepted: list[Target | Expanded] = []
        self._refused: list[tuple[Address, Reply]] = []
        self._refused_count = 0
        self._leaf_of: dict[tuple[NodeId, NodeUser], int] = {}
        self._recipients: list[tuple[int, ...]] = []
        self._leaves: list[Leaf] = []
        self._first_home: NodeId | None = None
        self._needs_queue = False
        self._repetition = Repetition(intake.remembered, request.reverse_path, self._leaves, self._recipients)
        self._asked_count = 0
        """How many recipients the client has named; filters may add others behind them."""

    @property
    def asks_at_mail(self) -> bool:
        """Whether `mail` must be called: a filter wants to be asked at MAIL."""
        screening = self._intake.screening
        return screening is not None and screening.at_mail

    async def mail(self) -> Reply | None:
        """Ask the filters of stage `mail`. Returns the reply that refuses the message, or None."""
        screening = self._intake.screening
        assert screening is not None
        refusal, findings = await screening.mail(self._mail_view())
        self._findings += findings
        if refusal is not None:
            report_refused(self._envelope(self._request.client.protocol), [], 0, refusal, self._findings)
        return refusal

    async def rcpt(self, address: Address, options: RecipientOptions) -> Reply:
        """Decide about one recipient. 2xx: it takes part. Cancellation is safe: the recipient then takes no part."""
        answer = await self._decide(address, options)
        if not isinstance(answer, Reply):
            refusal = await self._filtered(address, answer)
            if refusal is None:
                self._take(answer)
                metrics.INTAKE_RECIPIENTS.inc("accepted")
                return _RCPT_OK
            metrics.INTAKE_RECIPIENTS.inc("filtered")
            answer = refusal
        else:
            metrics.INTAKE_RECIPIENTS.inc(_COUNTED_AS.get(answer.enhanced, "other"))
        self._refused_count += 1
        if len(self._refused) < MOST_RECIPIENTS_SHOWN:
            self._refused.append((address, answer))
        return answer

    async def _decide(self, address: Address, options: RecipientOptions) -> Target | Expanded | Reply:
        answer = await self._intake.recipients.resolve(address, options, self._request.reverse_path)
        self._stages.rcpt_s = self._intake.clock.monotonic_s()
        if not isinstance(answer, Reply) and not self._may_take(answer):
            return reply(451, "4.5.3", f"<{address}>: {_NO_QUEUE}, or send this recipient alone")
        return answer

    async def _filtered(self, address: Address, target: Target | Expanded) -> Reply | None:
        """Ask the filters of stage `rcpt`. Returns the reply that refuses the recipient, or None."""
        screening = self._intake.screening
        if screening is None or not screening.at_rcpt:
            return None
        recipient = Recipient(address=address, classes=target.classes)
        refusal, findings = await screening.rcpt(self._mail_view(), recipient)
        if refusal is None:
            self._findings += bound_to(findings, len(self._accepted))
        return refusal

    def _take(self, answer: Target | Expanded) -> None:
        if isinstance(answer, Target):
            self._recipients.append((self._add(answer),))
        else:
            self._recipients.append(tuple(dict.fromkeys(self._add(leaf) for leaf in answer.leaves)))
        self._accepted.append(answer)

    def _add(self, leaf: Leaf) -> int:
        """Take a leaf on, each once: who is reached in two ways gets one copy, by the way that was named first."""
        place = (leaf.placement.home if isinstance(leaf, Target) else leaf.hop, leaf.node_user)
        index = self._leaf_of.get(place)
        if index is None:
            index = self._leaf_of[place] = len(self._leaves)
            self._leaves.append(leaf)
            self._first_home = self._first_home or place[0]
            self._needs_queue = self._needs_queue or needs_queue(leaf)
        return index

    def _may_take(self, answer: Target | Expanded) -> bool:
        """A second node, or what needs the queue anyway, is only taken on while the queue could keep it."""
        if isinstance(answer, Target) and self._first_home in (None, answer.placement.home) and not needs_queue(answer):
            return True
        return self._intake.queue.gate_is_open(self._request.size_bytes or 0)

    def abandon(self) -> None:
        """End without a message (RSET, disconnect). Nothing was kept, so there is nothing to undo.

        Recipients that were refused are told to the log: somebody will ask why.
        """
        if self._refused:
            report_refused(self._envelope(self._request.client.protocol), self._refused, self._refused_count)

    async def commit(self, body: BodyRef, *, protocol: str, per_recipient: bool) -> tuple[Reply, ...]:
        """Deliver or keep the message, then say what happened: one reply, or one per accepted RCPT for LMTP.

        Never raises for trouble of a peer, the queue or the directory. Must not be cancelled.
        """
        intake, stages = self._intake, self._stages
        deadline_s = asyncio.get_running_loop().time() + intake.policy.deadline_s
        stages.data_end_s = stages.delivered_s = intake.clock.monotonic_s()
        envelope, header = self._envelope(protocol), message_header(body)
        if received_count(header) > intake.policy.max_received:
            refusal = reply(554, "5.4.6", "too many Received lines: this message is in a loop")
            return self._refuse(envelope, body, refusal, per_recipient=per_recipient)
        screened = Screened()
        asked_count = self._asked_count = len(self._accepted)
        if intake.screening is not None:
            screened = await self._screen(intake.screening, envelope, header, body, deadline_s, per_recipient)
            if screened.refusal is not None:
                return self._refuse(envelope, body, screened.refusal, per_recipient=per_recipient)
            envelope = replace(envelope, sender_proven=sender_proven(screened.findings))
        onward = sent_on(envelope, screened.edited)
        outgoing = traced(body, header, self._trace_lines(envelope), screened.edited)
        homes = {leaf.placement.home for leaf in self._leaves if isinstance(leaf, Target)}
        if (len(homes) > 1 or self._needs_queue) and not intake.queue.gate_is_open(outgoing.size_bytes):
            return self._refuse(envelope, body, reply(451, "4.3.0", _NO_QUEUE), per_recipient=per_recipient)
        sha256, known = self._repetition.known_deliveries(body, intake.clock.wall_s())
        fates = mailbox_fates(self._recipients, screened.fates)
        if screened.variants and not await self._split(envelope, body, header, screened, fates, known):
            return self._refuse(envelope, body, reply(451, "4.3.0", _NO_QUEUE), per_recipient=per_recipient)
        ahead: CommittedAhead | None = None
        if self._needs_queue:
            ahead = CommittedAhead(intake.keeping, intake.queue, self._accepted, self._leaves, self._recipients, fates)
            nothing = await ahead.commit(onward, outgoing, header, known, per_recipient=per_recipient)
            if nothing is not None:
                if screened.variants:  # they are queued already
                    self._remember(fates, body)
                return self._refuse(envelope, body, nothing, per_recipient=per_recipient)
            fates = ahead.fates
        wanted = [
            index
            for index, leaf in enumerate(self._leaves)
            if index not in known and index not in fates and is_tried_now(leaf)
        ]
        result = FanoutResult(outcomes=[WAITS] * len(self._leaves))
        if wanted:
            result = await intake.fanout.run(onward, outgoing, self._leaves, wanted, deadline_s, hand_off=ahead is None)
        stages.delivered_s = intake.clock.monotonic_s()
        outcomes: list[Fate] = [
            fates.get(index) or known.get(index) or outcome for index, outcome in enumerate(result.outcomes)
        ]
        if intake.full is not None:
            intake.full.learn(zip((leaf.mailbox_key for leaf in self._leaves), outcomes, strict=True))
        if ahead is None:
            decision = fold(self.id, self._recipients, outcomes, per_recipient=per_recipient, asked_count=asked_count)
            replies = await self._keep(onward, body, outgoing, outcomes, result, decision)
        else:
            replies = await ahead.finish(
                self.id, outcomes, result, per_recipient=per_recipient, asked_count=asked_count
            )
            self._settle_later(result)
        self._repetition.forget_accepted(known, sha256, replies)
        stages.answered_s = intake.clock.monotonic_s()
        report_message(
            envelope,
            body.size_bytes,
            self._leaves,
            outcomes,
            replies,
            stages,
            self._refused,
            skipped_count=len(known),
            known_as=identity(header, body),
            findings=self._findings,
        )
        return replies[:asked_count] if per_recipient else replies

    async def _screen(
        self,
        screening: Screening,
        envelope: Envelope,
        header: bytes,
        body: BodyRef,
        deadline_s: float,
        per_recipient: bool,
    ) -> Screened:
        """Ask the filters about the whole message, and take in the recipients that they add."""
        recipients = [Recipient(address=target.address, classes=target.classes) for target in self._accepted]
        screened = await screening.data(
            envelope, header, body, recipients, self._findings, deadline_s=deadline_s, per_recipient=per_recipient
        )
        self._findings = screened.findings
        if screened.added:
            added = await look_up_added(self._intake.recipients, screened.added, self._request.reverse_path, self.id)
            if isinstance(added, Reply):
                return Screened(findings=screened.findings, refusal=added)
            for target in added.values():
                self._take(target)
            # What keeps the message back from everybody keeps it back from them too.
            screened = replace(screened, fates=(*screened.fates, *(screened.added[address] for address in added)))
        self._stages.filtered_s = self._stages.delivered_s = self._intake.clock.monotonic_s()
        return screened

    async def _split(
        self,
        envelope: Envelope,
        body: BodyRef,
        header: bytes,
        screened: Screened,
        fates: dict[int, Fate],
        known: Collection[int],
    ) -> bool:
        """Queue the versions that only some recipients get. Returns False if one of them cannot be kept."""
        try:
            await queue_versions(
                self._intake.keeping,
                screened.variants,
                envelope,
                self._leaves,
                self._recipients,
                fates,
                known,
                lambda part, edited: traced(body, header, self._trace_lines(part), edited),
                lambda: new_message_id(self._intake.clock.wall_s()),
            )
        except (Unavailable, OSError) as error:
            log.warning("a version of a message cannot be queued", id=self.id, reason=str(error))
            self._remember(fates, body)
            return False
        return True

    def _mail_view(self) -> Mail:
        request = self._request
        return Mail(
            id=self.id,
            client=request.client,
            reverse_path=request.reverse_path,
            size_bytes=request.size_bytes,
            earlier=self._findings,
        )

    def _refuse(self, envelope: Envelope, body: BodyRef, refusal: Reply, *, per_recipient: bool) -> tuple[Reply, ...]:
        """Answer without having tried anything."""
        self._stages.answered_s = self._intake.clock.monotonic_s()
        report_message(
            envelope,
            body.size_bytes,
            (),
            (),
            (refusal,),
            self._stages,
            self._refused,
            skipped_count=0,
            known_as=identity(message_header(body), body),
            findings=self._findings,
        )
        return (refusal,) * (self._asked_count or len(self._recipients) if per_recipient else 1)

    def _trace_lines(self, envelope: Envelope) -> bytes:
        single = str(self._accepted[0].address) if len(self._accepted) == 1 else ""
        return trace_lines(
            envelope.id,
            envelope.client,
            hostname=self._intake.policy.hostname,
            recipient=single,
            wall_s=self._intake.clock.wall_s(),
        )

    def _envelope(self, protocol: str) -> Envelope:
        request = self._request
        return Envelope(
            id=self.id,
            client=replace(request.client, protocol=protocol),
            reverse_path=request.reverse_path,
            recipients=tuple((target.address, target.options) for target in self._accepted),
            arrived_s=self._arrived_s,
            body_type=request.body_type,
            smtputf8=request.smtputf8,
            ret=request.ret,
            envid=request.envid,
        )

    async def _keep(
        self,
        envelope: Envelope,
        body: BodyRef,
        traced: BodyRef,
        outcomes: Sequence[Fate],
        result: FanoutResult,
        decision: Decision,
    ) -> tuple[Reply, ...]:
        """Make durable what the decision says, before anybody hears of it."""
        if not decision.keep and not decision.notices and not result.superseded:
            return decision.replies
        pending = {index: attempt for attempt, indexes in result.pending for index in indexes}
        try:
            await self._intake.keeping.commit(
                envelope, traced, self._leaves, outcomes, decision, pending, result.superseded
            )
        except (Unavailable, OSError) as error:
            if isinstance(error, OSError):  # no memory or no descriptor for the body on its way to the keeper
                log.error("a message cannot be given to the queue", id=self.id, exc_info=error)
            return self._nothing_kept(body, outcomes, result, decision)
        self._settle_later(result)
        return decision.replies

    def _settle_later(self, result: FanoutResult) -> None:
        for attempt, indexes in result.pending:
            spawn(self._settle(attempt, indexes), name=f"settle {self.id}")

    def _nothing_kept(
        self, body: BodyRef, outcomes: Sequence[Fate], result: FanoutResult, decision: Decision
    ) -> tuple[Reply, ...]:
        """The queue could not commit: say 451 for what depends on it, and remember what was delivered all the same."""
        no_queue = reply(451, "4.3.0", _NO_QUEUE)
        replies: tuple[Reply, ...]
        if len(decision.replies) == 1:
            replies = (no_queue,) if decision.replies[0].is_positive else decision.replies
        else:
            replies = tuple(
                answer
                if all(isinstance(outcomes[i], Delivered) for i in indexes) or not answer.is_positive
                else no_queue
                for indexes, answer in zip(self._recipients, decision.replies, strict=True)
            )
        denied = (i for i in range(len(outcomes)) if not self._repetition.is_accepted(i, replies))
        sha256 = self._remember({i: outcomes[i] for i in denied}, body)
        for attempt, indexes in result.pending:
            spawn(self._remember_later(attempt, indexes, sha256), name=f"remember {self.id}")
        return replies

    def _remember(self, outcomes: Mapping[int, Fate], body: BodyRef) -> str:
        """Note who has the message although we deny it. Returns the body's hash, for what is learned later."""
        sha256 = body_sha256(body)
        self._repetition.remember(outcomes, sha256, self._intake.clock.wall_s())
        return sha256

    async def _remember_later(self, attempt: LmtpAttempt, indexes: tuple[int, ...], sha256: str) -> None:
        """The dot was sent before the deadline and nothing could be kept: the answer still tells what to skip."""
        outcomes = dict(zip(indexes, await attempt.result(), strict=True))
        self._repetition.remember(outcomes, sha256, self._intake.clock.wall_s())
        # The rows may have been committed, and only the answer was lost.
        if delivered := {index: each for index, each in outcomes.items() if isinstance(each, Delivered)}:
            await self._intake.queue.settle(self.id, delivered)

    async def _settle(self, attempt: LmtpAttempt, indexes: tuple[int, ...]) -> None:
        """Wait for the answer to a dot that was sent before the deadline, and write it into the rows."""
        outcomes = await attempt.result()
        await self._intake.queue.settle(self.id, dict(zip(indexes, outcomes, strict=True)))


_RCPT_OK = reply(250, "2.1.5", "recipient ok")
_COUNTED_AS = {
    "5.1.1": "unknown",
    "5.7.1": "relay_denied",
    "5.2.1": "suspended",
    "4.2.2": "over_quota",
    "4.4.3": "directory_unavailable",
    "4.5.3": "gate_shut",
    "4.3.5": "unserved",
}
"""The label of `mailfront_intake_recipients_total` for each reply to RCPT."""
