"""Quantiles of a histogram lie where its buckets say."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.observe.quantiles import quantile

BOUNDS = (0.1, 0.5, 1.0, 5.0)


def cumulative(values: list[float]) -> dict[float, float]:
    return {bound: float(sum(value <= bound for value in values)) for bound in (*BOUNDS, inf)}


@pytest.mark.parametrize("buckets", [{}, cumulative([])])
def test_without_observations_there_is_none(buckets: dict[float, float]) -> None:
    """Not zero: nobody was asked."""
    assert quantile(buckets, 0.5) is None


def test_beyond_the_last_bound_that_bound_is_all_that_is_known() -> None:
    """Never infinity."""
    assert quantile(cumulative([100.0]), 0.99) == 5.0


@given(st.lists(st.floats(0.001, 5.0), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_it_lies_in_the_bucket_of_the_real_quantile(values: list[float], share: float) -> None:
    """The estimate and the exact value fall between the same bounds."""
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    estimate = quantile(cumulative(values), share)
    assert estimate is not None
    upper = min(bound for bound in BOUNDS if exact <= bound)
    lower = max((bound for bound in BOUNDS if bound < upper), default=0.0)
    assert lower <= estimate <= upper
