"""Retry times, windows, slow start and turns."""

import pytest

from mailfront.mail.names import NodeId
from mailfront.queue.schedule import Window, next_attempt_s, queue_slots, slow_start_limit, turns

_RETRY_S = (60.0, 300.0, 900.0)
_A, _B, _C = NodeId("a"), NodeId("b"), NodeId("c")


@pytest.mark.parametrize(("attempts", "wait_s"), [(1, 60.0), (2, 300.0), (3, 900.0), (4, 900.0), (99, 900.0)])
def test_waits_follow_the_list_and_the_last_repeats(attempts: int, wait_s: float) -> None:
    """Without jitter the wait is the configured one."""
    assert next_attempt_s(1000.0, attempts, _RETRY_S, 0.5) == 1000.0 + wait_s


def test_jitter_is_a_fifth_each_way() -> None:
    """The random number moves the wait between 80 % and 120 %."""
    assert next_attempt_s(0.0, 1, _RETRY_S, 0.0) == pytest.approx(48.0)
    assert next_attempt_s(0.0, 1, _RETRY_S, 1.0) == pytest.approx(72.0)


def test_window_grows_by_one_per_full_window() -> None:
    """From two: two successes make three, three more make four."""
    window, sizes = Window(most=4), []
    for _ in range(6):
        window = window.succeeded()
        sizes.append(window.size)
    assert sizes == [2, 3, 3, 3, 4, 4]


def test_window_is_halved_and_never_empty() -> None:
    """A failing node keeps one slot, so that its return is noticed."""
    window, sizes = Window(most=10, size=9), []
    for _ in range(5):
        window = window.node_failed()
        sizes.append(window.size)
    assert sizes == [4, 2, 1, 1, 1]


def test_first_window_fits_a_node_with_one_connection() -> None:
    """The window starts at two, or at the most there is."""
    assert Window(most=1).size == 1
    assert Window(most=5).size == 2


@pytest.mark.parametrize(
    ("away_s", "expected"), [(0.0, 2), (4.9, 2), (5.0, 4), (10.0, 8), (15.0, 16), (20.0, 20), (9e9, 20)]
)
def test_slow_start_doubles_every_five_seconds(away_s: float, expected: int) -> None:
    """A returned node gets a tenth of its connections, then twice as many every five seconds."""
    assert slow_start_limit(20, 100.0, 100.0 + away_s) == expected


def test_no_slow_start_without_an_absence() -> None:
    """A node that was always there gets everything."""
    assert slow_start_limit(20, None, 0.0) == 20


def test_new_mail_keeps_half() -> None:
    """The queue never takes more than half of a node's connections, whatever its window."""
    window = Window(most=10, size=10)
    assert queue_slots(window, None, 0.0, in_use=0) == 5
    assert queue_slots(window, None, 0.0, in_use=4) == 1
    assert queue_slots(window, None, 0.0, in_use=9) == 0
    assert queue_slots(Window(most=1), None, 0.0, in_use=0) == 1


def test_turns_begin_after_the_last() -> None:
    """Round robin: who was served last comes last."""
    nodes = [_C, _A, _B]
    assert turns(nodes, None) == (_A, _B, _C)
    assert turns(nodes, _A) == (_B, _C, _A)
    assert turns(nodes, _C) == (_A, _B, _C)
    assert turns([_A, _C], _B) == (_C, _A)
    assert turns([], _B) == ()
