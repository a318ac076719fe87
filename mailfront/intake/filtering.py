"""What the filter chain means for one message: refuse it, keep parts of it back, change it.

Order of calls per message: `mail` at MAIL, `rcpt` at each RCPT that the directory has accepted, `data` after end of
data and before any delivery. Each says at once, or lets itself be awaited, what the chain found; the findings of the
earlier stages take part in the ruling on the message.

Nothing is kept or delivered here, and nothing here survives a crash: the client was not told 250.
"""

import inspect
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mailfront.filters.arbitration import Ruling, arbitrate, one_reply
from mailfront.filters.chain import Chain, DeadlinePassed
from mailfront.filters.contract import Connection, EarlyTalk, Finding, Mail, Message, Rcpt, Recipient, Stage
from mailfront.filters.edits import Edited, added_recipients, apply, content_edits
from mailfront.filters.headers import MOST_FIELDS, Headers
from mailfront.intake.trace_header import HEADER_LIMIT_BYTES
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef
from mailfront.mail.client import ClientInfo
from mailfront.mail.envelope import Envelope
from mailfront.mail.outcome import Blame, Deferred, Discarded, Failed, Fate, Retained
from mailfront.mail.reply import Reply, reply
from mailfront.mail.verdict import Action, Edit
from mailfront.observe.log import get

log = get("filters")

_NOT_DONE = reply(451, "4.3.0", "the message could not be checked in time, try again later")
_HEADER_TOO_LONG = reply(
    552, "5.3.4", f"the header is too long: {HEADER_LIMIT_BYTES // 1024} KiB and {MOST_FIELDS} fields are possible"
)
_ANYBODY = Address("postmaster", "")

