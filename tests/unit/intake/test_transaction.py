"""A 250 is said only after what it promises is durable; everything else that can happen is 4xx or the node's word."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.cluster.placement import Placement, Reason
from mailfront.intake.fanout import FanoutResult
from mailfront.intake.kept import Keeping
from mailfront.intake.leaves import Expanded, Leaf, Target
from mailfront.intake.transaction import Intake, IntakePolicy, Transaction
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef, MemoryBody
from mailfront.mail.client import ClientInfo
from mailfront.mail.envelope import NO_OPTIONS, Envelope, RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.mail.reply import Reply, reply
from mailfront.mail.request import MailRequest
from mailfront.observe import log
from mailfront.queue.dsn import NoticeKind
from mailfront.queue.port import HandoffCopy
from mailfront.queue.rows import QueuedMessage, QueuedRecipient, RecipientState

S1, S2 = NodeId("store1"), NodeId("store2")
DELIVERED = Delivered(S1, reply(250, "2.0.0", "saved"))
FULL = Deferred(Blame.MAILBOX, reply(452, "4.2.2", "over quota"), S1)
AWAY = Deferred(Blame.NODE, reply(451, "4.4.1", "store1 is away"), S1)
CLOSED = Failed(reply(550, "5.2.1", "mailbox closed"), S1)
LOST = Unknown(S1, "lost after the dot")
BODY = MemoryBody(b"Subject: x\r\n\r\nhello\r\n")


class ScriptedRecipients:
    """Everybody is accepted; who lives where is in the address: `ana.store1@`."""

    async def resolve(
        self, address: Address, options: RecipientOptions, sender: Address | None
    ) -> Target | Expanded | Reply:
        name, _, node = address.local.partition(".")
        home = NodeId(node or "store1")
        placement = Placement(home, (), 7, Reason.BUCKET)
        return Target(address, options, MailboxKey(f"{name}@example.edu"), NodeUser(name), placement)


class ScriptedFanout:
    """Gives the outcomes that the test wrote down, and notes what was asked."""

    def __init__(self, outcomes: Sequence[Outcome], superseded: Sequence[tuple[NodeId, NodeId]] = ()) -> None:
        self.outcomes = list(outcomes)
        self.superseded = list(superseded)
        self.wanted: list[tuple[int, ...]] = []
        self.envelopes: list[Envelope] = []

    async def run(
        self,
        envelope: Any,
        body: BodyRef,
        leaves: Sequence[Leaf],
        wanted: Sequence[int],
        deadline_s: float,
        *,
        hand_off: bool,
    ) -> FanoutResult:
        self.wanted.append(tuple(wanted))
        self.envelopes.append(envelope)
        return FanoutResult(outcomes=self.outcomes, superseded=self.superseded)


class NotedQueue:
    """A queue that keeps or refuses, and notes what it was given."""

    def __init__(self, *, works: bool = True, is_open: bool = True) -> None:
        self.works = works
        self.is_open = is_open
        self.rows: list[QueuedRecipient] = []
        self.messages: list[QueuedMessage] = []
        self.refused: list[QueuedRecipient] = []
        self.superseded: list[tuple[NodeId, NodeId]] = []

    def gate_is_open(self, size_bytes: int) -> bool:
        return self.is_open

    async def accept(
        self,
        message: QueuedMessage,
        body: BodyRef,
        recipients: Sequence[QueuedRecipient],
        hints_superseded: Sequence[tuple[NodeId, NodeId]] = (),
        refused: Sequence[QueuedRecipient] = (),
        told: Sequence[tuple[QueuedRecipient, NoticeKind]] = (),
    ) -> None:
        if not self.works:
            raise Unavailable("disk full")
        self.rows += recipients
        self.messages.append(message)
        self.refused += refused
        self.superseded += hints_superseded

    async def settle(
        self,
        message_id: MessageId,
        outcomes: Mapping[int, Outcome],
        *,
        withdrawn: Collection[int] = (),
    ) -> None:
        raise AssertionError("nothing is pending in these tests")

    async def hint_begin(self, copy: HandoffCopy, holder: NodeId) -> None:
        raise AssertionError("the scripted fan-out hands nothing off")

    async def hints_superseded(self, message_id: MessageId, places: Sequence[tuple[NodeId, NodeId]]) -> None:
        if not self.works:
            raise Unavailable("disk full")
        self.superseded += places


def intake_of(fanout: ScriptedFanout, queue: NotedQueue, max_received: int = 50) -> Intake:
    clock = ManualClock()
    return Intake(
        ScriptedRecipients(),  # type: ignore[arg-type]  # the part of Recipients that intake uses
        fanout,  # type: ignore[arg-type]  # likewise
        queue,
        Keeping(queue, clock, first_retry_s=60.0, lifetime_s=86400.0),
        IntakePolicy(hostname="mx1.example.edu", deadline_s=30.0, max_received=max_received),
        clock,
    )


async def begun(intake: Intake, *locals_: str) -> Transaction:
    request = MailRequest(client=ClientInfo(ip="192.0.2.1", port=1), reverse_path=Address("a", "example.org"))
    transaction = intake.begin(request)
    assert isinstance(transaction, Transaction)
    for local in locals_:
        answer = await transaction.rcpt(Address(local, "example.edu"), NO_OPTIONS)
        assert answer.is_positive
    return transaction


async def answers_of(
    intake: Intake, *locals_: str, per_recipient: bool = False, body: BodyRef = BODY
) -> tuple[str, ...]:
    transaction = await begun(intake, *locals_)
    replies = await transaction.commit(body, protocol="ESMTP", per_recipient=per_recipient)
    return tuple(str(answer).replace(transaction.id, "ID") for answer in replies)


@pytest.mark.parametrize(
    ("outcomes", "answer", "states"),
    [
        ([DELIVERED, DELIVERED], "250 2.0.0 ID delivered", []),
        ([CLOSED, CLOSED], "550 5.2.1 mailbox closed", []),
        ([FULL, FULL], "452 4.2.2 over quota", []),
        ([DELIVERED, FULL], "250 2.0.0 ID queued", [RecipientState.WAITING]),
        ([AWAY, AWAY], "250 2.0.0 ID queued", [RecipientState.WAITING, RecipientState.WAITING]),
        ([FULL, AWAY], "250 2.0.0 ID queued", [RecipientState.WAITING, RecipientState.WAITING]),
        ([DELIVERED, CLOSED], "250 2.0.0 ID queued", []),
        ([LOST, DELIVERED], "250 2.0.0 ID queued", [RecipientState.UNKNOWN]),
        ([HandedOff(S2, S1), DELIVERED], "250 2.0.0 ID queued", []),
    ],
)
async def test_what_is_promised_is_kept_first(
    outcomes: list[Outcome], answer: str, states: list[RecipientState]
) -> None:
    """The reply follows the fold, and each row has the state that its outcome asks for."""
    queue = NotedQueue()
    assert await answers_of(intake_of(ScriptedFanout(outcomes), queue), "ana", "bob") == (answer,)
    assert [row.state for row in queue.rows] == states


async def test_a_queue_that_cannot_commit_makes_it_451_and_the_delivered_are_skipped_next_time() -> None:
    """No 250 without a commit; when the client sends the same again, nobody gets it twice."""
    fanout, queue = ScriptedFanout([DELIVERED, AWAY]), NotedQueue(works=False)
    intake = intake_of(fanout, queue)
    (answer,) = await answers_of(intake, "ana", "bob")
    assert answer.startswith("451 4.3.0")
    queue.works = True
    assert await answers_of(intake, "ana", "bob") == ("250 2.0.0 ID queued",)
    assert fanout.wanted == [(0, 1), (1,)]
    assert [row.number for row in queue.rows] == [1]


async def test_only_the_repetition_is_skipped() -> None:
    """A program that sends the same bytes again and again gets each of them delivered, but for the one repetition."""
    fanout, queue = ScriptedFanout([DELIVERED, AWAY]), NotedQueue(works=False)
    intake = intake_of(fanout, queue)
    await answers_of(intake, "ana", "bob")
    await answers_of(intake, "ana", "bob")
    queue.works = True
    await answers_of(intake, "ana", "bob")
    await answers_of(intake, "ana", "bob")
    assert fanout.wanted == [(0, 1), (1,), (1,), (0, 1)]


async def test_lmtp_remembers_only_what_it_denied() -> None:
    """A recipient that was answered 250 is not sent again, so its next message is a new one."""
    fanout, queue = ScriptedFanout([DELIVERED, HandedOff(S2, S1)]), NotedQueue(works=False)
    fanout.superseded = [(NodeId("store3"), S1)]
    intake = intake_of(fanout, queue)
    first, second = await answers_of(intake, "ana", "bob", per_recipient=True)
    assert first == "250 2.0.0 ID delivered"
    assert second.startswith("451 4.3.0")
    queue.works = True
    await answers_of(intake, "ana", "bob", per_recipient=True)
    assert fanout.wanted == [(0, 1), (0,)]


async def test_a_queue_that_cannot_take_the_body_is_a_queue_that_cannot_commit() -> None:
    """Out of descriptors or memory: 451, and what was delivered is skipped next time."""

    class OutOfDescriptors(NotedQueue):
        async def accept(self, *args: Any, **kwargs: Any) -> None:
            raise OSError(24, "Too many open files")

    fanout = ScriptedFanout([DELIVERED, AWAY])
    intake = intake_of(fanout, OutOfDescriptors())
    (answer,) = await answers_of(intake, "ana", "bob")
    assert answer.startswith("451 4.3.0")
    await answers_of(intake, "ana", "bob")
    assert fanout.wanted == [(0, 1), (1,)]


async def test_two_people_with_one_name_on_two_nodes_are_two_mailboxes() -> None:
    """Where domains have namespaces of their own, the same node user on another node is somebody else."""
    fanout = ScriptedFanout([DELIVERED, DELIVERED])
    assert await answers_of(intake_of(fanout, NotedQueue()), "ana.store1", "ana.store2") == ("250 2.0.0 ID delivered",)
    assert fanout.wanted == [(0, 1)]


async def test_lmtp_answers_each_recipient_for_itself_when_the_queue_is_away() -> None:
    """Only what needed the queue is 451; what was delivered or refused keeps its own answer."""
    intake = intake_of(ScriptedFanout([DELIVERED, AWAY, CLOSED]), NotedQueue(works=False))
    first, second, third = await answers_of(intake, "ana", "bob", "eve", per_recipient=True)
    assert first == "250 2.0.0 ID delivered"
    assert second.startswith("451 4.3.0")
    assert third == "550 5.2.1 mailbox closed"


async def test_two_addresses_of_one_mailbox_get_one_copy() -> None:
    """RCPTs that lead to the same mailbox share its outcome."""
    fanout = ScriptedFanout([DELIVERED])
    intake = intake_of(fanout, NotedQueue())
    replies = await answers_of(intake, "ana", "ana", per_recipient=True)
    assert replies == ("250 2.0.0 ID delivered",) * 2
    assert fanout.wanted == [(0,)]


async def test_refused_recipients_are_told_to_the_log() -> None:
    """Why was my mail refused? The line of the transaction names the address and the reply, with or without data."""

    class Refusing(ScriptedRecipients):
        async def resolve(
            self, address: Address, options: RecipientOptions, sender: Address | None
        ) -> Target | Expanded | Reply:
            if address.local == "nobody":
                return reply(550, "5.1.1", "no such mailbox")
            return await super().resolve(address, options, sender)

    intake = intake_of(ScriptedFanout([DELIVERED]), NotedQueue())
    intake.recipients = Refusing()  # type: ignore[assignment]  # the part of Recipients that intake uses
    told: list[dict[str, Any]] = []
    with log.listening(told.append):
        transaction = await begun(intake)
        await transaction.rcpt(Address("nobody", "example.edu"), NO_OPTIONS)
        transaction.abandon()
        transaction = await begun(intake, "ana")
        await transaction.rcpt(Address("nobody", "example.edu"), NO_OPTIONS)
        await transaction.commit(BODY, protocol="ESMTP", per_recipient=False)
        (await begun(intake, "ana")).abandon()
    assert [line["result"] for line in told] == ["rejected", "delivered"]
    refusal = {"address": "nobody@example.edu", "outcome": "refused", "reply": "550 5.1.1 no such mailbox"}
    assert all(refusal in line["recipients"] for line in told)


async def test_a_second_node_needs_an_open_gate() -> None:
    """With the gate shut, mailboxes of the first recipient's node go on, others are 451 4.5.3."""
    intake = intake_of(ScriptedFanout([DELIVERED, DELIVERED]), NotedQueue(is_open=False))
    transaction = await begun(intake, "ana.store1", "bob.store1")
    answer = await transaction.rcpt(Address("eve.store2", "example.edu"), NO_OPTIONS)
    assert str(answer).startswith("451 4.5.3")
    (final,) = await transaction.commit(BODY, protocol="ESMTP", per_recipient=False)
    assert final.is_positive


