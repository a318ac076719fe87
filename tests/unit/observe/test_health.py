"""Conditions and alarms."""

from typing import Any

from mailfront.base.clock import ManualClock
from mailfront.observe import log
from mailfront.observe.health import MAX_KEPT, HealthTable, State


def test_a_condition_remembers_when_its_state_changed() -> None:
    """`since_s` moves with the state, not with the reason."""
    clock = ManualClock(1000.0)
    table = HealthTable(clock)
    assert table.set("node.store1", State.FAILED, "connection refused")
    clock.advance(60)
    assert not table.set("node.store1", State.FAILED, "timed out\r\nFAKE")
    condition = table.get("node.store1")
    assert condition is not None
    assert (condition.since_s, condition.reason) == (1000.0, "timed out??FAKE")
    assert table.set("node.store1", State.OK, "ignored")
    condition = table.get("node.store1")
    assert condition is not None
    assert (condition.since_s, condition.reason) == (1060.0, "")
    table.forget("node.store1")
    assert table.get("node.store1") is None


def test_an_alarm_is_told_once_counted_and_cleared() -> None:
    """Repetitions keep one alarm with a count and the last text; one event when raised, one when cleared."""
    clock = ManualClock(1000.0)
    table = HealthTable(clock)
    events: list[dict[str, Any]] = []
    with log.listening(events.append):
        for number in range(3):
            table.raise_alarm("storage.unknown_at_node", f"text {number}", node="store1")
            clock.advance(10)
        (alarm,) = table.alarms()
        table.clear_alarm("storage.unknown_at_node")
        table.clear_alarm("storage.unknown_at_node")
    assert (alarm.count, alarm.text, alarm.first_s, alarm.last_s) == (3, "text 2", 1000.0, 1020.0)
    assert [(event["state"], event["count"]) for event in events] == [("raised", 1), ("cleared", 3)]
    assert events[0]["node"] == "store1"


def test_a_quiet_alarm_clears_itself() -> None:
    """What nobody raised for its quiet time is over."""
    clock = ManualClock(1000.0)
    table = HealthTable(clock)
    table.raise_alarm("a", "text", quiet_s=60)
    clock.advance(59)
    assert len(table.alarms()) == 1
    clock.advance(2)
    assert table.alarms() == ()


def test_the_summary_is_as_bad_as_the_worst_part() -> None:
    """FAILED beats DEGRADED beats OK; an alarm alone degrades; reasons name each trouble."""
    table = HealthTable(ManualClock(1000.0))
    assert table.summary().state is State.OK
    table.set("store", State.OK)
    table.raise_alarm("x.y", "look at it")
    assert table.summary().state is State.DEGRADED
    table.set("directory", State.FAILED, "LDAP is down")
    table.set("node.store1", State.DEGRADED, "suspect")
    summary = table.summary()
    assert summary.state is State.FAILED
    assert [each.name for each in summary.conditions] == ["directory", "node.store1", "store"]
    shown = summary.as_json()
    assert shown["state"] == "failed"
    assert shown["reasons"] == ["directory: LDAP is down", "node.store1: suspect", "alarm x.y: look at it"]


def test_the_table_is_bounded() -> None:
    """No number of names makes the table grow without end."""
    table = HealthTable(ManualClock())
    for number in range(MAX_KEPT + 50):
        table.set(f"node.{number}", State.OK)
        table.raise_alarm(f"alarm.{number}", "text")
    summary = table.summary()
    assert len(summary.conditions) == len(summary.alarms) == MAX_KEPT
