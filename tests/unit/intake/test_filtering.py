"""What filters rule becomes replies, rows and copies: nothing that they hold back is delivered, nothing is lost."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.filters.chain import Chain
from mailfront.filters.contract import Answer, Filter, Message, Rcpt, Stage
from mailfront.filters.headers import MOST_FIELDS
from mailfront.filters.settings import FilterSettings, OnlyForSettings
from mailfront.filters.step import Step
from mailfront.intake.filtering import Screening
from mailfront.mail.address import Address
from mailfront.mail.body import MemoryBody
from mailfront.mail.envelope import NO_OPTIONS, RecipientOptions
from mailfront.mail.outcome import Outcome
from mailfront.mail.verdict import CONTINUE, AddHeader, AddRecipient, ChangeSender, DeleteRecipient, Verdict
from mailfront.queue.rows import RecipientState
from tests.unit.intake.test_transaction import (
    BODY,
    DELIVERED,
    FULL,
    NotedQueue,
    ScriptedFanout,
    begun,
    intake_of,
)

NO = Verdict.reject("not here")
LATER = Verdict.tempfail("in a while")
KEEP = Verdict.quarantine("odd")
DROP = Verdict.discard("junk")


class Says(Filter):
    """One verdict for everything."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def data(self, message: Message) -> Answer:
        return self.verdict

    def rcpt(self, rcpt: Rcpt) -> Answer:
        return self.verdict


def screening(*filters: tuple[Verdict, Sequence[str]], stage: Stage = Stage.DATA) -> Screening:
    """Filters that say a verdict about recipients of some domains; no domains: about all."""
    steps = [
        Step(
            index,
            FilterSettings(name=f"f{index}", kind="test", only_for=OnlyForSettings(domains=tuple(domains))),
            frozenset({stage}),
            Says(verdict),
        )
        for index, (verdict, domains) in enumerate(filters)
    ]
    return Screening(Chain(steps, {}), "mx1.example.edu")


async def answers(
    queue: NotedQueue, fanout: ScriptedFanout, filters: Screening, *names: str, per_recipient: bool = False
) -> list[str]:
    intake = intake_of(fanout, queue)
    intake.screening = filters
    transaction = await begun(intake)
    for name in names:
        local, _, domain = name.partition("@")
        assert (await transaction.rcpt(Address(local, domain), NO_OPTIONS)).is_positive
    replies = await transaction.commit(BODY, protocol="ESMTP", per_recipient=per_recipient)
    return [str(each).replace(transaction.id, "ID") for each in replies]


@pytest.mark.parametrize(
    ("verdict", "answer", "tried", "states"),
    [
        (CONTINUE, "250 2.0.0 ID delivered", [(0, 1)], []),
        (NO, "550 5.7.1 not here", [], []),
        (LATER, "451 4.7.1 in a while", [], []),
        (KEEP, "250 2.0.0 ID queued", [], [RecipientState.QUARANTINED] * 2),
        (DROP, "250 2.0.0 ID accepted", [], []),
    ],
)
async def test_a_verdict_for_everybody(
    verdict: Verdict, answer: str, tried: list[tuple[int, ...]], states: list[RecipientState]
) -> None:
    """Only what passes is tried; what is quarantined is committed before the 250."""
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, DELIVERED])
    said = await answers(queue, fanout, screening((verdict, ())), "ana@a.edu", "bob@b.edu")
    assert said == [answer]
    assert fanout.wanted == tried
    assert [row.state for row in queue.rows] == states


@pytest.mark.parametrize(
    ("verdict", "answer", "states"),
    [
        (NO, "250 2.0.0 ID queued", [RecipientState.QUARANTINED]),
        (LATER, "250 2.0.0 ID queued", [RecipientState.QUARANTINED]),
        (KEEP, "250 2.0.0 ID queued", [RecipientState.QUARANTINED]),
        (DROP, "250 2.0.0 ID delivered", []),
    ],
)
async def test_over_smtp_the_mildest_speaks(verdict: Verdict, answer: str, states: list[RecipientState]) -> None:
    """One recipient passes and one does not: the client hears 250, the other copy waits for a person."""
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, DELIVERED])
    said = await answers(queue, fanout, screening((verdict, ["b.edu"])), "ana@a.edu", "bob@b.edu")
    assert said == [answer]
    assert fanout.wanted == [(0,)]
    assert [(row.number, row.state) for row in queue.rows] == [(1, state) for state in states]


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [(NO, "550 5.7.1 not here"), (LATER, "451 4.7.1 in a while"), (KEEP, "250 2.0.0 ID queued"),
     (DROP, "250 2.0.0 ID accepted")],
)  # fmt: skip
async def test_over_lmtp_each_hears_its_own(verdict: Verdict, answer: str) -> None:
    """One answer per recipient, in order."""
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, DELIVERED])
    filters = screening((verdict, ["b.edu"]))
    said = await answers(queue, fanout, filters, "bob@b.edu", "ana@a.edu", per_recipient=True)
    assert said == [answer, "250 2.0.0 ID delivered"]


