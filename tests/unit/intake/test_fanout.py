"""Where copies go when homes are away, and what is said of them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from mailfront.base.ids import MessageId
from mailfront.base.secret import Secret
from mailfront.base.tasks import spawn
from mailfront.cluster.placement import Placement, Reason
from mailfront.delivery.transaction import LmtpTransaction
from mailfront.directory.answers import DirectoryRecord
from mailfront.intake.fanout import Fanout, FanoutResult, HandoffPlan
from mailfront.intake.leaves import Target
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef, MemoryBody
from mailfront.mail.client import ClientInfo
from mailfront.mail.envelope import NO_OPTIONS, BodyType, Envelope
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.outcome import Blame, Deferred, Delivered, HandedOff, Outcome
from mailfront.mail.reply import reply
from mailfront.queue.dsn import NoticeKind
from mailfront.queue.port import HandoffCopy
from mailfront.queue.rows import QueuedMessage, QueuedRecipient

A, B, C = NodeId("store1"), NodeId("store2"), NodeId("store3")
TAKEN = Delivered(C, reply(250, "2.0.0", "saved"))
LOST = Deferred(Blame.NODE, reply(451, "4.4.2", "connection lost"), C)


class ScriptedAttempt:
    """Ends at once with what the test wrote down, after the hint is committed."""

    had_no_slot = False

    def __init__(self, node: NodeId, outcome: Outcome, before_dot: Callable[[], Awaitable[None]] | None) -> None:
        self.node = node
        self._outcome = outcome
        self._before_dot = before_dot
        self.task = spawn(self._run(), name=f"scripted {node}")

    async def _run(self) -> tuple[Outcome, ...]:
        if self._before_dot is not None:
            await self._before_dot()
        return (self._outcome,)

    async def result(self) -> tuple[Outcome, ...]:
        return await self.task

    def abort(self, reason: str) -> bool:
        return True


class ScriptedDelivery:
    """Gives the outcomes in the order in which attempts are started."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = list(outcomes)
        self.started: list[NodeId] = []

    def start(
        self,
        node: NodeId,
        transaction: LmtpTransaction,
        *,
        slot_wait_s: float,
        before_dot: Callable[[], Awaitable[None]] | None = None,
    ) -> ScriptedAttempt:
        self.started.append(node)
        return ScriptedAttempt(node, self.outcomes.pop(0), before_dot)


class OnlyUp:
    """A locator for which only these nodes are up."""

    def __init__(self, *up: NodeId) -> None:
        self._up = up

    async def locate(self, record: DirectoryRecord) -> Placement:
        raise AssertionError("a fan-out knows its homes")

    def may_try(self, node: NodeId) -> bool:
        return node in self._up

    def handoff_order(self, placement: Placement) -> tuple[NodeId, ...]:
        return tuple(node for node in placement.secondaries if node in self._up)


class HintsOnly:
    """A queue that notes hints."""

    def __init__(self) -> None:
        self.hints: list[tuple[NodeId, NodeId]] = []

    def gate_is_open(self, size_bytes: int) -> bool:
        return True

    async def accept(
        self,
        message: QueuedMessage,
        body: BodyRef,
        recipients: Sequence[QueuedRecipient],
        hints_superseded: Sequence[tuple[NodeId, NodeId]] = (),
        refused: Sequence[QueuedRecipient] = (),
        told: Sequence[tuple[QueuedRecipient, NoticeKind]] = (),
    ) -> None:
        raise AssertionError("a fan-out keeps nothing")

    async def settle(
        self,
        message_id: MessageId,
        outcomes: Mapping[int, Outcome],
        *,
        withdrawn: Collection[int] = (),
    ) -> None:
        raise AssertionError("a fan-out settles nothing")

    async def hint_begin(self, copy: HandoffCopy, holder: NodeId) -> None:
        self.hints.append((copy.home, holder))

    async def hints_superseded(self, message_id: MessageId, places: Sequence[tuple[NodeId, NodeId]]) -> None:
        raise AssertionError("a fan-out supersedes nothing by itself")


def target(name: str, home: NodeId) -> Target:
    others = tuple(node for node in (A, B, C) if node != home)
    placement = Placement(home, others, 7, Reason.BUCKET)
    return Target(Address(name, "example.edu"), NO_OPTIONS, MailboxKey(name), NodeUser(name), placement)


async def run(delivery: ScriptedDelivery, queue: HintsOnly, *targets: Target, patience_s: float = 5.0) -> FanoutResult:
    fanout = Fanout(
        delivery,  # type: ignore[arg-type]  # the part of Delivery that a fan-out uses
        OnlyUp(C),
        queue,
        HandoffPlan(mailbox="handoff@example.edu", secret=Secret(b"k" * 32)),
    )
    envelope = Envelope(
        id=MessageId("0123456789abcdef"),
        client=ClientInfo(ip="192.0.2.1", port=1),
        reverse_path=Address("a", "example.org"),
        recipients=tuple((each.address, each.options) for each in targets),
        arrived_s=0.0,
        body_type=BodyType.SEVENBIT,
        smtputf8=False,
        ret=None,
        envid=None,
    )
    deadline_s = asyncio.get_running_loop().time() + patience_s
    return await fanout.run(envelope, MemoryBody(b"x: y\r\n"), targets, range(len(targets)), deadline_s)


async def test_two_homes_away_are_kept_by_one_holder() -> None:
    """Each home has a copy of its own, and nothing is left for the queue."""
    delivery, queue = ScriptedDelivery([TAKEN, TAKEN]), HintsOnly()
    result = await run(delivery, queue, target("ana", A), target("bob", B))
    assert result.outcomes == [HandedOff(C, A), HandedOff(C, B)]
    assert result.superseded == []
    assert sorted(queue.hints) == [(A, C), (B, C)]


async def test_a_doubtful_copy_leaves_the_good_one_at_its_holder_alone() -> None:
    """Two homes share a holder: only the copy that it may not have is superseded and queued."""
    result = await run(ScriptedDelivery([TAKEN, LOST]), HintsOnly(), target("ana", A), target("bob", B))
    assert result.superseded == [(C, B)]
    good, doubtful = result.outcomes
    assert good == HandedOff(C, A)
    assert isinstance(doubtful, Deferred)
    assert doubtful.blame is Blame.NODE


async def test_nothing_is_handed_off_after_the_deadline() -> None:
    """What could not be delivered in time is for the queue, not for another hash and another connection."""
    delivery = ScriptedDelivery([])
    result = await run(delivery, HintsOnly(), target("ana", A), patience_s=-1.0)
    assert delivery.started == []
    assert isinstance(result.outcomes[0], Deferred)
