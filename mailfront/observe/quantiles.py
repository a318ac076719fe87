"""Quantiles of a histogram, as far as its buckets tell. Pure."""

from collections.abc import Mapping
from math import inf


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value below which `share` (0 to 1) of the observations lie; None without observations.

    `buckets`: how many observations are not above each upper bound. Inside a bucket they count as spread evenly; beyond
    the last finite bound all that is known is that bound.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return None
    wanted = share * total
    below_bound = below_count = 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= wanted:
            if bound == inf or count == below_count:
                return below_bound
            return below_bound + (bound - below_bound) * (wanted - below_count) / (count - below_count)
        below_bound, below_count = bound, count
    return below_bound
