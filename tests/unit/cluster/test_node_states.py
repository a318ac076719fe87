"""The rules for UP, SUSPECT and DOWN, one by one. The table in the module's docstring is checked cell by cell."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mailfront.cluster.node_states import (
    WELL,
    Health,
    ServiceState,
    connect_failed,
    failed_after_connect,
    probe_failed,
    probe_ok,
    succeeded,
    unknown_at_node,
)
from mailfront.mail.names import MailboxKey

UP, SUSPECT, DOWN = Health.UP, Health.SUSPECT, Health.DOWN


def in_health(health: Health) -> ServiceState:
    return replace(WELL, health=health, since_s=50.0)


def three_messages(state: ServiceState) -> ServiceState:
    for number in range(3):
        state = failed_after_connect(state, 100.0 + number, f"m{number}", "451 no")
    return state


def three_mailboxes(state: ServiceState) -> ServiceState:
    for number in range(3):
        state = unknown_at_node(state, 100.0 + number, MailboxKey(f"k{number}"))
    return state


@pytest.mark.parametrize(
    ("evidence", "after"),
    [
        (lambda state: connect_failed(state, 100.0, "refused"), (SUSPECT, SUSPECT, DOWN)),
        (three_messages, (SUSPECT, SUSPECT, DOWN)),
        (three_mailboxes, (SUSPECT, SUSPECT, DOWN)),
        (lambda state: probe_failed(state, 100.0, "timeout"), (SUSPECT, DOWN, DOWN)),
        (lambda state: probe_ok(state, 100.0, 99.0), (UP, UP, UP)),
        (lambda state: succeeded(state, 100.0), (UP, UP, UP)),
    ],
    ids=["connect", "messages", "mailboxes", "probe failed", "probe ok", "delivered"],
)
def test_table(evidence: Callable[[ServiceState], ServiceState], after: tuple[Health, Health, Health]) -> None:
    """Each evidence leads from each state to the state that the table says."""
    for before, expected in zip((UP, SUSPECT, DOWN), after, strict=True):
        assert evidence(in_health(before)).health is expected


def test_one_message_counts_once() -> None:
    """A message that is tried again and again is one witness."""
    state = WELL
    for attempt in range(10):
        state = failed_after_connect(state, 100.0 + attempt, "m1", "lost")
    assert state.health is UP


def test_kinds_of_witnesses_are_not_added() -> None:
    """Two failed messages and two unknown mailboxes are no case."""
    state = failed_after_connect(failed_after_connect(WELL, 1.0, "m1", "x"), 2.0, "m2", "x")
    state = unknown_at_node(unknown_at_node(state, 3.0, MailboxKey("k1")), 4.0, MailboxKey("k2"))
    assert state.health is UP


def test_window_is_a_minute() -> None:
    """The third message must fail within 60 s of the first."""
    state = failed_after_connect(failed_after_connect(WELL, 0.0, "m1", "x"), 30.0, "m2", "x")
    assert failed_after_connect(state, 60.5, "m3", "x").health is UP
    assert failed_after_connect(state, 59.5, "m3", "x").health is SUSPECT


def test_delivery_clears_witnesses() -> None:
    """A node that delivers between failures is not suspected for a few bad mailboxes."""
    state = WELL
    for number in range(20):
        state = failed_after_connect(state, float(number), f"m{number}", "x")
        state = succeeded(state, number + 0.5)
    assert state.health is UP


def test_old_probe_proves_nothing() -> None:
    """A probe that began before the failure does not lift it."""
    state = connect_failed(WELL, 100.0, "refused")
    assert probe_ok(state, 101.0, 99.9).health is SUSPECT
    assert probe_ok(state, 101.0, 100.1).health is UP


def test_relapse_is_held() -> None:
    """A node that probes well and fails again stays SUSPECT for 5 s, then 10, at most 60; a delivery ends it."""
    state, now_s, holds = connect_failed(WELL, 0.0, "x"), 0.0, []
    for _ in range(7):
        fell_s = now_s
        while (state := probe_ok(state, now_s, now_s)).health is not UP:
            now_s += 1.0
        holds.append(now_s - fell_s)
        now_s += 1.0
        state = connect_failed(state, now_s, "x")
    assert holds == [0.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    state = succeeded(state, now_s)
    assert probe_ok(connect_failed(state, now_s + 1, "x"), now_s + 2, now_s + 2).health is UP


def test_relapses_are_forgotten() -> None:
    """Five quiet minutes after a good probe, the next failure is the first one again."""
    state = connect_failed(probe_ok(connect_failed(WELL, 0.0, "x"), 1.0, 1.0), 302.0, "x")
    assert probe_ok(state, 303.0, 303.0).health is UP


def test_reason_is_fit_to_print() -> None:
    """What a peer said goes into the reason without control characters."""
    assert connect_failed(WELL, 0.0, "bad\r\nthing\x1b[0m").reason == "cannot connect: bad??thing?[0m"
