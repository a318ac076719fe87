"""What surely needs the queue is committed before the fan-out, and each row ends as its outcome says."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.cluster.placement import Placement, Reason
from mailfront.intake.fanout import FanoutResult
from mailfront.intake.kept import Keeping
from mailfront.intake.leaves import Expanded, HopLeaf, Leaf, Target
from mailfront.intake.transaction import Intake, IntakePolicy, Transaction
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef, MemoryBody
from mailfront.mail.client import ClientInfo
from mailfront.mail.envelope import NO_OPTIONS, RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.next_hop import RELAY, next_hop_key
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Outcome
from mailfront.mail.reply import Reply, reply
from mailfront.mail.request import MailRequest
from mailfront.queue.dsn import NoticeKind
from mailfront.queue.port import HandoffCopy
from mailfront.queue.rows import QueuedMessage, QueuedRecipient, RecipientState

S1 = NodeId("store1")
DONE = Delivered(S1, reply(250, "2.0.0", "saved"))
FULL = Deferred(Blame.MAILBOX, reply(452, "4.2.2", "over quota"), S1)
CLOSED = Failed(reply(550, "5.2.1", "mailbox closed"), S1)
BODY = MemoryBody(b"Subject: x\r\n\r\nhello\r\n")
CAME_BACK = MemoryBody(b"Delivered-To: Copy@example.edu\r\nDelivered-To: <away@example.edu>\r\n\r\nhello\r\n")
SUCCESS = RecipientOptions(notify="SUCCESS")


def mailbox(name: str, options: RecipientOptions = NO_OPTIONS, **changes: Any) -> Target:
    """A mailbox on store1."""
    placement = Placement(S1, (), 7, Reason.BUCKET)
    return Target(
        Address(name, "example.edu"), options, MailboxKey(f"{name}@example.edu"), NodeUser(name), placement, **changes
    )


def outside(name: str, via: str) -> HopLeaf:
    """An address behind the smarthost."""
    return HopLeaf(address=Address(name, "out.example"), options=NO_OPTIONS, hop=RELAY, via=f"{via}@example.edu")


class Scripted:
    """`away` goes outside, `copy` too but keeps one, `list` has three members of an owner, everybody else is plain."""

    async def resolve(
        self, address: Address, options: RecipientOptions, sender: Address | None
    ) -> Target | Expanded | Reply:
        leaves: Sequence[Leaf] = ()
        success = None
        if address.local == "away":
            leaves = (outside("friend", "away"),)
        elif address.local == "copy":
            leaves = (mailbox("copy"), outside("mate", "copy"))
        elif address.local == "list":
            how: dict[str, Any] = {"via": "list@example.edu", "list_owner": "boss@example.edu", "through_queue": True}
            leaves, success = tuple(mailbox(name, **how) for name in ("m1", "m2", "m3")), NoticeKind.DELIVERED
        else:
            return mailbox(address.local, options)
        return Expanded(address=address, options=options, leaves=leaves, success=success)


class Fanout:
    """Gives the outcome of each node user; everything else is untried. Notes what was committed before it ran."""

    def __init__(self, queue: "Queue", outcomes: Mapping[str, Outcome]) -> None:
        self._queue = queue
        self._outcomes = outcomes
        self.states_before: dict[str, RecipientState] = {}
        self.tried: list[str] = []

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
        self.states_before = {row.node_user: row.state for row in self._queue.rows}
        self.tried = [leaves[index].node_user for index in wanted]
        waiting = Deferred(Blame.NODE, reply(451, "4.0.0", "waits"), None)
        return FanoutResult(outcomes=[self._outcomes.get(leaf.node_user, waiting) for leaf in leaves])


class Queue:
    """Notes everything."""

    def __init__(self, *, works: bool = True, is_open: bool = True) -> None:
        self.works = works
        self.is_open = is_open
        self.rows: list[QueuedRecipient] = []
        self.refused: list[QueuedRecipient] = []
        self.told: list[tuple[str, NoticeKind]] = []
        self.settled: dict[str, Outcome] = {}
        self.withdrawn: set[str] = set()

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
        self.refused += refused
        self.told += [(row.address, kind) for row, kind in told]

    async def settle(
        self,
        message_id: MessageId,
        outcomes: Mapping[int, Outcome],
        *,
        withdrawn: Collection[int] = (),
    ) -> None:
        users = {row.number: row.node_user for row in self.rows}
        self.settled.update({users[number]: outcome for number, outcome in outcomes.items()})
        self.withdrawn.update(users[number] for number in withdrawn)

    async def hint_begin(self, copy: HandoffCopy, holder: NodeId) -> None:
        raise AssertionError("nothing is handed off here")

    async def hints_superseded(self, message_id: MessageId, places: Sequence[tuple[NodeId, NodeId]]) -> None:
        raise AssertionError("settle carries them")


class Case:
    """One intake, its queue and its fan-out."""

    def __init__(self, outcomes: Mapping[str, Outcome] | None = None, **queue: bool) -> None:
        self.queue = Queue(**queue)
        self.fanout = Fanout(self.queue, outcomes or {})
        clock = ManualClock()
        self.intake = Intake(
            Scripted(),  # type: ignore[arg-type]  # the part of Recipients that intake uses
            self.fanout,  # type: ignore[arg-type]  # likewise
            self.queue,
            Keeping(self.queue, clock, first_retry_s=60.0, lifetime_s=86400.0),
            IntakePolicy(hostname="mx1.example.edu", deadline_s=30.0, max_received=50),
            clock,
        )

    async def send(
        self, *names: str, options: RecipientOptions = NO_OPTIONS, body: BodyRef = BODY, per_recipient: bool = False
    ) -> tuple[str, ...]:
        """Say RCPT for each, then the data. Returns the replies to the data."""
        request = MailRequest(client=ClientInfo(ip="192.0.2.1", port=1), reverse_path=Address("a", "example.org"))
        transaction = self.intake.begin(request)
        assert isinstance(transaction, Transaction)
        for name in names:
            assert (await transaction.rcpt(Address(name, "example.edu"), options)).is_positive
        replies = await transaction.commit(body, protocol="ESMTP", per_recipient=per_recipient)
        return tuple(str(answer).replace(transaction.id, "ID") for answer in replies)


async def test_a_forward_with_a_copy_is_committed_whole_before_anything_is_delivered() -> None:
    """The copy's row is active at its home, the other one waits; what is delivered is settled; it is one message."""
    case = Case({"copy": DONE})
    assert await case.send("copy") == ("250 2.0.0 ID queued",)
    assert case.fanout.states_before == {"copy": RecipientState.ACTIVE, "mate@out.example": RecipientState.WAITING}
    active, waiting = case.queue.rows
    assert (active.node, active.attempts, active.via) == (S1, 1, "")
    assert (waiting.mailbox_key, waiting.attempts, waiting.via) == (next_hop_key(RELAY), 0, "copy@example.edu")
    assert case.queue.settled == {"copy": DONE}
    assert case.queue.withdrawn == set()


