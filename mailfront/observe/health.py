"""What is well and what is not: named conditions, and alarms. One table per process; the keeper's is the front end's.

A condition is set by the part that knows (`directory`, `store`, `node.store1`) and stays until it is set again. An
alarm is a fault that a person must see; it is raised again with each occurrence, counts them, and stays until it is
cleared or nobody raised it for `quiet_s`. Changes are told as `alarm` events, repetitions are only counted.

In memory only: after a restart every part says anew how it is. At most 1,000 conditions and alarms are kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from mailfront.base.clock import Clock
from mailfront.base.printable import printable
from mailfront.observe import metrics
from mailfront.observe.log import emit

MAX_KEPT = 1000
MAX_TEXT_CHARS = 1000
DEFAULT_QUIET_S = 3600.0


class State(Enum):
    """How a part is. DEGRADED: works with less; FAILED: does not do its work."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


_WORST_LAST = (State.OK, State.DEGRADED, State.FAILED)


@dataclass(frozen=True, slots=True)
class Condition:
    """The state of one part. `since_s`: wall-clock time of the last change of state; `reason`: '' when ok."""

    name: str
    state: State
    reason: str
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One alarm that is raised. `text` is of the last time; times are wall-clock seconds."""

    name: str
    text: str
    count: int
    first_s: float
    last_s: float
    quiet_s: float


@dataclass(frozen=True, slots=True)
class Summary:
    """All of it at one moment. Alarms degrade the whole, they do not fail it."""

    state: State
    conditions: tuple[Condition, ...]
    alarms: tuple[Alarm, ...]

    def as_json(self) -> dict[str, Any]:
        """What `/healthz` and `health --json` show; `reasons` says in one line each what is not ok."""
        bad = [each for each in self.conditions if each.state is not State.OK]
        return {
            "state": self.state.value,
            "reasons": [f"{each.name}: {each.reason}" for each in bad]
            + [f"alarm {each.name}: {each.text}" for each in self.alarms],
            "conditions": [
                {"name": each.name, "state": each.state.value, "reason": each.reason, "since_s": each.since_s}
                for each in self.conditions
            ],
            "alarms": [
                {
                    "name": each.name,
                    "text": each.text,
                    "count": each.count,
                    "first_s": each.first_s,
                    "last_s": each.last_s,
                }
                for each in self.alarms
            ],
        }


class HealthTable:
    """Owner of the conditions and alarms of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._conditions: dict[str, Condition] = {}
        self._alarms: dict[str, Alarm] = {}

    def set(self, name: str, state: State, reason: str = "") -> bool:
        """Record how a part is. Returns whether its state changed."""
        before = self._conditions.get(name)
        if before is None and len(self._conditions) >= MAX_KEPT:
            return False
        reason = "" if state is State.OK else printable(reason, MAX_TEXT_CHARS)
        changed = before is None or before.state is not state
        since_s = self._clock.wall_s() if before is None or changed else before.since_s
        self._conditions[name] = Condition(name, state, reason, since_s)
        return changed

    def forget(self, name: str) -> None:
        """Remove a part that does not exist any more, such as a node that was taken out."""
        self._conditions.pop(name, None)

    def get(self, name: str) -> Condition | None:
        """The state of one part, if it ever said."""
        return self._conditions.get(name)

    def raise_alarm(self, name: str, text: str, *, quiet_s: float = DEFAULT_QUIET_S, **details: str) -> None:
        """Raise an alarm, or count it once more. `text`: what, where, what to do.

        It clears by itself when it was not raised for `quiet_s`. `details`: fields of the `alarm` event (node, id,
        mailbox).
        """
        now_s = self._clock.wall_s()
        text = printable(text, MAX_TEXT_CHARS)
        before = self._alarms.get(name)
        if before is not None:
            self._alarms[name] = replace(before, text=text, count=before.count + 1, last_s=now_s, quiet_s=quiet_s)
            return
        if len(self._alarms) >= MAX_KEPT:
            return
        self._alarms[name] = Alarm(name=name, text=text, count=1, first_s=now_s, last_s=now_s, quiet_s=quiet_s)
        emit("alarm", name=name, state="raised", text=text, count=1, **details)
        metrics.ALARMS_ACTIVE.set(len(self._alarms))

    def clear_alarm(self, name: str) -> None:
        """The fault is over. Nothing happens if the alarm is not raised."""
        alarm = self._alarms.pop(name, None)
        if alarm is not None:
            emit("alarm", name=name, state="cleared", text=alarm.text, count=alarm.count)
            metrics.ALARMS_ACTIVE.set(len(self._alarms))

    def alarms(self) -> tuple[Alarm, ...]:
        """What is raised now, oldest first. Alarms that were quiet for long enough are cleared."""
        now_s = self._clock.wall_s()
        for alarm in list(self._alarms.values()):
            if now_s - alarm.last_s > alarm.quiet_s:
                self.clear_alarm(alarm.name)
        return tuple(self._alarms.values())

    def summary(self) -> Summary:
        """All of it, worst state first within the conditions."""
        alarms = self.alarms()
        conditions = sorted(self._conditions.values(), key=lambda each: (-_WORST_LAST.index(each.state), each.name))
        return Summary(_overall(conditions, alarms), tuple(conditions), alarms)


def _overall(conditions: Iterable[Condition], alarms: tuple[Alarm, ...]) -> State:
    states = [each.state for each in conditions] + [State.DEGRADED] * bool(alarms)
    return max(states, key=_WORST_LAST.index, default=State.OK)
