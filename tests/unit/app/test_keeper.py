"""The keeper's numbers that depend on each other."""

import pytest

from mailfront.app.keeper import LEASE_BEYOND_FINAL_S, LEASE_S, lease_for


@pytest.mark.parametrize(("final_timeout_s", "lease_s"), [(1.0, LEASE_S), (600.0, LEASE_S), (3600.0, 3900.0)])
def test_a_lease_outlives_the_wait_for_a_node(final_timeout_s: float, lease_s: float) -> None:
    """With a patient `delivery.final_timeout` the queue still dares to send a final dot."""
    assert lease_for(final_timeout_s) == lease_s
    assert lease_for(final_timeout_s) - final_timeout_s >= LEASE_BEYOND_FINAL_S