async def test_nothing_is_delivered_if_the_queue_cannot_commit() -> None:
    """451, and nobody has a copy: the client sends all of it again."""
    case = Case({"copy": DONE}, works=False)
    (answer,) = await case.send("copy")
    assert answer.startswith("451 4.3.0")
    assert case.fanout.tried == []


@pytest.mark.parametrize(("name", "options"), [("away", NO_OPTIONS), ("copy", NO_OPTIONS), ("ana", SUCCESS)])
async def test_what_needs_the_queue_is_refused_at_rcpt_while_its_gate_is_shut(
    name: str, options: RecipientOptions
) -> None:
    """451 for that recipient; one that does not need the queue is still taken."""
    case = Case(is_open=False)
    transaction = case.intake.begin(MailRequest(client=ClientInfo(ip="", port=1), reverse_path=None))
    assert isinstance(transaction, Transaction)
    assert (await transaction.rcpt(Address("ben", "example.edu"), NO_OPTIONS)).is_positive
    assert (await transaction.rcpt(Address(name, "example.edu"), options)).code == 451


async def test_a_list_waits_in_the_queue_with_its_owner() -> None:
    """Over a hundred: nobody is tried while the client waits; the sender who asked hears that it arrived."""
    case = Case()
    assert await case.send("list", options=SUCCESS) == ("250 2.0.0 ID queued",)
    assert case.fanout.tried == []
    assert {(row.state, row.list_owner) for row in case.queue.rows} == {(RecipientState.WAITING, "boss@example.edu")}
    assert case.queue.told == [("list@example.edu", NoticeKind.DELIVERED)]
    assert case.queue.settled == {}


