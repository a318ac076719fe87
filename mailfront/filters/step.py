"""One filter at its place in the chain: whether it is asked, and what its answer counts for.

Everything that a filter may do wrong ends here: what it raises, takes too long for or returns in a bad shape becomes a
`Finding` with an error and with the verdict that its `on_error` says. Nothing is raised but cancellation.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Any

from mailfront.base.printable import printable
from mailfront.filters.checked import checked
from mailfront.filters.contract import Answer, Filter, Finding, Recipient, Stage
from mailfront.filters.failure import FilterFailed
from mailfront.filters.settings import FilterSettings
from mailfront.mail.verdict import CONTINUE, Action, Verdict
from mailfront.net.networks import is_listed
from mailfront.observe import metrics
from mailfront.observe.log import get

log = get("filters")

_ON_ERROR = {
    "accept": CONTINUE,
    "tempfail": Verdict.tempfail("a filter cannot look at this message now, try again later", enhanced="4.3.0"),
    "reject": Verdict.reject("this message cannot be checked", enhanced="5.7.1"),
}
_LABELS = {action: action.value for action in Action}


class Step:
    """See the module. `index` is the filter's place in the file."""

    def __init__(self, index: int, settings: FilterSettings, stages: frozenset[Stage], asked: Filter) -> None:
        self.index = index
        self.settings = settings
        self.name = settings.name
        self.stages = stages
        self.filter = asked
        self.after = frozenset(settings.after)
        self._slots = asyncio.Semaphore(settings.concurrency)
        only_for = settings.only_for
        self._networks = only_for.networks
        self._max_size_bytes = only_for.max_size
        self._domains = frozenset(only_for.domains)
        self._classes = frozenset(only_for.classes)
        self.names_recipients = bool(self._domains or self._classes)
        self.is_for_all = not (self._networks or self._max_size_bytes or self.names_recipients)
        self._on_error = _ON_ERROR[settings.on_error]
        # Looked up once: it is done for every message.
        self._methods: dict[Stage, Callable[[Any], Answer]] = {stage: getattr(asked, stage.value) for stage in stages}
        self._shadow = settings.shadow
        self._unusable = ""

    async def start(self) -> None:
        """Make the filter ready. What it raises is what it will be said to have failed of, until the next start."""
        self._unusable = ""
        try:
            await self.filter.start()
        except FilterFailed as error:
            self._unusable = f"cannot be started: {error}"
            log.error("a filter cannot be started", filter=self.name, reason=printable(str(error), 400))
        except Exception as error:
            self._unusable = f"cannot be started: {error!r}"
            log.error("a filter cannot be started", filter=self.name, exc_info=error)

    def may_be_asked(self, ip: str, size_bytes: int) -> bool:
        """Whether the message as such is one that this filter is for."""
        if self._networks and not is_listed(ip, self._networks):
            return False
        return self._max_size_bytes is None or size_bytes <= self._max_size_bytes

    def binds(self, recipients: tuple[Recipient, ...]) -> frozenset[int] | None:
        """Which recipients it is for; None: all."""
        if not self.names_recipients:
            return None
        found = frozenset([number for number, each in enumerate(recipients) if self._is_for(each)])
        return None if len(found) == len(recipients) else found

    def _is_for(self, recipient: Recipient) -> bool:
        if self._domains and recipient.address.domain not in self._domains:
            return False
        return not self._classes or not self._classes.isdisjoint(recipient.classes)

    def ask(self, stage: Stage, view: object, binds: frozenset[int] | None) -> "Finding | Waiting":
        """Ask the filter. It may answer at once, or its answer has to be waited for."""
        started_s = perf_counter()
        if self._unusable:
            return self._failed(stage, binds, self._unusable, 0.0)
        try:
            answer = self._methods[stage](view)
            if isinstance(answer, Verdict):
                return self._found(stage, binds, checked(answer), perf_counter() - started_s)
        except FilterFailed as error:
            return self._failed(stage, binds, str(error), perf_counter() - started_s)
        except Exception as error:
            log.error("a filter failed", filter=self.name, exc_info=error)
            return self._failed(stage, binds, printable(repr(error)), perf_counter() - started_s)
        return Waiting(self, stage, binds, answer)

    async def wait_for(self, stage: Stage, binds: frozenset[int] | None, answer: Awaitable[Verdict]) -> Finding:
        """Wait for an answer that the filter did not have at once. Cancellation cancels the filter."""
        started_s, timeout_s = perf_counter(), self.settings.timeout
        has_turn = False
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
            try:
                has_turn = True
                async with asyncio.timeout(timeout_s):
                    verdict = checked(await answer)
            finally:
                self._slots.release()
        except TimeoutError:
            what = "no answer" if has_turn else "no turn"
            return self._failed(stage, binds, f"{what} within {timeout_s:g} s", perf_counter() - started_s)
        except FilterFailed as error:
            return self._failed(stage, binds, str(error), perf_counter() - started_s)
        except Exception as error:
            log.error("a filter failed", filter=self.name, exc_info=error)
            return self._failed(stage, binds, printable(repr(error)), perf_counter() - started_s)
        return self._found(stage, binds, verdict, perf_counter() - started_s)

    def _found(self, stage: Stage, binds: frozenset[int] | None, verdict: Verdict, took_s: float) -> Finding:
        metrics.FILTERS_VERDICTS.inc(self.name, _LABELS[verdict.action])
        metrics.FILTERS_SECONDS.observe(took_s, self.name)
        return Finding(
            filter=self.name,
            stage=stage,
            verdict=verdict,
            binds=binds,
            shadow=self._shadow,
            took_s=took_s,
        )

    def _failed(self, stage: Stage, binds: frozenset[int] | None, reason: str, took_s: float) -> Finding:
        metrics.FILTERS_VERDICTS.inc(self.name, "error")
        metrics.FILTERS_SECONDS.observe(took_s, self.name)
        return Finding(
            filter=self.name,
            stage=stage,
            verdict=self._on_error,
            binds=binds,
            error=printable(reason, 400),
            shadow=self.settings.shadow,
            took_s=took_s,
        )


class Waiting:
    """An answer that is not there yet. Exactly one of `finding` and `drop`, or both in this order."""

    def __init__(self, step: Step, stage: Stage, binds: frozenset[int] | None, answer: Awaitable[Verdict]) -> None:
        self._step = step
        self._stage = stage
        self._binds = binds
        self._answer = answer

    async def finding(self) -> Finding:
        """Wait for it."""
        return await self._step.wait_for(self._stage, self._binds, self._answer)

    def drop(self) -> None:
        """Nobody wants it any more: end a coroutine that may never have been started."""
        if isinstance(self._answer, Coroutine):
            self._answer.close()
