"""What a worker tells the keeper without waiting: suspicions, alarms, wishes to move.

News is best effort. While the keeper is away it is dropped: a suspicion works in this worker all the same, alarms and
wishes come again with the next message. At most `MOST_IN_FLIGHT` are under way; the same news within `REPEAT_S` is
told once.
"""

from typing import Any

from mailfront.base.clock import Clock
from mailfront.base.errors import Unavailable
from mailfront.base.tasks import spawn
from mailfront.net.channel import Channel
from mailfront.observe.log import get

MOST_IN_FLIGHT = 64
REPEAT_S = 5.0
TIMEOUT_S = 10.0
_MOST_REMEMBERED = 1000

log = get("worker")


class KeeperNews:
    """See the module. One per worker."""

    def __init__(self, keeper: Channel, clock: Clock) -> None:
        self._keeper = keeper
        self._clock = clock
        self._in_flight_count = 0
        self._told_s: dict[tuple[str, str], float] = {}

    def tell(self, verb: str, about: str, payload: dict[str, Any]) -> None:
        """Send news about something. `about` names it: repetitions are dropped. Never waits, never raises."""
        now_s = self._clock.monotonic_s()
        if now_s - self._told_s.get((verb, about), -REPEAT_S) < REPEAT_S or self._in_flight_count >= MOST_IN_FLIGHT:
            return
        if len(self._told_s) >= _MOST_REMEMBERED:
            self._told_s.clear()
        self._told_s[(verb, about)] = now_s
        self._in_flight_count += 1
        spawn(self._send(verb, payload), name=f"tell {verb}")

    async def _send(self, verb: str, payload: dict[str, Any]) -> None:
        try:
            await self._keeper.request(verb, payload, timeout_s=TIMEOUT_S)
        except Unavailable as error:
            log.debug("news for the keeper was dropped", verb=verb, reason=str(error))
        finally:
            self._in_flight_count -= 1

    def raise_alarm(self, name: str, text: str, *, node: str = "", id: str = "", mailbox: str = "") -> None:
        """Have the keeper raise an alarm."""
        details = {"node": node, "id": id, "mailbox": mailbox}
        self.tell("alarm", name, {"name": name, "text": text, "details": {k: v for k, v in details.items() if v}})