async def test_a_quarantine_that_cannot_be_committed_is_a_451() -> None:
    """The row comes before the 250, or there is none."""
    queue = NotedQueue(works=False)
    said = await answers(queue, ScriptedFanout([DELIVERED]), screening((KEEP, ())), "ana@a.edu")
    assert said == ["451 4.3.0 our queue cannot keep mail now, try again later"]


async def test_a_recipient_refused_by_a_filter_takes_no_part() -> None:
    """At stage `rcpt` the refusal is the reply to RCPT."""
    queue = NotedQueue()
    intake = intake_of(ScriptedFanout([DELIVERED]), queue)
    intake.screening = screening((NO, ["b.edu"]), stage=Stage.RCPT)
    transaction = await begun(intake)
    assert str(await transaction.rcpt(Address("bob", "b.edu"), NO_OPTIONS)) == "550 5.7.1 not here"
    assert (await transaction.rcpt(Address("ana", "a.edu"), NO_OPTIONS)).is_positive
    (answer,) = await transaction.commit(BODY, protocol="ESMTP", per_recipient=False)
    assert answer.text.endswith("delivered")


async def test_a_version_for_some_is_committed_before_anybody_is_delivered_to() -> None:
    """Its row waits under an id of its own; the others are delivered while the client waits."""
    marked = Verdict(edits=(AddHeader("X-Strict", "yes"),))
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, DELIVERED])
    said = await answers(queue, fanout, screening((marked, ["b.edu"])), "ana@a.edu", "bob@b.edu")
    assert said == ["250 2.0.0 ID queued"]
    assert fanout.wanted == [(0,)]
    assert [(row.address, row.state) for row in queue.rows] == [("bob@b.edu", RecipientState.WAITING)]


async def test_a_version_that_cannot_be_queued_leaves_everything_with_the_client() -> None:
    """451, and nobody has been delivered to."""
    marked = Verdict(edits=(AddHeader("X-Strict", "yes"),))
    queue, fanout = NotedQueue(works=False), ScriptedFanout([DELIVERED, DELIVERED])
    said = await answers(queue, fanout, screening((marked, ["b.edu"])), "ana@a.edu", "bob@b.edu")
    assert said == ["451 4.3.0 our queue cannot keep mail now, try again later"]
    assert fanout.wanted == []


class QueueOfOne(NotedQueue):
    """Keeps one message, then nothing until `works_again`."""

    works_again = False

    async def accept(self, message: Any, body: Any, recipients: Any, *others: Any, **more: Any) -> None:
        if self.rows and not self.works_again:
            raise Unavailable("disk full")
        await super().accept(message, body, recipients, *others, **more)

    async def settle(
        self, message_id: MessageId, outcomes: Mapping[int, Outcome], *, withdrawn: Collection[int] = ()
    ) -> None:
        """The rows that were committed ahead end."""


async def test_a_version_that_was_queued_before_a_451_is_not_queued_again() -> None:
    """The rest of the message cannot be kept, and the client sends all of it again: no copy comes twice."""
    queue = QueueOfOne()
    intake = intake_of(ScriptedFanout([DELIVERED, DELIVERED]), queue)
    intake.screening = screening((Verdict(edits=(AddHeader("X-Strict", "yes"),)), ["b.edu"]))
    codes = []
    for _ in range(2):
        transaction = await begun(intake)
        assert (await transaction.rcpt(Address("ana", "a.edu"), RecipientOptions(notify="SUCCESS"))).is_positive
        assert (await transaction.rcpt(Address("bob", "b.edu"), NO_OPTIONS)).is_positive
        codes += [each.code for each in await transaction.commit(BODY, protocol="ESMTP", per_recipient=False)]
        queue.works_again = True
    assert codes == [451, 250]
    assert sorted(row.address for row in queue.rows) == ["ana@a.edu", "bob@b.edu"]


async def test_an_added_recipient_has_no_reply_of_its_own() -> None:
    """Over LMTP one answer per RCPT of the client; the added copy is kept if it cannot be delivered now."""
    added = Verdict(edits=(AddRecipient(Address("archive.store2", "a.edu")),))
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, FULL])
    said = await answers(queue, fanout, screening((added, ())), "ana@a.edu", per_recipient=True)
    assert said == ["250 2.0.0 ID delivered"]
    assert fanout.wanted == [(0, 1)]
    assert [row.address for row in queue.rows] == ["archive.store2@a.edu"]


async def test_a_redirected_message_reaches_its_new_recipient() -> None:
    """All recipients of the client are removed and another is added: that one gets the copy, with the edits."""
    edits = (
        DeleteRecipient(Address("ana", "a.edu")),
        AddRecipient(Address("spam.store2", "a.edu")),
        AddHeader("X-Redirected", "yes"),
    )
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, DELIVERED])
    said = await answers(queue, fanout, screening((Verdict(edits=edits), ())), "ana@a.edu")
    assert said == ["250 2.0.0 ID delivered"]
    assert fanout.wanted == [(1,)]


