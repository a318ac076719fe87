"""Filters run at the same time unless one waits for another, within their limits, and each failure has one policy."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mailfront.filters.chain import Chain, DeadlinePassed
from mailfront.filters.contract import Answer, Connection, Filter, FilterFailed, Finding, Mail, Message, Stage
from mailfront.filters.settings import FilterSettings, OnlyForSettings
from mailfront.filters.step import Step
from mailfront.mail.client import ClientInfo
from mailfront.mail.verdict import CONTINUE, Action, Verdict
from tests.support.filters import asked, view

DATA = b"Subject: x\r\n\r\nhello\r\n"


class Scripted(Filter):
    """Answers as the test says, and notes what it saw."""

    def __init__(self, answer: Callable[[Message], Answer]) -> None:
        self.answer = answer
        self.seen: list[Message] = []

    def data(self, message: Message) -> Answer:
        self.seen.append(message)
        return self.answer(message)


def chain_of(*parts: tuple[str, Callable[[Message], Answer], dict[str, Any]]) -> tuple[Chain, list[Scripted]]:
    filters = [Scripted(answer) for _, answer, _ in parts]
    steps = [
        Step(index, FilterSettings(name=name, kind="test", **settings), frozenset({Stage.DATA}), filters[index])
        for index, (name, _, settings) in enumerate(parts)
    ]
    return Chain(steps, {}), filters


def says(verdict: Verdict) -> Callable[[Message], Answer]:
    return lambda _: verdict


def waits_for(event: asyncio.Event, verdict: Verdict = CONTINUE) -> Callable[[Message], Answer]:
    async def answer() -> Verdict:
        await event.wait()
        return verdict

    return lambda _: answer()


async def found(chain: Chain, message: Message | None = None, **options: Any) -> Sequence[Finding]:
    return await asked(chain, message or view(DATA), **options)


async def test_no_task_is_made_when_all_filters_answer_at_once() -> None:
    """The chain then answers at once too, with the findings and not with something to wait for."""
    chain, _ = chain_of(("a", says(CONTINUE), {}), ("b", says(CONTINUE), {}))
    answer = chain.ask(Stage.DATA, view(DATA))
    assert isinstance(answer, tuple)
    assert [finding.filter for finding in answer] == ["a", "b"]


async def test_filters_run_at_the_same_time() -> None:
    """Each waits until the other has begun: one after the other they would never end."""
    meeting = asyncio.Barrier(2)

    async def meet() -> Verdict:
        await meeting.wait()
        return CONTINUE

    chain, _ = chain_of(("a", lambda _: meet(), {}), ("b", lambda _: meet(), {}))
    assert [finding.error for finding in await found(chain, deadline_s=20.0)] == ["", ""]


async def test_a_filter_comes_after_those_that_it_names_and_sees_what_they_found() -> None:
    """`after` is the only order, and the later one sees the earlier one's verdict."""
    go = asyncio.Event()
    scored = Verdict(score=4.5, reason="suspicious")
    chain, (first, second, third) = chain_of(
        ("a", waits_for(go, scored), {}), ("b", says(CONTINUE), {"after": ("a",)}), ("c", says(CONTINUE), {})
    )
    answer = asyncio.ensure_future(found(chain))  # noqa: TID251
    while not third.seen:
        await asyncio.sleep(0)
    assert first.seen
    assert not second.seen
    go.set()
    assert [finding.filter for finding in await answer] == ["a", "b", "c"]
    assert [(each.filter, each.verdict.score) for each in second.seen[0].earlier] == [("a", 4.5)]
    assert third.seen[0].earlier == ()


