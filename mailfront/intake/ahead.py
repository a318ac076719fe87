"""A message that surely needs the queue: it is committed before the fan-out.

Surely: a recipient outside or behind a route, a group of more than `CUT_THROUGH_MOST`, a sender who asked to hear of
success. One accept keeps the whole message under its one id. What is then delivered while the client waits has rows
that are `active` in this process; `finish` ends them by what came out. If this process dies first, they are `unknown`
at their homes and looked for there; whatever the client heard, nothing that was promised is lost.

A refusal that the client hears itself ends its rows without a notice to anybody. Nothing of such a message is handed
off: it is in the queue already.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.intake.fanout import FanoutResult
from mailfront.intake.fold import fold
from mailfront.intake.kept import Keeping
from mailfront.intake.leaves import Expanded, Leaf, Target
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import Envelope
from mailfront.mail.outcome import Deferred, Discarded, Failed, Fate, Split
from mailfront.mail.reply import Reply, reply
from mailfront.observe.log import get
from mailfront.queue.dsn import NoticeKind, notify_wants
from mailfront.queue.port import QueuePort

log = get("intake")

_LOOP = reply(554, "5.4.6", "this message has been forwarded from here already: its forwards go round in a circle")
_DELIVERED_TO = re.compile(rb"^delivered-to:[ \t]*<?([^\r\n>]*)", re.IGNORECASE | re.MULTILINE)


def needs_queue(leaf: Leaf) -> bool:
    """Whether a leaf surely needs the queue. A sender who wants to hear of success gets a notice from there, unless the
    node tells him, which nobody knows before it was asked."""
    return not is_tried_now(leaf) or notify_wants(leaf.options.notify, NoticeKind.DELIVERED)


def is_tried_now(leaf: Leaf) -> bool:
    """Whether it is delivered to while the client waits."""
    return isinstance(leaf, Target) and not leaf.through_queue


class CommittedAhead:
    """See the module. One per message: `commit`, the fan-out, `finish`."""

    def __init__(
        self,
        keeping: Keeping,
        queue: QueuePort,
        accepted: Sequence[Target | Expanded],
        leaves: Sequence[Leaf],
        recipients: Sequence[tuple[int, ...]],
        fates: Mapping[int, Fate],
    ) -> None:
        """`recipients[i]` are the indexes of the leaves that RCPT i, `accepted[i]`, led to. `fates` are the filters'
        word about leaves."""
        self._keeping = keeping
        self._queue = queue
        self._accepted = accepted
        self._leaves = leaves
        self._recipients: list[tuple[int, ...]] = list(recipients)
        self._tried: Collection[int] = ()
        self.fates: dict[int, Fate] = dict(fates)
        """What is decided without a delivery; complete after `commit`."""

    async def commit(
        self, envelope: Envelope, body: BodyRef, header: bytes, known: Collection[int], *, per_recipient: bool
    ) -> Reply | None:
        """Keep everything. Returns the reply if nothing can be promised, else None.

        `known` are leaves that an earlier try of the client has been delivered to.
        """
        self._turn_back(header)
        refusals = [self._refusal_of(indexes) for indexes in self._recipients]
        if refusals and all(refusals) and not per_recipient:
            return refusals[0]
        self._tried = {
            index
            for index, leaf in enumerate(self._leaves)
            if index not in known and index not in self.fates and is_tried_now(leaf)
        }
        kept = {
            index
            for refusal, indexes in zip(refusals, self._recipients, strict=True)
            if refusal is None or not per_recipient
            for index in indexes
            if index not in known and not isinstance(self.fates.get(index), Discarded | Split)
        }
        if not kept:
            return None
        try:
            await self._keeping.commit_ahead(
                envelope,
                body,
                self._leaves,
                tried=self._tried,
                left_out=set(range(len(self._leaves))) - kept,
                fates=self.fates,
                told=[
                    (each.address, each.options, each.success)
                    for each in self._accepted
                    if isinstance(each, Expanded) and each.success is not None
                ],
            )
        except (Unavailable, OSError) as error:
            if isinstance(error, OSError):  # no memory or no descriptor for the body on its way to the keeper
                log.error("a message cannot be given to the queue", id=envelope.id, exc_info=error)
            return reply(451, "4.3.0", "our queue cannot keep mail now, try again later")
        return None

    async def finish(
        self,
        message_id: MessageId,
        outcomes: Sequence[Fate],
        result: FanoutResult,
        *,
        per_recipient: bool,
        asked_count: int,
    ) -> tuple[Reply, ...]:
        """End the rows of what was tried, and say what the client hears; see `fold` for `asked_count`.

        Rows of attempts that are still running are left to the caller.
        """
        decision = fold(message_id, self._recipients, outcomes, per_recipient=per_recipient, asked_count=asked_count)
        heard = decision.replies if per_recipient else decision.replies * len(self._recipients)
        promised = {
            index for answer, of in zip(heard, self._recipients, strict=True) if answer.is_positive for index in of
        }
        running = {index for _, indexes in result.pending for index in indexes}
        ended = {index: result.outcomes[index] for index in sorted(self._tried) if index not in running}
        if ended:
            withdrawn = [index for index in ended if index not in promised]
            await self._queue.settle(message_id, ended, withdrawn=withdrawn)
        return decision.replies

    def _refusal_of(self, indexes: Sequence[int]) -> Reply | None:
        """What the client hears of a RCPT of which everything is refused already."""
        fates = [self.fates.get(index) for index in indexes]
        refused = [fate for fate in fates if isinstance(fate, Failed | Deferred)]
        if len(refused) < len(fates) or len({type(fate) for fate in refused}) > 1:
            return None
        return refused[0].reply

    def _turn_back(self, header: bytes) -> None:
        """Forwards that have sent this very message out before are not sent out again: it would go round for ever. Who
        has other copies under way gets those; whom it would have reached in no other way hears that it failed."""
        if not any(leaf.via and not isinstance(leaf, Target) for leaf in self._leaves):
            return
        seen = {match.strip().lower().decode("ascii", "replace") for match in _DELIVERED_TO.findall(header)}
        back = {
            index
            for index, leaf in enumerate(self._leaves)
            if leaf.via and not isinstance(leaf, Target) and leaf.via.lower() in seen
        }
        self.fates.update(dict.fromkeys(back, Failed(_LOOP, None)))
        for number, indexes in enumerate(self._recipients):
            self._recipients[number] = tuple(index for index in indexes if index not in back) or indexes
