"""The hosts of one scanner, each behind its breaker: which one to call, and what became of the call.

Calls go round the hosts whose breaker is closed; one that does not answer is passed over for the next host in the
same message, and its breaker counts it. If no breaker lets a call through, `ask` fails at once: a dead scanner costs
no time.

The time of one answer is divided: each host but the last gets an equal share of what is left, so that one that hangs
leaves time for the next. Cancellation from outside counts against nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mailfront.base.clock import Clock
from mailfront.base.printable import printable
from mailfront.filters.breaker import Breaker
from mailfront.filters.failure import FilterFailed

T = TypeVar("T")

_SHARE = 0.98
"""Part of the filter's time that is ours: the last host must time out before the whole filter does."""


class Hosts:
    """See the module. One per filter and process; `breakers` are in the order of the settings."""

    def __init__(self, breakers: Sequence[Breaker], clock: Clock, timeout_s: float) -> None:
        self.breakers = tuple(breakers)
        self._clock = clock
        self._timeout_s = timeout_s * _SHARE
        self._turn = 0

    async def ask(self, call: Callable[[str], Awaitable[T]]) -> T:
        """Call a host, and the next ones if it does not answer.

        `call(address)` answers, or raises OSError, EOFError or TimeoutError if the host does not work, or FilterFailed
        if it works and cannot say anything about this message: that goes on to the caller. Raises FilterFailed also
        when no host has answered. Cancellation is safe.
        """
        breakers = self.breakers
        if len(breakers) > 1:
            self._turn = (self._turn + 1) % len(breakers)
            breakers = breakers[self._turn :] + breakers[: self._turn]
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._timeout_s
        failures = []
        for number, breaker in enumerate(breakers):
            if not breaker.may_call(self._clock.monotonic_s()):
                continue
            share_s = (ends_s - loop.time()) / (len(breakers) - number)
            try:
                async with asyncio.timeout(share_s):
                    answer = await call(breaker.name)
            except FilterFailed:
                breaker.succeeded()  # it has answered; another host would say the same
                raise
            except (OSError, EOFError, TimeoutError) as error:
                reason = _reason(error, share_s)
                breaker.failed(self._clock.monotonic_s(), reason)
                failures.append(f"{breaker.name}: {reason}")
            except BaseException:
                breaker.cancelled()
                raise
            else:
                breaker.succeeded()
                return answer
        if failures:
            raise FilterFailed("; ".join(failures))
        raise FilterFailed(f"not called, it did not answer before: {', '.join(_last_words(each) for each in breakers)}")


def _reason(error: BaseException, share_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {share_s:.1f} s"
    return printable(str(error) or type(error).__name__, 200)


def _last_words(breaker: Breaker) -> str:
    return f"{breaker.name} ({breaker.reason})"
