"""How long logins are kept waiting."""

from hypothesis import given
from hypothesis import strategies as st

from mailfront.sessions.slowing import (
    FREE_FOR_ACCOUNT,
    FREE_FOR_ADDRESS,
    MOST_FOR_ACCOUNT_S,
    MOST_FOR_ADDRESS_S,
    wait_s,
)

COUNTS = st.floats(0.0, 1e9)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_more_failures_never_mean_less_waiting(address: float, account: float, more: float, further: float) -> None:
    """And the wait is bounded whatever was counted."""
    assert wait_s(address, account) <= wait_s(address + more, account + further) <= MOST_FOR_ADDRESS_S


@given(st.floats(0.0, FREE_FOR_ADDRESS), st.floats(0.0, FREE_FOR_ACCOUNT))
def test_a_few_mistakes_cost_nothing(address: float, account: float) -> None:
    """A person who mistypes does not wait."""
    assert wait_s(address, account) == 0.0


@given(COUNTS)
def test_nobody_can_lock_somebody_else_out(account: float) -> None:
    """Failures at an account delay its owner by a bounded time, however many they are."""
    assert wait_s(0.0, account) <= MOST_FOR_ACCOUNT_S


def test_many_failures_reach_the_longest_wait() -> None:
    """A guesser is slowed to four tries a minute."""
    assert wait_s(FREE_FOR_ADDRESS + 8, 0.0) == MOST_FOR_ADDRESS_S
    assert wait_s(0.0, FREE_FOR_ACCOUNT + 8) == MOST_FOR_ACCOUNT_S
