"""Asks the directory what an expansion wants to know, and makes leaves of what comes out.

All or nothing: if anybody on the way cannot be looked up now, the answer is `451`, never a part of a list. What an
administrator must mend (a member that does not exist, a list that is too long) is an alarm; see `expansion` for the
rules. A warm expansion asks no server. A cold one asks for at most `AT_ONCE` members at a time, all expansions of the
process together, so that a long list does not keep the directory from everybody else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from mailfront.base.printable import printable
from mailfront.directory.answers import ALARM_UNREACHABLE, Answer, Audience, CannotSay, Found, Member, NoSuch
from mailfront.intake.expansion import Away, Box, Expansion, Gate, HopOf, Owner, Question, Step
from mailfront.intake.leaves import CUT_THROUGH_MOST, Expanded, HopLeaf, Leaf, Target
from mailfront.mail.address import Address
from mailfront.mail.envelope import NO_OPTIONS, RecipientOptions
from mailfront.mail.names import MailboxKey
from mailfront.mail.next_hop import RELAY
from mailfront.mail.reply import Reply, reply
from mailfront.queue.dsn import NoticeKind, notify_wants

AT_ONCE = 16
_YIELD_EVERY = 256
"""Warm answers do not yield by themselves: five thousand of them would hold the loop for longer than it should."""

T = TypeVar("T")
R = TypeVar("R")
Who = Callable[[Member], Awaitable[Answer]]
MakeTarget = Callable[[Box, RecipientOptions], Awaitable[Target | Reply]]
RaiseAlarm = Callable[[str, str], None]


class Expander:
    """See the module. `target_of` finds the home of a mailbox, or the reply that refuses it."""

    def __init__(
        self,
        who: Who,
        target_of: MakeTarget,
        hop_of: HopOf,
        raise_alarm: RaiseAlarm,
        *,
        is_full: Callable[[MailboxKey], bool],
        local_domains: frozenset[str],
        relays: bool,
        most: int,
    ) -> None:
        self._who = who
        self._target_of = target_of
        self._hop_of = hop_of
        self._raise_alarm = raise_alarm
        self._is_full = is_full
        self._local_domains = local_domains
        self._relays = relays
        self._most = most
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def expand(
        self, address: Address, options: RecipientOptions, found: Found, sender: Address | None
    ) -> Expanded | Reply:
        """Everybody whom mail from `sender` to `address` reaches, or the reply that refuses it. Cancellation is
        safe."""
        expansion = Expansion(self._hop_of, most=self._most)
        if (unknown := await self._explore(expansion, found)) is not None:
            return self._cannot_say(address, unknown)
        if expansion.is_over:
            text = f"{address} leads to more than {self._most} recipients; split it, or raise the limit max_members"
            self._raise_alarm("directory.list_too_long", text)
            return reply(451, "4.3.5", f"<{address}>: this list has more members than we serve, try again later")
        for gate in expansion.gates:
            refusal = await self._refused_at(gate, sender)
            if refusal is not None:
                return refusal
        if expansion.left_out:
            more = f" (and {len(expansion.left_out) - 1} more)" if len(expansion.left_out) > 1 else ""
            self._raise_alarm("directory.left_out", f"{address}: {printable(expansion.left_out[0])}{more}")
        if not expansion.boxes and not expansion.aways:
            return _leads_nowhere(address, expansion)
        leaves = await self._leaves(address, options, expansion)
        if isinstance(leaves, Reply):
            return leaves
        success, classes = _success(options, leaves), found.record.classes
        return Expanded(address=address, options=options, leaves=tuple(leaves), classes=classes, success=success)

    async def steps(self, found: Found) -> list[Step] | CannotSay:
        """The whole way that mail for this entry goes, for people to look at: whoever the sender is, and cut where the
        list gets too long."""
        steps: list[Step] = []
        unknown = await self._explore(Expansion(self._hop_of, most=self._most, steps=steps), found)
        return steps if unknown is None else unknown

    async def _explore(self, expansion: Expansion, found: Found) -> CannotSay | None:
        expansion.begin(found)
        while questions := expansion.take():
            answers = await self._ask(questions)
            if isinstance(answers, CannotSay):
                return answers
            for question, answer in zip(questions, answers, strict=True):
                expansion.answer(question, answer)
        return None

    async def _leaves(self, address: Address, options: RecipientOptions, expansion: Expansion) -> list[Leaf] | Reply:
        boxes, aways = expansion.boxes, expansion.aways
        if not self._relays and any(away.hop == RELAY for away in aways):
            text = f"{address} is forwarded outside, and no outbound.smarthost is set"
            self._raise_alarm("outbound.no_smarthost", text)
            return reply(451, "4.3.5", f"<{address}>: forwards to other sites are not set up yet, try again later")
        is_single = len(boxes) + len(aways) == 1
        if is_single and boxes and (boxes[0].record.over_quota or self._is_full(boxes[0].record.key)):
            return reply(452, "4.2.2", f"<{address}>: this mailbox is full, try again later")
        passed_on = options if is_single else _without_success(options)
        leaves: list[Leaf] = []
        # Of a list, and of an address that is several, success is told at once: nothing may be refused after that.
        has_owner = any(box.owner is not None for box in boxes) or any(away.owner is not None for away in aways)
        is_told = (has_owner or not is_single) and notify_wants(options.notify, NoticeKind.DELIVERED)
        through_queue = is_told or len(boxes) > CUT_THROUGH_MOST

        async def home_of(box: Box) -> Target | Reply:
            return await self._target_of(box, NO_OPTIONS if _address_of(box.owner) else passed_on)

        for box, target in zip(boxes, await self._each(boxes, home_of), strict=True):
            if isinstance(target, Target):
                name = target.address if box.via else address
                leaves.append(replace(target, address=name, through_queue=through_queue))
            elif target.is_transient:
                return target
        leaves += [_hop_leaf(away, passed_on) for away in aways]
        return leaves or _leads_nowhere(address, expansion)

    async def _ask(self, questions: Sequence[Question]) -> list[Found | NoSuch] | CannotSay:
        """All the answers in order, or the first that cannot be given: then the others are not waited for."""
        unknown: list[CannotSay] = []

        async def one(question: Question) -> Found | NoSuch | CannotSay:
            answer = unknown[0] if unknown else await self._who(question.name)
            if isinstance(answer, CannotSay):
                unknown.append(answer)
            return answer

        answers = await self._each(questions, one)
        return unknown[0] if unknown else [answer for answer in answers if not isinstance(answer, CannotSay)]

    async def _each(self, items: Sequence[T], call: Callable[[T], Awaitable[R]]) -> list[R]:
        """Call for each, a few at a time; the results in order. What does not wait is done without a detour."""
        results: dict[int, R] = {}
        left = iter(enumerate(items))

        async def work() -> None:
            for number, item in left:
                async with self._turns:
                    results[number] = await call(item)
                if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                    await asyncio.sleep(0)

        if len(items) == 1:
            await work()
        else:
            await asyncio.gather(*(work() for _ in range(min(AT_ONCE // 2, len(items)))))
        return [results[number] for number in range(len(items))]

    async def _refused_at(self, gate: Gate, sender: Address | None) -> Reply | None:
        """Whether a group does not take mail of this sender. The sender may be forged: this keeps honest people out."""
        posters = gate.group.posters
        refusal = reply(550, "5.7.2", f"<{gate.address}>: you may not post to this list")
        if sender is None:
            return refusal
        names = {sender.key}
        if sender.domain in self._local_domains:
            if Audience.LOCAL in posters.audiences:
                return None
            answer = await self._who(sender)
            if isinstance(answer, CannotSay):
                return self._cannot_say(gate.address, answer)
            if isinstance(answer, Found):
                record = answer.record
                names |= {record.entry or record.key, record.address.key}
        if posters.names(sender, names):
            return None
        owner = _address_of(gate.owner)
        if Audience.OWNER in posters.audiences and owner is not None and owner.key in names:
            return None
        if Audience.MEMBERS in posters.audiences and not gate.reached.isdisjoint(names):
            return None
        return refusal

    def _cannot_say(self, address: Address, answer: CannotSay) -> Reply:
        if answer.alarm:
            self._raise_alarm(answer.alarm, f"{address}: {answer.reason}")
        return cannot_say(address, answer)


def cannot_say(address: Address, answer: CannotSay) -> Reply:
    """What a client hears if nobody can tell who `address` is: 4.4.3 if the directory is away, which is the trouble of
    all addresses; 4.3.5 if an entry is wrong, which is the trouble of this one."""
    if answer.alarm in ("", ALARM_UNREACHABLE):
        return reply(451, "4.4.3", f"<{address}>: the directory cannot answer now, try again later")
    return reply(451, "4.3.5", f"<{address}>: the directory must be mended first, try again later")


def _leads_nowhere(address: Address, expansion: Expansion) -> Reply:
    if expansion.met_suspended:
        return reply(550, "5.2.1", f"<{address}>: this mailbox is disabled")
    if expansion.met_circle:
        return reply(550, "5.4.6", f"<{address}>: its forwards lead back to itself")
    return reply(550, "5.1.1", f"<{address}>: it leads to nobody here")


def _hop_leaf(away: Away, options: RecipientOptions) -> HopLeaf:
    owner = _address_of(away.owner)
    return HopLeaf(
        address=away.address,
        options=options if owner is None else NO_OPTIONS,
        hop=away.hop,
        via=away.via,
        list_owner=None if owner is None else str(owner),
    )


def _address_of(owner: Owner | None) -> Address | None:
    return None if owner is None else owner.address


def _success(options: RecipientOptions, leaves: Sequence[Leaf]) -> NoticeKind | None:
    """RFC 3461 section 5.2.7: a list is a destination, an address that is several others was expanded."""
    if not notify_wants(options.notify, NoticeKind.DELIVERED):
        return None
    if all(leaf.list_owner is not None for leaf in leaves):
        return NoticeKind.DELIVERED
    return NoticeKind.EXPANDED if len(leaves) > 1 else None


def _without_success(options: RecipientOptions) -> RecipientOptions:
    if not notify_wants(options.notify, NoticeKind.DELIVERED):
        return options
    assert options.notify is not None
    words = [word.strip().upper() for word in options.notify.split(",")]
    return replace(options, notify=",".join(word for word in words if word != "SUCCESS") or "NEVER")