Refusal = tuple[Reply | None, tuple[Finding, ...]]
"""What the client hears, None: nothing against it; and what filters found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What filters made of one message.

    `refusal`: the one reply for everybody, or None. `fates[i]`: what becomes of RCPT i instead of a delivery, None: it
    is delivered. `edited`: the message as it goes on, None: as it came. `variants`: other versions of it, for RCPTs
    that filters bind in another way. `added`: recipients that filters want besides, each with its fate.
    """

    findings: tuple[Finding, ...] = ()
    refusal: Reply | None = None
    fates: tuple[Fate | None, ...] = ()
    edited: Edited | None = None
    variants: tuple["Variant", ...] = ()
    added: Mapping[Address, Fate | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Another version of the message: for which RCPTs, by number, and how it is changed; None: as it came."""

    recipients: frozenset[int]
    edited: Edited | None


class Screening:
    """Asks the chain for intake. One object per worker; intake has none if no filter is configured."""

    def __init__(self, chain: Chain, hostname: str) -> None:
        self.chain = chain
        self._hostname = hostname
        self.at_connect = chain.has(Stage.CONNECT)
        self.at_mail = chain.has(Stage.MAIL)
        self.at_rcpt = chain.has(Stage.RCPT)
        self._at_data = chain.has(Stage.DATA)

    def connect(self, client: ClientInfo, early: EarlyTalk) -> Refusal | Awaitable[Refusal]:
        """Ask before the greeting: at once if all filters answer at once. The refusal is said instead of the greeting,
        and the findings are for the messages."""
        asked = self.chain.ask(Stage.CONNECT, Connection(client=client, early=early))
        return _ruled(asked) if isinstance(asked, tuple) else _awaited(asked)

    async def mail(self, mail: Mail) -> Refusal:
        """Ask at MAIL."""
        return await self._refusal(Stage.MAIL, mail)

    async def rcpt(self, mail: Mail, recipient: Recipient) -> Refusal:
        """Ask about one recipient that the directory has accepted."""
        return await self._refusal(Stage.RCPT, Rcpt(mail=mail, recipient=recipient, earlier=mail.earlier))

    async def _refusal(self, stage: Stage, view: Mail | Rcpt) -> Refusal:
        asked = self.chain.ask(stage, view)
        return _ruled(asked) if isinstance(asked, tuple) else await _awaited(asked)

    async def data(
        self,
        envelope: Envelope,
        header: bytes,
        body: BodyRef,
        recipients: Sequence[Recipient],
        earlier: tuple[Finding, ...],
        *,
        deadline_s: float,
        per_recipient: bool,
    ) -> Screened:
        """Ask about the whole message. `header` is the header of `body`; `deadline_s` is by the loop's clock."""
        findings: tuple[Finding, ...] = ()
        headers = Headers(header)
        if self._at_data:
            if not _is_read_whole(headers):
                return Screened(findings=earlier, refusal=_HEADER_TOO_LONG)
            message = Message(
                id=envelope.id,
                client=envelope.client,
                reverse_path=envelope.reverse_path,
                recipients=tuple(recipients),
                header_bytes=header,
                body=body,
                arrived_s=envelope.arrived_s,
                hostname=self._hostname,
                smtputf8=envelope.smtputf8,
                earlier=earlier,
                cache={"headers": headers},
            )
            try:
                asked = self.chain.ask(Stage.DATA, message, deadline_s)
                findings = await asked if inspect.isawaitable(asked) else asked
            except DeadlinePassed as error:
                log.warning("filters were not done by the deadline", id=envelope.id, filters=str(error))
                return Screened(findings=earlier, refusal=_NOT_DONE)
        return _screened(earlier + findings, recipients, headers, body, per_recipient=per_recipient)


async def _awaited(asked: Awaitable[tuple[Finding, ...]]) -> Refusal:
    return _ruled(await asked)


def _ruled(findings: tuple[Finding, ...]) -> Refusal:
    return _reply_of(arbitrate(findings, (_ANYBODY,))[0]), findings


def _is_read_whole(headers: Headers) -> bool:
    """Whether filters see all fields. What stood behind the last one would pass as if it were not there: a forged
    result, a second From."""
    if len(headers.raw) >= HEADER_LIMIT_BYTES:
        return False
    return headers.raw.count(b"\n") <= MOST_FIELDS or len(headers.fields) <= MOST_FIELDS


def sent_on(envelope: Envelope, edited: Edited | None) -> Envelope:
    """The envelope of a version of the message. What was proven of one sender says nothing about another."""
    if edited is None or edited.sender is None or edited.sender.address == envelope.reverse_path:
        return envelope
    return replace(envelope, reverse_path=edited.sender.address, sender_proven=None)


def sender_proven(findings: Sequence[Finding]) -> bool | None:
    """What the filters together say about the reverse-path: a denial counts more than a proof. See `Verdict`."""
    words = {each.verdict.sender_proven for each in findings if not each.shadow}
    return False if False in words else True if True in words else None


def bound_to(findings: Sequence[Finding], index: int) -> tuple[Finding, ...]:
    """Findings of stage `rcpt` that say something, as findings about the recipient with that index."""
    return tuple(
        replace(each, binds=frozenset({index}))
        for each in findings
        if each.error or each.verdict.reason or each.verdict.edits or each.verdict.action is not Action.CONTINUE
    )


def leaves_of(variant: Variant, recipients: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The leaves that get a variant: those to which no other RCPT led. `recipients[i]` are the leaves of RCPT i."""
    others = {
        index for number, indexes in enumerate(recipients) if number not in variant.recipients for index in indexes
    }
    own = (index for number in sorted(variant.recipients) for index in recipients[number] if index not in others)
    return tuple(dict.fromkeys(own))


def mailbox_fates(recipients: Sequence[Sequence[int]], fates: Sequence[Fate | None]) -> dict[int, Fate]:
    """What becomes of mailboxes instead of a delivery. `recipients[i]` are the mailboxes that RCPT i led to.

    RCPTs that share a mailbox share the mildest of their fates. RCPTs without a fate are delivered.
    """
    found: dict[int, Fate | None] = {}
    for number, indexes in enumerate(recipients):
        fate = fates[number] if number < len(fates) else None
        for index in indexes:
            found[index] = min(found[index], fate, key=_harshness) if index in found else fate
    return {index: fate for index, fate in found.items() if fate is not None}


def _harshness(fate: Fate | None) -> int:
    return 0 if fate is None else _MILDEST_FIRST.index(type(fate))


_MILDEST_FIRST = (Discarded, Retained, Deferred, Failed)


def _screened(
    findings: tuple[Finding, ...],
    recipients: Sequence[Recipient],
    headers: Headers,
    body: BodyRef,
    *,
    per_recipient: bool,
) -> Screened:
    rulings = arbitrate(findings, [each.address for each in recipients])
    if not per_recipient:
        rulings = one_reply(rulings)
    refusals = [_reply_of(ruling) for ruling in rulings]
    if not per_recipient and refusals[0] is not None:
        return Screened(findings=findings, refusal=refusals[0])
    fates = tuple(_fate(ruling, refusal) for ruling, refusal in zip(rulings, refusals, strict=True))
    versions: dict[tuple[Edit, ...], list[int]] = {}
    added: dict[Address, Fate | None] = {}
    for number, (ruling, fate) in enumerate(zip(rulings, fates, strict=True)):
        # Who is removed gets no copy, but whom the filter names instead gets one: that is how filters redirect.
        if fate is None or isinstance(fate, Retained) or ruling.removes:
            sharing = versions.setdefault(content_edits(ruling.edits), [])
            if not ruling.removes:
                sharing.append(number)
            own = None if ruling.removes else fate
            for address in added_recipients(ruling.edits):
                added[address] = min(added.get(address, own), own, key=_harshness)
    main, *others = sorted(versions.items(), key=lambda version: -len(version[1])) or [((), [])]
    return Screened(
        findings=findings,
        fates=fates,
        edited=_edited(main[0], headers, body),
        variants=tuple(
            Variant(recipients=frozenset(numbers), edited=_edited(edits, headers, body))
            for edits, numbers in others
            if numbers
        ),
        added=added,
    )


def _edited(edits: tuple[Edit, ...], headers: Headers, body: BodyRef) -> Edited | None:
    return apply(edits, headers, body) if edits else None


def _reply_of(ruling: Ruling) -> Reply | None:
    """What the client hears if the ruling refuses."""
    if ruling.by is None or ruling.action not in (Action.REJECT, Action.TEMPFAIL):
        return None
    verdict = ruling.by.verdict
    return reply(verdict.code, verdict.enhanced, verdict.text)


def _fate(ruling: Ruling, refusal: Reply | None) -> Fate | None:
    match ruling.action:
        case Action.CONTINUE:
            return None
        case Action.DISCARD:
            return Discarded(ruling.reason)
        case Action.HOLD | Action.QUARANTINE:
            return Retained(ruling.reason, quarantined=ruling.action is Action.QUARANTINE)
        case Action.TEMPFAIL:
            assert refusal is not None
            return Deferred(Blame.MAILBOX, refusal, None)
        case Action.REJECT:
            assert refusal is not None
            return Failed(refusal, None)
