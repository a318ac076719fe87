"""Mailboxes that their node called full a short while ago: the next message for one is refused at RCPT already.

So a sender hears it while he waits, and no body crosses the network for nothing. What one process learns the keeper
passes on to the others. In memory only, for `REMEMBERED_S` seconds, at most `MAX_ENTRIES`: a forgotten entry costs one
attempt. A mailbox that takes a message is no longer full for the process that delivered it; for the others when the
time is over.
"""

from collections.abc import Callable, Iterable

from mailfront.base.clock import Clock
from mailfront.mail.names import MailboxKey
from mailfront.mail.outcome import Delivered, Fate, says_full

REMEMBERED_S = 600.0
MAX_ENTRIES = 10_000


class FullMailboxes:
    """See the module. One per worker. `tell` passes on what this worker found out."""

    def __init__(self, clock: Clock, tell: Callable[[MailboxKey], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._until_s: dict[MailboxKey, float] = {}

    def is_full(self, key: MailboxKey) -> bool:
        """Whether the mailbox is remembered as full."""
        if not self._until_s:
            return False
        return self._until_s.get(key, 0.0) > self._clock.monotonic_s()

    def note(self, key: MailboxKey) -> None:
        """Somebody heard that it is full."""
        self._until_s.pop(key, None)
        while len(self._until_s) >= MAX_ENTRIES:
            del self._until_s[next(iter(self._until_s))]
        self._until_s[key] = self._clock.monotonic_s() + REMEMBERED_S

    def learn(self, outcomes: Iterable[tuple[MailboxKey, Fate]]) -> None:
        """Take in what became of copies of one message."""
        for key, outcome in outcomes:
            if isinstance(outcome, Delivered):
                if self._until_s:
                    self._until_s.pop(key, None)
            elif says_full(outcome):
                self.note(key)
                self._tell(key)
