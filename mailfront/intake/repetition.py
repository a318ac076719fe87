"""One message that may be a repetition: the client was told 451 although some mailboxes had got it already.

`known_deliveries` before the fan-out says whom to skip; `forget_accepted` after the replies ends that, so that the same
bytes sent once more are a new message. `remember` is for a reply that denies what was delivered. The memory itself is
the worker's `RememberedTable`: it saves duplicates, never a message.
"""

from collections.abc import Iterable, Mapping, Sequence

from mailfront.intake.leaves import Leaf
from mailfront.intake.remembered import Mailbox, RememberedTable, body_sha256
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef
from mailfront.mail.outcome import Delivered, Fate, HandedOff, Split
from mailfront.mail.reply import Reply


class Repetition:
    """See the module. `recipients[i]` are the indexes of the leaves that RCPT i led to."""

    def __init__(
        self,
        table: RememberedTable,
        reverse_path: Address | None,
        leaves: Sequence[Leaf],
        recipients: Sequence[Sequence[int]],
    ) -> None:
        self._table = table
        self._sender = "" if reverse_path is None else reverse_path.key
        self._leaves = leaves
        self._recipients = recipients

    def known_deliveries(self, body: BodyRef, now_s: float) -> tuple[str, dict[int, Delivered | HandedOff | Split]]:
        """The body's hash, and the leaves that got these very bytes under an earlier 451. Hashes the body only if there
        may be any; `now_s` is wall clock."""
        self._table.forget_old(now_s)
        if not self._table:
            return "", {}
        sha256 = body_sha256(body)
        found = (
            (index, self._table.find(self._sender, _mailbox(leaf), sha256, now_s))
            for index, leaf in enumerate(self._leaves)
        )
        return sha256, {index: outcome for index, outcome in found if outcome is not None}

    def forget_accepted(self, known: Iterable[int], sha256: str, replies: Sequence[Reply]) -> None:
        """What was skipped in a repetition that is now accepted is not skipped once more."""
        for index in known:
            if self.is_accepted(index, replies):
                self._table.forget(self._sender, _mailbox(self._leaves[index]), sha256)

    def is_accepted(self, index: int, replies: Sequence[Reply]) -> bool:
        """Whether the client hears 250 for every RCPT that led to this leaf."""
        if len(replies) == 1:
            return replies[0].is_positive
        return all(answer.is_positive for answer, of in zip(replies, self._recipients, strict=True) if index in of)

    def remember(self, outcomes: Mapping[int, Fate], sha256: str, now_s: float) -> None:
        """Keep in mind which of these leaves have the message although the client is not told so."""
        for index, outcome in outcomes.items():
            if isinstance(outcome, Delivered | HandedOff | Split):
                self._table.remember(self._sender, _mailbox(self._leaves[index]), sha256, outcome, now_s)


def _mailbox(leaf: Leaf) -> Mailbox:
    return leaf.mailbox_key, leaf.node_user