async def test_a_changed_sender_travels_with_the_message() -> None:
    """Nodes and the queue get the new one; what was proven of the old one is not said of it."""
    verdict = Verdict(edits=(ChangeSender(Address("bounces", "a.edu")),), sender_proven=True)
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, FULL])
    said = await answers(queue, fanout, screening((verdict, ())), "ana@a.edu", "bob.store2@a.edu")
    assert said == ["250 2.0.0 ID queued"]
    assert [str(each.reverse_path) for each in fanout.envelopes] == ["bounces@a.edu"]
    assert [(each.reverse_path, each.sender_proven) for each in queue.messages] == [("bounces@a.edu", None)]


async def test_a_sender_that_is_changed_for_some_is_theirs_alone() -> None:
    """Their copy is a version of its own in the queue, from the null reverse-path; the others' is as it came."""
    verdict = Verdict(edits=(ChangeSender(None),))
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, DELIVERED, DELIVERED])
    names = ("ana@a.edu", "eve@a.edu", "bob@b.edu")
    assert await answers(queue, fanout, screening((verdict, ["b.edu"])), *names) == ["250 2.0.0 ID queued"]
    assert [each.reverse_path for each in queue.messages] == [None]
    assert [row.address for row in queue.rows] == ["bob@b.edu"]
    assert [each.reverse_path is None for each in fanout.envelopes] == [False]


async def test_a_message_that_is_thrown_away_is_not_sent_to_added_recipients() -> None:
    """One filter adds, another discards the message as such."""
    added = Verdict(edits=(AddRecipient(Address("archive.store2", "a.edu")),))
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, DELIVERED])
    said = await answers(queue, fanout, screening((added, ()), (DROP, ())), "ana@a.edu")
    assert said == ["250 2.0.0 ID accepted"]
    assert (fanout.wanted, queue.rows) == ([], [])


async def test_what_is_quarantined_is_kept_back_from_added_recipients_too() -> None:
    """One filter adds, another quarantines: both copies wait for a person."""
    added = Verdict(edits=(AddRecipient(Address("archive.store2", "a.edu")),))
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, DELIVERED])
    said = await answers(queue, fanout, screening((added, ()), (KEEP, ())), "ana@a.edu")
    assert said == ["250 2.0.0 ID queued"]
    assert fanout.wanted == []
    assert [(row.address, row.state) for row in queue.rows] == [
        ("ana@a.edu", RecipientState.QUARANTINED),
        ("archive.store2@a.edu", RecipientState.QUARANTINED),
    ]


async def test_an_added_recipient_gets_the_copy_that_somebody_gets() -> None:
    """Quarantined for one and delivered to the other: what both wanted to add is delivered."""
    added = Verdict(edits=(AddRecipient(Address("archive.store2", "a.edu")),))
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED, DELIVERED, DELIVERED])
    said = await answers(queue, fanout, screening((added, ()), (KEEP, ["b.edu"])), "ana@a.edu", "bob@b.edu")
    assert said == ["250 2.0.0 ID queued"]
    assert fanout.wanted == [(0, 2)]
    assert [row.address for row in queue.rows] == ["bob@b.edu"]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"X-Filler: 1\r\n" * MOST_FIELDS, 250),
        (b"X-Filler: 1\r\n" * (MOST_FIELDS + 1), 552),
        (b"X-Filler: 1\r\n" + b" folded\r\n" * MOST_FIELDS, 250),
        (b"X-Filler: " + b"x" * 256 * 1024 + b"\r\n", 552),
    ],
)
async def test_a_header_that_filters_do_not_see_whole_is_refused(header: bytes, code: int) -> None:
    """Behind what they see a forged result or a second From would pass."""
    intake = intake_of(ScriptedFanout([DELIVERED]), NotedQueue())
    intake.screening = screening((CONTINUE, ()))
    transaction = await begun(intake, "ana")
    (answer,) = await transaction.commit(MemoryBody(header + b"\r\ntext\r\n"), protocol="ESMTP", per_recipient=False)
    assert answer.code == code


class Never(Filter):
    """Does not answer."""

    async def data(self, message: Message) -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError("not reached")


async def test_a_message_that_nobody_has_looked_at_by_the_deadline_is_not_accepted() -> None:
    """451 whatever `on_error` says, and nobody has been delivered to."""
    queue, fanout = NotedQueue(), ScriptedFanout([DELIVERED])
    intake = intake_of(fanout, queue)
    intake.policy = replace(intake.policy, deadline_s=0.05)
    settings = FilterSettings(name="slow", kind="test", on_error="accept")
    step = Step(0, settings, frozenset({Stage.DATA}), Never())
    intake.screening = Screening(Chain([step], {}), "mx1.example.edu")
    transaction = await begun(intake, "ana")
    (answer,) = await transaction.commit(BODY, protocol="ESMTP", per_recipient=False)
    assert str(answer) == "451 4.3.0 the message could not be checked in time, try again later"
    assert fanout.wanted == []
    assert queue.rows == []
