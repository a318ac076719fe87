"""`health` and `config show`: how the running server is, and what it runs with."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mailfront.base.clock import Clock
from mailfront.cluster.move_requests import MoveRequest
from mailfront.observe.health import HealthTable, State

SHOWN_MOVE_REQUESTS = 100
_ADDRESS = re.compile(r"[^\s<>:;,@]*@")


class HealthService:
    """How the server is, with reasons. `/healthz` shows the same document."""

    def __init__(
        self, health: HealthTable, move_requests: Callable[[], tuple[MoveRequest, ...]], clock: Clock, *, version: str
    ) -> None:
        self._health = health
        self._move_requests = move_requests
        self._clock = clock
        self._version = version
        self._started_s = clock.monotonic_s()

    def show(self) -> dict[str, Any]:
        """Conditions, alarms and requests to move, as they are now."""
        requests = self._move_requests()
        return {
            **self._health.summary().as_json(),
            "version": self._version,
            "uptime_s": round(self._clock.monotonic_s() - self._started_s, 1),
            "move_requests_count": len(requests),
            "move_requests": [asdict(request) for request in requests[:SHOWN_MOVE_REQUESTS]],
        }

    def for_http(self) -> tuple[State, dict[str, Any]]:
        """The overall state and the document, for `http.application`: what anybody may see who reaches the page.

        No mailbox and no address is in it: of alarms only the names, and what nodes said without the addresses.
        """
        document = self.show()
        del document["move_requests"]
        alarms = document["alarms"]
        for alarm in alarms:
            del alarm["text"]
        for condition in document["conditions"]:
            condition["reason"] = _ADDRESS.sub("***@", condition["reason"])
        ill = [each for each in document["conditions"] if each["state"] != State.OK.value]
        document["reasons"] = [f"{each['name']}: {each['reason']}" for each in ill]
        document["reasons"] += [f"alarm {each['name']}; mailfront health says more" for each in alarms]
        return State(document["state"]), document


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningConfiguration:
    """The configuration in force: the text that was read, where from, and when (wall-clock seconds)."""

    path: str
    text: str
    loaded_s: float


class ConfigService:
    """Tells what the server runs with. `running` is asked anew each time: a reload changes it."""

    def __init__(self, running: Callable[[], RunningConfiguration]) -> None:
        self._running = running

    def show(self) -> RunningConfiguration:
        """The configuration in force. It holds no secret, only the names of their files."""
        return self._running()
