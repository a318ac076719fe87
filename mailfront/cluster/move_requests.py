"""Mailboxes whose host attribute in the directory names another node than their home.

The attribute decides a mailbox's first placement only; a later change is a wish that an administrator sees in `health`.
Kept in memory: a request comes again with the mailbox's next message. At most 1,000, each for a day after it was last
seen.
"""

from dataclasses import dataclass

from mailfront.base.clock import Clock
from mailfront.base.printable import printable
from mailfront.mail.names import MailboxKey, NodeId

MOST_MOVE_REQUESTS_COUNT = 1000
MOVE_REQUEST_LIFE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRequest:
    """The directory's host attribute names another node than the mailbox's home. An administrator decides."""

    key: MailboxKey
    home: NodeId
    host: str
    seen_s: float


class MoveRequestTable:
    """The keeper's list of move requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._requests: dict[MailboxKey, MoveRequest] = {}

    def note(self, key: MailboxKey, home: NodeId, host: str) -> None:
        """A host attribute disagrees with the home. Beyond the limit the oldest request is dropped."""
        self._requests.pop(key, None)
        self._requests[key] = MoveRequest(key=key, home=home, host=printable(host), seen_s=self._clock.wall_s())
        if len(self._requests) > MOST_MOVE_REQUESTS_COUNT:
            del self._requests[next(iter(self._requests))]

    def current(self) -> tuple[MoveRequest, ...]:
        """The requests seen within a day, oldest first."""
        since_s = self._clock.wall_s() - MOVE_REQUEST_LIFE_S
        self._requests = {key: request for key, request in self._requests.items() if request.seen_s > since_s}
        return tuple(self._requests.values())