@pytest.mark.parametrize(
    ("on_error", "action", "code"),
    [("accept", Action.CONTINUE, 0), ("tempfail", Action.TEMPFAIL, 451), ("reject", Action.REJECT, 550)],
)
@pytest.mark.parametrize("how", ["raises", "fails", "is slow", "is wrong", "is slow to raise"])
async def test_error_and_timeout_have_one_policy(on_error: str, action: Action, code: int, how: str) -> None:
    """Whatever goes wrong with a filter, `on_error` says what becomes of the mail, and the finding says why."""

    def fails(_: Message) -> Answer:
        raise RuntimeError("secret internals") if how == "raises" else FilterFailed("scanner away")

    async def is_slow() -> Verdict:
        await asyncio.sleep(3600)
        return CONTINUE

    async def is_slow_to_raise() -> Verdict:
        await asyncio.sleep(0)
        raise KeyError("x")

    answers: dict[str, Callable[[Message], Answer]] = {
        "raises": fails,
        "fails": fails,
        "is slow": lambda _: is_slow(),
        "is wrong": lambda _: "reject",  # type: ignore[dict-item, return-value]
        "is slow to raise": lambda _: is_slow_to_raise(),
    }
    chain, _ = chain_of(("a", answers[how], {"on_error": on_error, "timeout": "50ms"}))
    (finding,) = await found(chain)
    assert (finding.verdict.action, finding.verdict.code) == (action, code)
    assert finding.error
    assert "secret" not in finding.verdict.text


@pytest.mark.parametrize("error", [FilterFailed("no name server is known"), RuntimeError("a mistake")])
async def test_a_filter_that_cannot_be_started_has_failed_for_each_message(error: Exception) -> None:
    """The chain starts without it, the others are asked, and `on_error` says what becomes of mail."""
    chain, (broken, other) = chain_of(("a", says(CONTINUE), {}), ("b", says(CONTINUE), {}))

    async def start() -> None:
        raise error

    broken.start = start  # type: ignore[method-assign]
    first, second = await found(chain)
    assert (first.verdict.action, first.error.startswith("cannot be started: ")) == (Action.TEMPFAIL, True)
    assert (broken.seen, len(other.seen), second.error) == ([], 1, "")


async def test_a_reject_ends_the_others() -> None:
    """Nothing is spent on mail that is refused: who has not answered is cancelled, also before it began."""
    cancelled: list[str] = []

    async def for_ever(name: str) -> Verdict:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(name)
            raise
        return CONTINUE

    async def soon() -> Verdict:
        for _ in range(5):
            await asyncio.sleep(0)
        return Verdict.reject("no")

    chain, filters = chain_of(
        ("a", lambda _: for_ever("a"), {}),
        ("b", lambda _: soon(), {}),
        ("c", says(CONTINUE), {"after": ("a",)}),
    )
    assert [finding.filter for finding in await found(chain)] == ["b"]
    assert cancelled == ["a"]
    assert not filters[2].seen


async def test_a_reject_at_once_ends_a_filter_that_has_not_begun() -> None:
    """A coroutine that was never started is closed without a warning."""
    never = asyncio.Event()
    chain, _ = chain_of(("a", waits_for(never), {}), ("b", says(Verdict.reject("no")), {}))
    assert [finding.filter for finding in await found(chain)] == ["b"]


@pytest.mark.parametrize("settings", [{"shadow": True}, {"only_for": OnlyForSettings(domains=("example.edu",))}])
async def test_a_reject_that_does_not_decide_for_everybody_ends_nobody(settings: dict[str, Any]) -> None:
    """A shadow, or a filter of some recipients: the others are still asked."""
    chain, _ = chain_of(("a", says(Verdict.reject("no")), settings), ("b", says(CONTINUE), {}))
    findings = await found(chain, view(DATA, "ana@example.edu", "bob@example.org"))
    assert [finding.filter for finding in findings] == ["a", "b"]


async def test_at_the_deadline_nothing_is_known() -> None:
    """Filters that are not done by then leave the message unchecked: the caller is told, whatever `on_error` says."""
    chain, _ = chain_of(("a", waits_for(asyncio.Event()), {"on_error": "accept"}), ("b", says(CONTINUE), {}))
    with pytest.raises(DeadlinePassed, match="a"):
        await found(chain, deadline_s=0.05)