@pytest.mark.parametrize(("outcome", "answer"), [(CLOSED, "550 5.2.1 mailbox closed"), (FULL, "452 4.2.2 over quota")])
async def test_a_refusal_that_the_client_hears_ends_its_row_in_silence(outcome: Outcome, answer: str) -> None:
    """A sender who asked to hear of success is refused while he waits: no notice, no second try."""
    case = Case({"ana": outcome})
    assert await case.send("ana", options=SUCCESS) == (answer,)
    assert case.queue.withdrawn == {"ana"}


async def test_a_refusal_that_the_client_does_not_hear_is_told_by_a_notice() -> None:
    """The message as a whole is accepted: SMTP has one reply."""
    case = Case({"ana": CLOSED, "ben": DONE})
    assert await case.send("ana", "ben", "away") == ("250 2.0.0 ID queued",)
    assert case.queue.withdrawn == set()
    assert case.queue.settled == {"ana": CLOSED, "ben": DONE}


async def test_lmtp_withdraws_only_what_was_refused_to_the_client() -> None:
    """Each recipient has its own reply; the refused one ends without a notice, the others stay promised."""
    case = Case({"ana": CLOSED, "ben": FULL, "copy": DONE})
    replies = await case.send("ana", "ben", "copy", per_recipient=True)
    assert replies == ("550 5.2.1 mailbox closed", "452 4.2.2 over quota", "250 2.0.0 ID queued")
    assert case.queue.withdrawn == {"ana", "ben"}


async def test_a_forward_that_sent_it_out_before_does_not_send_it_again() -> None:
    """Delivered-To names it: with a copy at home the round ends there in silence, without one it is 554."""
    case = Case({"copy": DONE})
    assert await case.send("copy", body=CAME_BACK) == ("250 2.0.0 ID delivered",)
    assert [row.node_user for row in case.queue.rows] == ["copy"]
    assert (await Case().send("away", body=CAME_BACK))[0].startswith("554 5.4.6")


async def test_a_loop_beside_other_recipients_is_told_by_a_notice_or_by_lmtp_itself() -> None:
    """SMTP accepts the rest, so the sender hears of it by mail; LMTP says it to that recipient."""
    case = Case({"ana": DONE})
    assert await case.send("ana", "away", body=CAME_BACK) == ("250 2.0.0 ID queued",)
    assert [row.node_user for row in case.queue.refused] == ["friend@out.example"]
    case = Case({"ana": DONE})
    first, second = await case.send("ana", "away", body=CAME_BACK, per_recipient=True)
    assert (first, second[:9]) == ("250 2.0.0 ID delivered", "554 5.4.6")
    assert case.queue.refused == []


async def test_a_success_notice_is_the_queues_task_for_a_cut_through_delivery_too() -> None:
    """The row is settled as delivered with the sender's wish in it: `settle` writes the notice with its end."""
    case = Case({"ana": DONE})
    assert await case.send("ana", options=SUCCESS) == ("250 2.0.0 ID delivered",)
    (row,) = case.queue.rows
    assert row.options == SUCCESS
    assert case.queue.settled == {"ana": DONE}


async def test_who_is_reached_twice_gets_one_copy() -> None:
    """Named by the client and by a forward: one row, one delivery."""
    case = Case({"copy": DONE})
    await case.send("copy", "copy", "copy")
    assert [row.node_user for row in case.queue.rows] == ["copy", "mate@out.example"]
    assert case.fanout.tried == ["copy"]