async def test_a_gate_that_shuts_before_the_fan_out_stops_it() -> None:
    """Nothing is delivered to several nodes while the rest could not be kept."""
    fanout, queue = ScriptedFanout([DELIVERED, DELIVERED]), NotedQueue()
    transaction = await begun(intake_of(fanout, queue), "ana.store1", "bob.store2")
    queue.is_open = False
    (answer,) = await transaction.commit(BODY, protocol="ESMTP", per_recipient=False)
    assert str(answer).startswith("451 4.3.0")
    assert fanout.wanted == []


async def test_a_loop_ends() -> None:
    """More Received lines than allowed: 554 5.4.6, and nothing is tried."""
    fanout = ScriptedFanout([DELIVERED])
    body = MemoryBody(b"Received: x\r\n" * 4 + b"\r\n")
    intake = intake_of(fanout, NotedQueue(), max_received=3)
    (answer,) = await answers_of(intake, "ana", body=body)
    assert answer.startswith("554 5.4.6")
    assert fanout.wanted == []


async def test_copies_that_a_secondary_may_have_are_superseded_with_the_rows() -> None:
    """What the queue takes over, no handoff mailbox may bring home as well."""
    queue = NotedQueue()
    await answers_of(intake_of(ScriptedFanout([AWAY], superseded=[(S2, S1)]), queue), "ana")
    assert queue.superseded == [(S2, S1)]
    assert len(queue.rows) == 1


async def test_a_copy_at_one_secondary_supersedes_a_doubtful_one_at_another() -> None:
    """Without rows to keep the end of the doubtful hint is still committed before the 250."""
    outcomes: list[Outcome] = [HandedOff(S2, S1)]
    queue = NotedQueue()
    intake = intake_of(ScriptedFanout(outcomes, superseded=[(NodeId("store3"), S1)]), queue)
    assert await answers_of(intake, "ana") == ("250 2.0.0 ID queued",)
    assert queue.superseded == [("store3", S1)]
    broken = intake_of(ScriptedFanout(outcomes, superseded=[(NodeId("store3"), S1)]), NotedQueue(works=False))
    (answer,) = await answers_of(broken, "ana")
    assert answer.startswith("451 4.3.0")
