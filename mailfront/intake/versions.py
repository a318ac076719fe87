"""The message as filters have changed it: as it travels on, and the versions that only some recipients get.

A version for some is a message of its own in the queue, committed before anybody is delivered to: one id then always
stands for one content. Recipients that a filter adds are looked up here, by the rules of RCPT.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from mailfront.base.ids import MessageId
from mailfront.filters.edits import Edited
from mailfront.intake.filtering import Variant, leaves_of, sent_on
from mailfront.intake.kept import Keeping
from mailfront.intake.leaves import Expanded, Leaf, Target
from mailfront.intake.recipients import Recipients
from mailfront.intake.trace_header import with_trace, without_our_fields
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef, PrefixedBody
from mailfront.mail.envelope import Envelope, RecipientOptions
from mailfront.mail.outcome import Fate, Split
from mailfront.mail.reply import Reply, reply
from mailfront.observe.log import get

log = get("intake")

_ADDED = RecipientOptions(notify="NEVER")
"""The sender named nobody whom a filter adds, so he is not told what becomes of that copy."""
_NO_RECIPIENT = "a further recipient cannot be looked up now, try again later"


def traced(body: BodyRef, header: bytes, lines: bytes, edited: Edited | None) -> BodyRef:
    """The message as it travels on: our own lines in front, and the filters' edits made. `header` is that of `body`."""
    if edited is None:
        return with_trace(body, header, lines)
    return PrefixedBody(edited.top + lines + without_our_fields(edited.header), edited.rest)


async def look_up_added(
    recipients: Recipients, addresses: Iterable[Address], sender: Address | None, message_id: MessageId
) -> dict[Address, Target | Expanded] | Reply:
    """Whom filters add, as far as RCPT would have accepted them. A reply: it cannot be told now, so the message has to
    come again."""
    found: dict[Address, Target | Expanded] = {}
    for address in addresses:
        answer = await recipients.resolve(address, _ADDED, sender)
        if not isinstance(answer, Reply):
            found[address] = answer
            continue
        log.warning("a filter's recipient cannot be added", id=message_id, address=str(address), reply=str(answer))
        if answer.is_transient:
            return reply(451, "4.3.0", _NO_RECIPIENT)
    return found


async def queue_versions(
    keeping: Keeping,
    variants: Sequence[Variant],
    envelope: Envelope,
    leaves: Sequence[Leaf],
    recipients: Sequence[Sequence[int]],
    fates: dict[int, Fate],
    known: Collection[int],
    make: Callable[[Envelope, Edited | None], BodyRef],
    new_id: Callable[[], MessageId],
) -> None:
    """Commit the versions that only some recipients get, one after the other. Their leaves get the fate `Split`.

    `recipients[i]` are the leaves of RCPT i; leaves in `known` have the message from an earlier try. `make` makes the
    bytes. Raises Unavailable and OSError; versions before that are committed, and `fates` says so.
    """
    for variant in variants:
        indexes = [index for index in leaves_of(variant, recipients) if index not in known]
        if not indexes:
            continue
        part = replace(sent_on(envelope, variant.edited), id=new_id())
        retained = {place: fates[index] for place, index in enumerate(indexes) if index in fates}
        own = [leaves[index] for index in indexes]
        await keeping.commit_ahead(
            part, make(part, variant.edited), own, tried=(), left_out=(), fates=retained, told=()
        )
        fates.update(dict.fromkeys(indexes, Split(part.id)))
