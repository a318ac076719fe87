"""The chain: asks the filters of a stage, in parallel where their order allows, and collects what they found.

Order of calls: `build_chain`, `start` in the running loop, any number of `ask`, `close`. `ask` answers at once if all
filters of the stage do; else it gives a coroutine. What the findings mean for each recipient is `arbitration`'s.

Once a filter that is obeyed rejects the whole message, the filters that have not answered are cancelled: nothing is
spent on mail that is refused. At the deadline the same happens, and `DeadlinePassed` is raised: the caller says 451.
A shadow filter that is not done by then is left out.

Nothing here survives a crash, and nothing needs to: no message was accepted.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mailfront.base.clock import Clock
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.filters.arbitration import rejects_everybody
from mailfront.filters.breaker import Breaker
from mailfront.filters.contract import (
    Connection,
    FilterContext,
    Finding,
    Mail,
    Message,
    Rcpt,
    Stage,
)
from mailfront.filters.hosts import Hosts
from mailfront.filters.order import in_order
from mailfront.filters.registry import kind_of
from mailfront.filters.settings import FilterSettings
from mailfront.filters.step import Step, Waiting

View = Connection | Mail | Rcpt | Message
Findings = tuple[Finding, ...]
BreakerChanged = Callable[[str, Breaker], None]


class DeadlinePassed(Exception):
    """The filters were not done in time: nothing is known about the message, so it cannot be accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the process gives its filters. `breaker_changed(filter, breaker)` is called when one opens or closes."""

    hostname: str
    clock: Clock
    local_domains: frozenset[str] = frozenset()
    services: Mapping[str, Any] = field(default_factory=dict)
    breaker_changed: BreakerChanged = lambda name, breaker: None


def build_chain(filters: Sequence[FilterSettings], surroundings: Surroundings) -> "Chain":
    """Make all filters. Raises ConfigError for what cannot work here."""
    places = {settings.name: index for index, settings in enumerate(filters)}
    breakers: dict[str, tuple[Breaker, ...]] = {}
    steps = []
    for settings in in_order(filters):
        kind = kind_of(settings)

        def hosts(addresses: Sequence[str], settings: FilterSettings = settings) -> Hosts:
            def changed(breaker: Breaker) -> None:
                surroundings.breaker_changed(settings.name, breaker)

            made = Hosts([Breaker(each, changed) for each in addresses], surroundings.clock, settings.timeout)
            breakers[settings.name] = (*breakers.get(settings.name, ()), *made.breakers)
            return made

        context = FilterContext(
            name=settings.name,
            hostname=surroundings.hostname,
            clock=surroundings.clock,
            timeout_s=settings.timeout,
            hosts=hosts,
            local_domains=surroundings.local_domains,
            services=surroundings.services,
        )
        asked = kind.make(settings.settings, context)
        steps.append(Step(places[settings.name], settings, kind.stages_of(settings.settings), asked))
    return Chain(steps, breakers)


class Chain:
    """See the module. One per process."""

    def __init__(self, steps: Sequence[Step], breakers: Mapping[str, tuple[Breaker, ...]]) -> None:
        self.steps = tuple(steps)
        self.breakers = breakers
        self._by_stage = {stage: tuple([step for step in steps if stage in step.stages]) for stage in Stage}

    def has(self, stage: Stage) -> bool:
        """Whether any filter is asked at this stage. If not, the caller need not make a view."""
        return bool(self._by_stage[stage])

    async def start(self) -> None:
        """Make the filters ready. Waits for no scanner. One that cannot be made ready has failed for every message:
        mail does what its `on_error` says, and does not stop."""
        for step in self.steps:
            await step.start()

    async def close(self) -> None:
        """Close all filters."""
        for step in self.steps:
            await step.filter.close()

    def ask(self, stage: Stage, view: View, deadline_s: float | None = None) -> Findings | Awaitable[Findings]:
        """Ask the filters of a stage. The findings are in the declared order of the filters.

        `deadline_s` is by the loop's clock. The coroutine may raise DeadlinePassed. Cancellation cancels the filters.
        """
        steps = self._by_stage[stage]
        findings: list[tuple[int, Finding]] = []
        for number, step in enumerate(steps):
            asked = self.ask_one(step, stage, view, findings)
            if asked is None:
                continue
            if isinstance(asked, Waiting):
                return _Run(self, stage, view, findings, deadline_s).go_on(step, asked, steps[number + 1 :])
            findings.append((step.index, asked))
            if rejects_everybody(asked):
                break
        return _in_declared_order(findings)

    def ask_one(
        self, step: Step, stage: Stage, view: View, findings: Sequence[tuple[int, Finding]]
    ) -> Finding | Waiting | None:
        """Ask one filter if it is for this message. None: it is not."""
        binds: frozenset[int] | None = None
        if not step.is_for_all:
            if not step.may_be_asked(*_measured(view)):
                return None
            if isinstance(view, Message):
                binds = step.binds(view.recipients)
            elif isinstance(view, Rcpt):
                binds = step.binds((view.recipient,))
            elif step.names_recipients:
                return None  # nobody knows yet whether it is for this message
            if binds is not None and not binds:
                return None
        if step.after:
            seen = tuple([each for _, each in findings if each.filter in step.after])
            if seen:
                view = replace(view, earlier=view.earlier + seen)
        if binds is not None and isinstance(view, Message):
            view = replace(view, binds=binds)
        return step.ask(stage, view, binds if isinstance(view, Message) else None)


class _Run:
    """One stage of one message of which at least one filter has to be waited for."""

    def __init__(
        self,
        chain: Chain,
        stage: Stage,
        view: View,
        findings: list[tuple[int, Finding]],
        deadline_s: float | None,
    ) -> None:
        self._chain = chain
        self._stage = stage
        self._view = view
        self._findings = findings
        self._deadline_s = deadline_s
        self._running: dict[Step, asyncio.Task[Finding | None]] = {}
        self._waiting: list[Waiting] = []
        self._is_refused = False

    async def go_on(self, step: Step, waiting: Waiting, rest: Sequence[Step]) -> Findings:
        """Wait for one filter, ask the rest meanwhile."""
        try:
            self._spawn(step, waiting)
            for other in rest:
                if self._is_refused:
                    break
                before = [task for each, task in self._running.items() if each.name in other.after]
                if before:
                    self._running[other] = spawn(self._after(other, before), name=f"filter {other.name}")
                    continue
                asked = self._chain.ask_one(other, self._stage, self._view, self._findings)
                if isinstance(asked, Waiting):
                    self._spawn(other, asked)
                elif asked is not None:
                    self._add(other, asked)
            await self._until_done()
        finally:
            unfinished = [task for task in self._running.values() if not task.done()]
            if unfinished:
                await cancel_and_wait(*unfinished)
            for each in self._waiting:
                each.drop()
        return _in_declared_order(self._findings)

    async def _until_done(self) -> None:
        loop = asyncio.get_running_loop()
        pending = dict(self._running)
        while pending and not self._is_refused:
            timeout_s = None if self._deadline_s is None else max(0.0, self._deadline_s - loop.time())
            done, _ = await asyncio.wait(pending.values(), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                if all(step.settings.shadow for step in pending):
                    return
                raise DeadlinePassed(", ".join(step.name for step in pending))
            for step, task in list(pending.items()):
                if task in done:
                    del pending[step]
                    if (finding := task.result()) is not None:
                        self._add(step, finding)

    def _spawn(self, step: Step, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        self._running[step] = spawn(waiting.finding(), name=f"filter {step.name}")

    async def _after(self, step: Step, before: Sequence[asyncio.Task[Finding | None]]) -> Finding | None:
        """Ask a filter when others have answered: their findings are noted by then."""
        await asyncio.wait(before)
        seen = {each.filter: (index, each) for index, each in self._findings}
        for task in before:
            if (found := task.result()) is not None:
                seen[found.filter] = (0, found)
        asked = self._chain.ask_one(step, self._stage, self._view, list(seen.values()))
        if not isinstance(asked, Waiting):
            return asked
        self._waiting.append(asked)
        return await asked.finding()

    def _add(self, step: Step, finding: Finding) -> None:
        self._findings.append((step.index, finding))
        if rejects_everybody(finding):
            self._is_refused = True


def _measured(view: View) -> tuple[str, int]:
    """The client's address and the size of the message, 0 if nobody knows."""
    if isinstance(view, Message):
        return view.client.ip, view.body.size_bytes
    if isinstance(view, Mail):
        return view.client.ip, view.size_bytes or 0
    if isinstance(view, Rcpt):
        return view.mail.client.ip, view.mail.size_bytes or 0
    return view.client.ip, 0


def _in_declared_order(findings: list[tuple[int, Finding]]) -> Findings:
    if len(findings) > 1:
        findings.sort(key=lambda each: each[0])
    return tuple([finding for _, finding in findings])
