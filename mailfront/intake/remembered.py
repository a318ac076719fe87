"""Deliveries that happened although we had to answer 451.

If a fan-out delivered to some mailboxes and the queue then could not commit the rest, the client is told 451 and will
send everything again. This table remembers what was delivered, so that the second time those mailboxes are skipped.
In memory of one worker only: an entry saves a duplicate, never a message. At most `MAX_ENTRIES`, each for 24 hours.

An entry is for one repetition. Once that was accepted it must be forgotten: a program that sends the same bytes every
night wants them delivered every night.
"""

import hashlib

from mailfront.mail.body import BodyRef
from mailfront.mail.names import MailboxKey, NodeUser
from mailfront.mail.outcome import Delivered, HandedOff, Split

MAX_ENTRIES = 10_000
LIFETIME_S = 24 * 3600.0

Mailbox = tuple[MailboxKey, NodeUser]
Key = tuple[str, Mailbox, str]


class RememberedTable:
    """What was delivered under a reply that denied it. One owner: the intake of one worker."""

    def __init__(self) -> None:
        self._entries: dict[Key, tuple[float, Delivered | HandedOff | Split]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def remember(
        self, sender: str, mailbox: Mailbox, sha256: str, outcome: Delivered | HandedOff | Split, now_s: float
    ) -> None:
        """Keep one delivery in mind. The oldest entry goes when the table is full."""
        while len(self._entries) >= MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._entries[(sender, mailbox, sha256)] = (now_s + LIFETIME_S, outcome)

    def find(self, sender: str, mailbox: Mailbox, sha256: str, now_s: float) -> Delivered | HandedOff | Split | None:
        """The earlier delivery of the same bytes from the same sender to the same mailbox, if it is known."""
        entry = self._entries.get((sender, mailbox, sha256))
        return entry[1] if entry is not None and entry[0] > now_s else None

    def forget(self, sender: str, mailbox: Mailbox, sha256: str) -> None:
        """The repetition was accepted: the next message is a new one, whatever its bytes."""
        self._entries.pop((sender, mailbox, sha256), None)

    def forget_old(self, now_s: float) -> None:
        """Drop what is over, so that an empty table costs nothing again."""
        while self._entries:
            key, (until_s, _) = next(iter(self._entries.items()))
            if until_s > now_s:
                return
            del self._entries[key]


def body_sha256(body: BodyRef) -> str:
    """Hash the message as the client sent it, without our own trace lines."""
    digest = hashlib.sha256()
    for piece in body.pieces():
        digest.update(piece)
    return digest.hexdigest()
