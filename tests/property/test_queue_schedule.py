"""Laws of the schedule that hold for any numbers."""

from hypothesis import given
from hypothesis import strategies as st

from mailfront.mail.names import NodeId
from mailfront.queue.schedule import Window, next_attempt_s, queue_slots, slow_start_limit, turns

_WAITS = st.lists(st.floats(1.0, 1e5), min_size=1, max_size=8)
_NODES = st.lists(st.text("abcdef", min_size=1, max_size=3).map(NodeId), unique=True, max_size=8)


@given(_WAITS, st.integers(0, 1000), st.floats(0.0, 1.0), st.floats(0.0, 2e9))
def test_the_next_attempt_is_within_a_fifth_of_a_configured_wait(
    waits: list[float], attempts: int, chance: float, now_s: float
) -> None:
    """It is never at once and never later than the longest wait and a fifth."""
    wait_s = next_attempt_s(now_s, attempts, waits, chance) - now_s
    assert 0.79 * min(waits) <= wait_s <= 1.21 * max(waits)


@given(st.integers(1, 64), st.lists(st.booleans(), max_size=200))
def test_a_window_stays_between_one_and_its_most(most: int, results: list[bool]) -> None:
    """Whatever happens; and it never grows by more than one per success."""
    window = Window(most=most)
    for is_good in results:
        after = window.succeeded() if is_good else window.node_failed()
        assert 1 <= after.size <= most
        assert after.size - window.size <= (1 if is_good else 0)
        window = after


@given(st.integers(1, 64))
def test_enough_successes_open_the_window_fully(most: int) -> None:
    """A node that works gets everything, after at most the sum of all windows."""
    window = Window(most=most)
    for _ in range(most * (most + 1) // 2):
        window = window.succeeded()
    assert window.size == most


@given(st.integers(1, 64), st.integers(1, 64), st.one_of(st.none(), st.floats(0.0, 1e6)), st.floats(0.0, 1e6))
def test_slots_leave_room_for_new_mail(most: int, size: int, returned_s: float | None, now_s: float) -> None:
    """The queue never gets more than half, always gets one, and what is in use counts."""
    window = Window(most=most, size=size)
    free = queue_slots(window, returned_s, now_s, in_use=0)
    assert 1 <= free <= max(1, most // 2)
    assert queue_slots(window, returned_s, now_s, in_use=free) == 0


@given(st.integers(1, 64), st.floats(0.0, 1e6), st.lists(st.floats(0.0, 100.0), min_size=1))
def test_slow_start_never_falls(most: int, returned_s: float, steps: list[float]) -> None:
    """With time a returned node gets more, until it has everything."""
    now_s, before = returned_s, 0
    for step_s in steps:
        limit = slow_start_limit(most, returned_s, now_s)
        assert before <= limit <= most
        now_s, before = now_s + step_s, limit
    assert slow_start_limit(most, returned_s, returned_s + 100.0) == most


@given(_NODES)
def test_everybody_gets_a_turn(nodes: list[NodeId]) -> None:
    """Serving the first of the order again and again serves each node once per round."""
    served: list[NodeId] = []
    last: NodeId | None = None
    for _ in nodes:
        last = turns(nodes, last)[0]
        served.append(last)
    assert sorted(served) == sorted(nodes)
