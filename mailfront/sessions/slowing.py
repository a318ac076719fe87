"""How long a login is kept waiting because others from there, or at that account, have failed lately.

A person who mistypes notices nothing; a program that guesses is slowed to a handful of tries a minute. The wait comes
before the password is looked at and is the same for a right one, so that its length says nothing.

An address may stand for many people (a webmail, a dormitory), and anybody can fail at somebody else's account on
purpose. So an address is allowed more failures than an account, and an account never costs its owner more than
`MOST_FOR_ACCOUNT_S`. At most `MOST_WAITING` logins of an address wait at a time; more are told to try later. Addresses
in `login.shared_addresses` are not counted at all.
"""

import asyncio
from collections import Counter
from functools import lru_cache

from mailfront.base.clock import Clock
from mailfront.directory.canonical import canonical_text
from mailfront.net.connections import counted_as
from mailfront.net.failures import FailureTable
from mailfront.net.networks import Network, is_listed
from mailfront.observe import metrics

FREE_FOR_ADDRESS = 10.0
FREE_FOR_ACCOUNT = 5.0
FIRST_WAIT_S = 0.5
MOST_FOR_ADDRESS_S = 15.0
MOST_FOR_ACCOUNT_S = 5.0
MOST_WAITING = 10
"""Logins of one address that wait at the same time, per worker."""


class LoginSlowing:
    """See the module. One per worker; the counts are shared by all. UNIX sockets have no address to be counted."""

    def __init__(self, failures: FailureTable, shared: tuple[Network, ...], clock: Clock) -> None:
        """`shared`: addresses that stand for many people."""
        self._failures = failures
        # By address alone: to look up (address, networks) costs more than the rest of the question.
        self._is_counted = lru_cache(maxsize=8192)(lambda ip: bool(ip) and not is_listed(ip, shared))
        self._clock = clock
        self._waiting: Counter[bytes] = Counter()

    async def wait(self, ip: str, login: str) -> bool:
        """Wait as long as this login has to. False, at once, if enough from its address wait already: guesses that are
        made side by side would else be as fast as without any wait. Cancellation is safe."""
        wait_s = self._wait_s(ip, login)
        if wait_s <= 0.0:
            return True
        client = counted_as(ip) if self._is_counted(ip) else b""
        if client and self._waiting[client] >= MOST_WAITING:
            return False
        self._waiting[client] += 1
        try:
            await asyncio.sleep(wait_s)
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]
        return True

    def _wait_s(self, ip: str, login: str) -> float:
        now_s = self._clock.monotonic_s()
        from_there = self._failures.of_address(ip, now_s) if self._is_counted(ip) else 0.0
        waiting_s = wait_s(from_there, self._failures.of_account(canonical_text(login), now_s))
        if waiting_s > 0.0:
            metrics.LOGINS_SLOWED.inc()
        return waiting_s

    def failed(self, ip: str, login: str) -> None:
        """It was wrong."""
        now_s = self._clock.monotonic_s()
        if self._is_counted(ip):
            self._failures.address_failed(ip, now_s)
        self._failures.account_failed(canonical_text(login), now_s)

    def succeeded(self, login: str) -> None:
        """It was right."""
        self._failures.account_succeeded(canonical_text(login))


def wait_s(address_failures: float, account_failures: float) -> float:
    """How long to wait, by the failures that count still."""
    return max(
        _grown(address_failures - FREE_FOR_ADDRESS, MOST_FOR_ADDRESS_S),
        _grown(account_failures - FREE_FOR_ACCOUNT, MOST_FOR_ACCOUNT_S),
    )


def _grown(beyond: float, most_s: float) -> float:
    """Nothing up to the free ones, then half a second, doubled by every failure more."""
    if beyond <= 0.0:
        return 0.0
    doubled: float = 2.0 ** min(beyond - 1.0, 16.0)
    return min(most_s, FIRST_WAIT_S * doubled)
