"""One attempt to deliver one message to the mailboxes of one node, from the wait for a connection to the last answer.

    WAITING -> CONNECTING -> SENDING -> DOTTED -> DONE

An attempt runs in a task of its own and ends by itself: every wait has a limit (`delivery.settings`). Whoever asks for
the result may go away; the attempt goes on. Up to the final dot it can be stopped, afterwards only the node's answer,
its silence for `final_timeout` or the loss of the connection ends it. Trouble never raises: it becomes outcomes, as
`trouble` decides. `before_dot` is awaited once, when all is ready for the final dot (a small body is then still here);
if it raises, no dot is sent.

Each attempt ends with one `delivery` event. A crash of this process loses the attempt: past the dot its outcome is
unknown, which its owner must have written down before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mailfront.base.errors import LocalProtocolError, Unavailable
from mailfront.base.printable import printable
from mailfront.base.tasks import spawn
from mailfront.delivery.attempt_record import AttemptRecord, describe
from mailfront.delivery.connection import LmtpConnection, PeerTrouble
from mailfront.delivery.evidence import EvidenceSink
from mailfront.delivery.message import LmtpTransaction, Phase
from mailfront.delivery.pool import LmtpPool
from mailfront.delivery.settings import DeliverySettings
from mailfront.delivery.trouble import (
    Authority,
    Cause,
    Evidence,
    Ruling,
    Stage,
    Trouble,
    judge_reply,
    judge_trouble,
    try_fresh,
)
from mailfront.mail.envelope import BodyType
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Deferred, Failed, Outcome
from mailfront.mail.reply import Reply, reply
from mailfront.observe import log
from mailfront.protocol.lmtp import Extensions, LmtpEnvelope

BLAME_AFTER_S = 5.0
"""A node that has kept us waiting this long when an attempt is stopped is counted as having failed it."""

_log = log.get("delivery")


class LmtpAttempt:
    """A running attempt. Made by `Delivery.start`."""

    __slots__ = (
        "_authority",
        "_before_dot",
        "_connection",
        "_evidence",
        "_pool",
        "_record",
        "_settings",
        "_slot_wait_s",
        "_started",
        "_stop_trouble",
        "_transaction",
        "had_no_slot",
        "node",
        "phase",
        "task",
    )

    def __init__(
        self,
        node: NodeId,
        transaction: LmtpTransaction,
        pool: LmtpPool | None,
        *,
        settings: DeliverySettings,
        authority: Authority,
        evidence: EvidenceSink,
        record: AttemptRecord,
        slot_wait_s: float,
        before_dot: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.node = node
        self.phase = Phase.WAITING
        self.had_no_slot = False
        """Whether it ended because no connection to the node was free in time: the node is busy, not away."""
        self._transaction = transaction
        self._pool = pool
        self._settings = settings
        self._authority = authority
        self._evidence = evidence
        self._record = record
        self._slot_wait_s = slot_wait_s
        self._before_dot = before_dot
        self._connection: LmtpConnection | None = None
        self._started = False
        self._stop_trouble: Trouble | None = None
        self.task = spawn(self._run(), name=f"delivery {transaction.id} {node}")

    async def result(self) -> tuple[Outcome, ...]:
        """Wait for the outcomes, one per recipient, in order. Safe to cancel; the attempt goes on."""
        return self.task.result() if self.task.done() else await asyncio.shield(self.task)

    def when_done(self, callback: "Callable[[LmtpAttempt], None]") -> None:
        """Call back when the result is there."""
        self.task.add_done_callback(lambda _: callback(self))

    def abort(self, reason: str) -> bool:
        """Stop before the final dot. True: stopped, or ended already; `result` comes at once. False: the dot is sent,
        the attempt goes on."""
        if self.phase is Phase.DOTTED:
            return False
        if not self.task.done() and self._stop_trouble is None:
            waited_s = self._record.waited_for_node_s()
            cause = Cause.TOO_SLOW if waited_s >= BLAME_AFTER_S else Cause.STOPPED
            self._stop_trouble = Trouble(self._stage, cause, reason)
            if self._started:
                self.task.cancel()
        return True

    def drop(self, reason: str) -> None:
        """Stop in any phase, because this process ends. Past the final dot the outcome is then unknown."""
        if not self.abort(reason) and self._connection is not None:
            self._connection.abort(Trouble(Stage.FINAL, Cause.STOPPED, reason))

    @property
    def _stage(self) -> Stage:
        if self.phase is Phase.WAITING:
            return Stage.SLOT
        return Stage.CONNECT if self._connection is None else self._connection.stage

    async def _run(self) -> tuple[Outcome, ...]:
        self._started = True
        slot_is_ours = False
        try:
            if self._stop_trouble is not None:
                raise PeerTrouble(self._stop_trouble)
            if self._pool is None:
                raise PeerTrouble(Trouble(Stage.SLOT, Cause.LOCAL, "the node is not in the configuration"))
            if not self._pool.try_slot():
                await self._pool.acquire_slot(self._slot_wait_s)
            slot_is_ours = True
            rulings = await self._deliver(self._pool)
        except PeerTrouble as error:
            self.had_no_slot = error.trouble.cause is Cause.NO_SLOT
            rulings = self._all(error.trouble)
        except asyncio.CancelledError:
            if self._stop_trouble is None:
                self._give_up(Trouble(self._stage, Cause.STOPPED, "this process ends"))
                raise
            self._give_up(self._stop_trouble)
            rulings = self._all(self._stop_trouble)
        except Exception as error:
            rulings = self._all(self._own_fault(error))
        finally:
            if slot_is_ours and self._pool is not None:
                self._pool.release(self._connection)
        self._tell(rulings)
        return tuple([ruling.outcome for ruling in rulings])

    async def _deliver(self, pool: LmtpPool) -> Sequence[Ruling]:
        record = self._record
        while True:
            self.phase = Phase.CONNECTING
            record.slot_taken()
            self._connection, reused = await pool.connection(fresh=record.retried)
            record.connected(self._connection.tls, reused=reused)
            self.phase = Phase.SENDING
            try:
                return await self._transact(self._connection)
            except PeerTrouble as error:
                if record.retried or not try_fresh(error.trouble, reused=reused):
                    raise
                record.retried = True
                self._connection = None

    async def _transact(self, connection: LmtpConnection) -> Sequence[Ruling]:
        """The dialogue. Raises PeerTrouble only before the final dot."""
        settings, recipients = self._settings, self._transaction.recipients
        rulings: dict[int, Ruling] = self._unsendable(connection.extensions)
        sent = [index for index in range(len(recipients)) if index not in rulings]
        if not sent:
            return self._complete(rulings)
        answered = await connection.envelope(self._envelope(sent), settings.reply_timeout)
        self._record.envelope_answered()
        if not answered.mail.is_positive:
            ruling = self._judge(Stage.MAIL, answered.mail)
            return self._complete(rulings | dict.fromkeys(sent, ruling))
        accepted = []
        for index, answer in zip(sent, answered.recipients, strict=True):
            if answer.is_positive:
                accepted.append(index)
            else:
                rulings[index] = self._judge(Stage.RCPT, answer)
        if not answered.go:
            if accepted and answered.data is not None:
                rulings |= dict.fromkeys(accepted, self._judge(Stage.DATA, answered.data))
            return self._complete(rulings)
        await connection.send_body(self._transaction.body, settings.body_timeout)
        await self._commit_before_dot()
        self._send_dot(connection)
        for position, answer in await connection.finals():
            rulings[sent[position]] = self._judge(Stage.FINAL, answer)
        self._record.answered()
        if len(rulings) < len(recipients):
            assert connection.trouble is not None
            lost = judge_trouble(connection.trouble, self.node)
            rulings |= {index: lost for index in accepted if index not in rulings}
        return self._complete(rulings)

    def _judge(self, stage: Stage, answer: Reply) -> Ruling:
        return judge_reply(stage, answer, self.node, self._authority)

    def _send_dot(self, connection: LmtpConnection) -> None:
        self._record.body_sent()
        connection.send_dot(self._settings.final_timeout)
        self.phase = Phase.DOTTED

    async def _commit_before_dot(self) -> None:
        before_dot, self._before_dot = self._before_dot, None
        if before_dot is not None:
            async with asyncio.timeout(self._settings.body_timeout):
                await before_dot()

    def _envelope(self, sent: Sequence[int]) -> LmtpEnvelope:
        transaction = self._transaction
        chosen = [transaction.recipients[index] for index in sent]
        return LmtpEnvelope(
            reverse_path="" if transaction.reverse_path is None else str(transaction.reverse_path),
            recipients=[(recipient.node_user, recipient.options) for recipient in chosen],
            size_bytes=transaction.body.size_bytes,
            body_type=transaction.body_type,
            smtputf8=transaction.smtputf8,
            ret=transaction.ret,
            envid=transaction.envid,
        )

    def _unsendable(self, offered: Extensions) -> dict[int, Ruling]:
        """What this node cannot take by what its LHLO offers: a permanent failure of ours, by name."""
        transaction = self._transaction
        recipients = transaction.recipients
        if self._settings.strict_8bit and transaction.body_type is BodyType.EIGHTBITMIME and not offered.eightbitmime:
            return dict.fromkeys(range(len(recipients)), self._refusal("5.6.3", "no 8-bit mail"))
        if offered.smtputf8:
            return {}
        if transaction.reverse_path is None or transaction.reverse_path.is_ascii:
            unsendable = [index for index, recipient in enumerate(recipients) if not recipient.node_user.isascii()]
        else:
            unsendable = list(range(len(recipients)))
        return dict.fromkeys(unsendable, self._refusal("5.6.7", "no internationalized addresses")) if unsendable else {}

    def _refusal(self, enhanced: str, what: str) -> Ruling:
        return Ruling(Failed(reply(550, enhanced, f"{self.node} takes {what}"), self.node), Evidence.NONE)

    def _complete(self, rulings: dict[int, Ruling]) -> list[Ruling]:
        return [rulings[index] for index in range(len(self._transaction.recipients))]

    def _all(self, trouble: Trouble) -> list[Ruling]:
        return [judge_trouble(trouble, self.node)] * len(self._transaction.recipients)

    def _give_up(self, trouble: Trouble) -> None:
        if self._connection is not None:
            self._connection.abort(trouble)

    def _own_fault(self, error: Exception) -> Trouble:
        """An exception that is no word of the node: close, and say what is safe to say."""
        dotted = self.phase is Phase.DOTTED
        if isinstance(error, LocalProtocolError) and not dotted:
            _log.error(
                "a message cannot be written as LMTP", node=self.node, id=self._transaction.id, reason=str(error)
            )
        elif isinstance(error, Unavailable | TimeoutError) and not dotted:
            _log.warning(
                "nothing sent: what must come first failed", node=self.node, id=self._transaction.id, exc_info=error
            )
        else:
            _log.error(
                "a delivery attempt failed by our fault", node=self.node, id=self._transaction.id, exc_info=error
            )
        text = printable(str(error)) if isinstance(error, LocalProtocolError | Unavailable) else "internal error"
        cause = Cause.UNSENDABLE if isinstance(error, LocalProtocolError) and not dotted else Cause.LOCAL
        trouble = Trouble(Stage.FINAL if dotted else self._stage, cause, text)
        self._give_up(trouble)
        return trouble

    def _tell(self, rulings: Sequence[Ruling]) -> None:
        stopped = self._stop_trouble is not None
        self._record.ended(self.node, self._transaction, rulings, phase=self.phase, stopped=stopped)
        self._give_evidence(rulings)
        self.phase = Phase.DONE

    def _give_evidence(self, rulings: Sequence[Ruling]) -> None:
        """Tell the judge of nodes: each kind once per message, an unknown user once per mailbox."""
        sink, node, message = self._evidence, self.node, self._transaction.id
        if len(rulings) == 1 and rulings[0].evidence is Evidence.SUCCEEDED:
            sink.succeeded(node)
            return
        told: set[Evidence] = set()
        alarms: set[str] = set()
        for recipient, ruling in zip(self._transaction.recipients, rulings, strict=True):
            kind, outcome = ruling.evidence, ruling.outcome
            if kind is Evidence.UNKNOWN_USER:
                sink.unknown_user(node, recipient.node_user)
                continue
            if isinstance(outcome, Deferred) and outcome.alarm and outcome.alarm not in alarms:
                alarms.add(outcome.alarm)
                sink.alarm(node, message, outcome.alarm)
            if kind not in told:
                told.add(kind)
                if kind is Evidence.SUCCEEDED:
                    sink.succeeded(node)
                elif kind is Evidence.CONNECT_FAILED:
                    sink.connect_failed(node, describe(outcome))
                elif kind is Evidence.MESSAGE_FAILED:
                    sink.message_failed(node, message, describe(outcome))
