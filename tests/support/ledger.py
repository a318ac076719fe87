"""The invariant: every acknowledged message is in exactly one place per mailbox.

A test writes down what it sent (`Ledger.sent`) and what the client was told
(`acknowledged`). Then it says what it found (`found_in_mailbox`, `found_queued`,
`found_handed_off`, or `scan_node`), and `check()` compares:

    lost         acknowledged, and in no mailbox, queue or handoff mailbox
    duplicated   more than one copy in one mailbox, or in the mailboxes of two nodes, that nothing excuses
    misplaced    in a mailbox of a node that is not its home
    strangers    in a mailbox that it was not sent to, or a token nobody sent

A message without a reply after its final dot may arrive: that is no stranger. It
is counted as `delivered_unacknowledged`.

A second copy is excused, and counted apart, in two cases only. Copies with the
same Mailfront-Id: an unknown outcome was recorded for that id
(`outcome_unknown`). Copies with different ids: the client sent a final dot and
got no reply (`unanswered`), so it had to send again; once for each time.

Copies in the queue or in a handoff mailbox beside a delivered one are not
duplicates yet: they are what an unknown outcome looks like. They are counted as
`pending_beside_delivered`; a test that waited for the queue to empty expects 0.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

TOKEN_HEADER = "X-Ledger-Token"
_TOKEN = re.compile(rb"^" + TOKEN_HEADER.encode() + rb": *([!-~]+)", re.MULTILINE | re.IGNORECASE)
_ID = re.compile(rb"^Mailfront-Id: *([!-~]+)", re.MULTILINE | re.IGNORECASE)

Place = tuple[str, str]  # (token, mailbox)


class ReadableNode(Protocol):
    """A node whose mailboxes can be read."""

    id: str

    def all_messages(self) -> Mapping[str, list[bytes]]: ...

    def handoff_messages(self) -> list[bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerReport:
    """What `check` found. `str()` prints the counts and the first few names of each fault."""

    sent: int
    acknowledged: int
    delivered: int
    queued: int
    handed_off: int
    delivered_unacknowledged: int
    pending_beside_delivered: int
    excused_duplicates: int
    lost: tuple[Place, ...]
    duplicated: tuple[Place, ...]
    misplaced: tuple[tuple[str, str, str], ...]
    strangers: tuple[Place, ...]

    def assert_kept(self, *, duplicates_allowed: int = 0) -> None:
        """Raise AssertionError when the invariant is broken, with the whole report."""
        broken = self.lost or self.misplaced or self.strangers or len(self.duplicated) > duplicates_allowed
        if broken:
            raise AssertionError(f"the ledger does not balance\n{self}")

    def __str__(self) -> str:
        counts = (
            f"sent {self.sent}, acknowledged {self.acknowledged}, delivered {self.delivered}, queued {self.queued}, "
            f"handed off {self.handed_off}, delivered without a reply {self.delivered_unacknowledged}, "
            f"pending beside delivered {self.pending_beside_delivered}, excused duplicates {self.excused_duplicates}"
        )
        faults = [
            f"{name} {len(items)}" + (f": {', '.join(map(str, items[:5]))}" if items else "")
            for name, items in (
                ("lost", self.lost),
                ("duplicated", self.duplicated),
                ("misplaced", self.misplaced),
                ("strangers", self.strangers),
            )
        ]
        return "\n".join([counts, *faults])


class Ledger:
    """What was sent and where it was found; one entry per (token, mailbox)."""

    def __init__(self) -> None:
        self._sent: dict[Place, bool] = {}
        self._delivered: Counter[tuple[str, str, str]] = Counter()
        self._ids: dict[Place, list[str]] = {}
        self._unanswered: Counter[str] = Counter()
        self._unknown_ids: set[str] = set()
        self._queued: set[tuple[str, str | None]] = set()
        self._handed_off: set[tuple[str, str | None]] = set()

    def sent(self, token: str, mailboxes: Iterable[str], *, acknowledged: bool) -> None:
        """Write down a message. The token is unique; the mailboxes are names as the node knows them."""
        for mailbox in mailboxes:
            if (token, mailbox) in self._sent:
                raise ValueError(f"{token} was sent to {mailbox} twice; tokens are unique")
            self._sent[token, mailbox] = acknowledged

    def unanswered(self, token: str) -> None:
        """A client sent the final dot of this message and got no reply; it may have sent the message again."""
        self._unanswered[token] += 1

    def outcome_unknown(self, message_id: str) -> None:
        """The front end wrote down that it does not know whether an attempt with this Mailfront-Id worked."""
        self._unknown_ids.add(message_id)

    def found_in_mailbox(self, token: str, mailbox: str, node_id: str, message_id: str = "") -> None:
        """One copy in a mailbox of a node, with its Mailfront-Id where that is known."""
        self._delivered[token, mailbox, node_id] += 1
        self._ids.setdefault((token, mailbox), []).append(message_id)

    def found_queued(self, token: str, mailbox: str | None = None) -> None:
        """A row of the queue; without a mailbox it stands for all mailboxes of the token."""
        self._queued.add((token, mailbox))

    def found_handed_off(self, token: str, mailbox: str | None = None) -> None:
        """A copy in a handoff mailbox; without a mailbox it stands for all mailboxes of the token."""
        self._handed_off.add((token, mailbox))

    def scan_node(
        self, node: ReadableNode, *, handoff_mailboxes: Callable[[bytes], Iterable[str]] | None = None
    ) -> None:
        """Read all mailboxes and the handoff mailbox of a node from its disk.

        `handoff_mailboxes` tells from a handed-off copy which mailboxes it is for.
        Mail without a token is not ours and is passed over.
        """
        for mailbox, messages in node.all_messages().items():
            for message in messages:
                if (token := token_of(message)) is not None:
                    self.found_in_mailbox(token, mailbox, node.id, id_of(message) or "")
        for message in node.handoff_messages():
            if (token := token_of(message)) is not None:
                mailboxes: Iterable[str | None] = [None]
                if handoff_mailboxes is not None:
                    mailboxes = list(handoff_mailboxes(message))
                for mailbox_or_all in mailboxes:
                    self.found_handed_off(token, mailbox_or_all)

    def check(self, home: Callable[[str], str] | None = None) -> LedgerReport:
        """Compare. `home` names the node of a mailbox; without it, nothing is called misplaced."""
        copies: Counter[Place] = Counter()
        for (token, mailbox, _), count in self._delivered.items():
            copies[token, mailbox] += count
        twice = [place for place, count in copies.items() if count > 1]
        queued = {place for place in self._sent if _covers(self._queued, place)}
        handed_off = {place for place in self._sent if _covers(self._handed_off, place)}
        return LedgerReport(
            sent=len(self._sent),
            acknowledged=sum(self._sent.values()),
            delivered=sum(1 for place in self._sent if copies[place]),
            queued=len(queued),
            handed_off=len(handed_off),
            delivered_unacknowledged=sum(
                1 for place, acknowledged in self._sent.items() if copies[place] and not acknowledged
            ),
            pending_beside_delivered=sum(1 for place in queued | handed_off if copies[place]),
            excused_duplicates=sum(copies[place] - 1 for place in twice if self._is_excused(place)),
            lost=tuple(
                place
                for place, acknowledged in self._sent.items()
                if acknowledged and not copies[place] and place not in queued and place not in handed_off
            ),
            duplicated=tuple(place for place in twice if not self._is_excused(place)),
            misplaced=tuple(found for found in self._delivered if home is not None and home(found[1]) != found[2]),
            strangers=tuple(place for place in copies if place not in self._sent),
        )

    def _is_excused(self, place: Place) -> bool:
        copies_of_id = Counter(self._ids[place])
        sent_again = len(copies_of_id) - 1 <= self._unanswered[place[0]]
        return sent_again and all(count == 1 or known in self._unknown_ids for known, count in copies_of_id.items())


def token_of(message: bytes) -> str | None:
    """Return the token in a message's header, or None."""
    header = re.split(rb"\r?\n\r?\n", message, maxsplit=1)[0]  # a returned message in the body is another one
    match = _TOKEN.search(header)
    return None if match is None else match[1].decode()


def id_of(message: bytes) -> str | None:
    """Return the Mailfront-Id in a message's header, or None."""
    match = _ID.search(re.split(rb"\r?\n\r?\n", message, maxsplit=1)[0])
    return None if match is None else match[1].decode()


def message_with(token: str, *, size_bytes: int = 0, subject: str = "ledger") -> bytes:
    """Return a small message with CRLF line ends that carries a token, of at least `size_bytes` bytes."""
    head = (
        f"From: sender@example.org\r\nTo: undisclosed-recipients:;\r\nSubject: {subject}\r\n"
        f"Message-ID: <{token}@example.org>\r\n{TOKEN_HEADER}: {token}\r\n\r\n"
    ).encode()
    line = b"0123456789 the quick brown fox jumps over the lazy dog 0123456789\r\n"
    return head + line * (1 + max(0, size_bytes - len(head)) // len(line))


def _covers(found: set[tuple[str, str | None]], place: Place) -> bool:
    return place in found or (place[0], None) in found