async def test_a_shadow_that_is_late_is_left_out() -> None:
    """A filter on trial refuses no mail by being slow."""
    chain, _ = chain_of(("a", waits_for(asyncio.Event()), {"shadow": True}), ("b", says(CONTINUE), {}))
    assert [finding.filter for finding in await found(chain, deadline_s=0.05)] == ["b"]


async def test_a_filter_looks_at_no_more_messages_than_allowed() -> None:
    """The next message waits for its turn; if there is none within the timeout, that is a failure."""
    free = asyncio.Event()
    chain, _ = chain_of(("a", waits_for(free), {"concurrency": 1, "timeout": "100ms", "on_error": "accept"}))
    both = [chain.ask(Stage.DATA, view(DATA)) for _ in range(2)]
    findings = [finding for answer in await asyncio.gather(*both) for finding in answer]  # type: ignore[arg-type]
    assert sorted(finding.error for finding in findings) == ["no answer within 0.1 s", "no turn within 0.1 s"]


@pytest.mark.parametrize(
    ("only_for", "binds"),
    [
        ({}, None),
        ({"domains": ("example.edu",)}, {0, 1}),
        ({"domains": ("example.edu", "example.org")}, None),
        ({"classes": ("staff",)}, {0}),
        ({"domains": ("example.org",), "classes": ("staff",)}, "nobody"),
        ({"networks": ("192.0.2.0/24",)}, None),
        ({"networks": ("198.51.100.0/24",)}, "nobody"),
        ({"max_size": "10B"}, "nobody"),
        ({"max_size": "1KiB"}, None),
    ],
)
async def test_only_for_says_whom_a_filter_binds(only_for: dict[str, Any], binds: Any) -> None:
    """It is asked if any recipient fits, and binds only those; it is not asked at all if none does."""
    chain, (scripted,) = chain_of(("a", says(CONTINUE), {"only_for": OnlyForSettings(**only_for)}))
    recipients = ("ana@example.edu", "bob@example.edu", "eve@example.org")
    message = view(DATA, *recipients, classes={"ana@example.edu": ("staff",)})
    findings = await found(chain, message)
    if binds == "nobody":
        assert not findings
        assert not scripted.seen
    else:
        assert findings[0].binds == binds
        assert scripted.seen[0].binds == binds


async def test_a_filter_is_asked_only_at_its_stages() -> None:
    """At another stage the chain has nothing to ask and says so."""
    chain, (scripted,) = chain_of(("a", says(CONTINUE), {}))
    assert not chain.has(Stage.CONNECT)
    assert chain.ask(Stage.CONNECT, Connection(client=ClientInfo(ip="192.0.2.1", port=1))) == ()
    assert not scripted.seen


@pytest.mark.parametrize(("only_for", "is_asked"), [({"domains": ("example.edu",)}, False), ({}, True)])
async def test_before_recipients_are_known_a_filter_of_some_is_not_asked(
    only_for: dict[str, Any], is_asked: bool
) -> None:
    """It could refuse mail that is not its business."""

    class AtMail(Filter):
        def mail(self, mail: Mail) -> Answer:
            return Verdict.reject("no")

    settings = FilterSettings(name="a", kind="test", only_for=OnlyForSettings(**only_for))
    chain = Chain([Step(0, settings, frozenset({Stage.MAIL, Stage.DATA}), AtMail())], {})
    message = view(DATA)
    mail = Mail(id=message.id, client=message.client, reverse_path=None)
    findings = chain.ask(Stage.MAIL, mail)
    assert isinstance(findings, tuple)
    assert bool(findings) is is_asked


async def test_the_header_is_parsed_once_for_all_filters() -> None:
    """Every filter sees the same parsed header, also one that sees its own binding."""
    chain, filters = chain_of(
        ("a", says(CONTINUE), {}),
        ("b", says(CONTINUE), {"only_for": OnlyForSettings(domains=("example.org",))}),
    )
    await found(chain, view(DATA, "ana@example.edu", "eve@example.org"))
    first, second = (scripted.seen[0] for scripted in filters)
    assert first.headers is second.headers
    assert b"".join(first.body.pieces()) == DATA
