"""At RCPT: may this address have mail here, whom does it reach, and where do they live?

Answers with a `Target` (a mailbox), with `Expanded` (a forward or a group) or with the reply that refuses. Our own
trouble (directory away, unknown host, keeper away) is 4xx; 5xx is only said for a named policy: not ours, unknown,
suspended, a list that one may not post to. Nothing is delivered and nothing is kept here.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from mailfront.base.errors import Unavailable
from mailfront.cluster.node_user import node_user
from mailfront.cluster.placement import Placement
from mailfront.directory.answers import Answer, CannotSay, DirectoryRecord, Found, Member, NoSuch, Source, Status
from mailfront.intake.expander import Expander, cannot_say
from mailfront.intake.expansion import Box, Step
from mailfront.intake.leaves import Expanded, HopLeaf, Target
from mailfront.mail.address import Address, parse_path
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.next_hop import RELAY
from mailfront.mail.reply import Reply, reply
from mailfront.mail.routes import RouteTable

RouteRefusal = Callable[[NodeId, Address], Awaitable[Reply | None]]
"""Asks the server of a route whether it takes an address; returns its refusal. Does not raise for its trouble."""


class RecipientDirectory(Protocol):
    """The part of the directory that intake asks."""

    async def recipient(self, address: Address) -> Answer:
        """Who is it? Never raises for directory trouble."""
        ...

    async def member(self, member: Member) -> Answer:
        """Who is it that a group names? Never raises for directory trouble."""
        ...


class Placer(Protocol):
    """Where mailboxes live, as this process knows it now."""

    async def locate(self, record: DirectoryRecord) -> Placement:
        """The home and the secondaries. Raises Unavailable if it cannot be decided now."""
        ...


class Locator(Placer, Protocol):
    """The same, and which nodes are worth trying."""

    def may_try(self, node: NodeId) -> bool:
        """Whether a delivery to this node is worth starting now."""
        ...

    def handoff_order(self, placement: Placement) -> tuple[NodeId, ...]:
        """The secondaries that may take a copy now, best first."""
        ...


class Alarms(Protocol):
    """Where alarms go. Must be quick and must not raise; the same alarm again and again is counted, not repeated."""

    def raise_alarm(self, name: str, text: str) -> None:
        """Raise one, or count it once more."""
        ...


class Recipients:
    """Decides about one address at a time. Holds no state. What an administrator must see goes to `alarms`."""

    def __init__(
        self,
        directory: RecipientDirectory,
        locator: Placer,
        alarms: Alarms,
        *,
        local_domains: frozenset[str],
        postmaster: Address,
        node_user: str,
        handoff_mailbox: Address | None,
        routes: RouteTable | None = None,
        route_check: RouteRefusal | None = None,
        relays: bool = False,
        most_members: int = 5000,
        is_full: Callable[[MailboxKey], bool] = lambda _key: False,
    ) -> None:
        """`routes` lead to servers that are no nodes, which `route_check` asks at RCPT. `relays`: mail for other sites
        can leave, so that forwards may lead there. `most_members`: of one list. `is_full`: whether a mailbox is known
        to have no room."""
        self._directory = directory
        self._locator = locator
        self._alarms = alarms
        self._local_domains = local_domains
        self._routes = routes or RouteTable()
        self._has_routes = bool(routes)
        self._is_full = is_full
        self._route_check = route_check
        self._postmaster = postmaster
        self._node_user = node_user
        self._handoff_key = handoff_mailbox.key if handoff_mailbox else None
        self._handoff_local = handoff_mailbox.local.casefold() if handoff_mailbox else None
        self._expander = Expander(
            self._who,
            self._box_target,
            self._hop_of,
            alarms.raise_alarm,
            is_full=is_full,
            local_domains=local_domains,
            relays=relays,
            most=most_members,
        )

    async def resolve(
        self, address: Address, options: RecipientOptions, sender: Address | None = None
    ) -> Target | Expanded | Reply:
        """Decide about one RCPT of mail from `sender`. Returns whom it reaches, or the reply to give. Cancellation is
        safe."""
        if self._has_routes and (hop := self._routes.find(address)) is not None:
            refusal = None if self._route_check is None else await self._route_check(hop, address)
            if refusal is not None:
                return refusal
            leaf = HopLeaf(address=address, options=options, hop=hop)
            return Expanded(address=address, options=options, leaves=(leaf,))
        if address.domain not in self._local_domains and address.domain:
            return reply(550, "5.7.1", f"<{address}>: we do not relay to this domain")
        base = address.split_detail()[0]
        if base.key == self._handoff_key:
            return _unknown(address)
        for_postmaster = base.local.casefold() == "postmaster"
        answer: Answer
        if for_postmaster:
            answer = await self._who(address)
        else:
            answer = await self._directory.recipient(address)
        if isinstance(answer, Found):
            record = answer.record
            if record.status is Status.SUSPENDED:
                return reply(550, "5.2.1", f"<{address}>: this mailbox is disabled")
            if record.forwards or record.group is not None:
                return await self._expander.expand(address, options, answer, sender)
            if record.over_quota or self._is_full(record.key):
                return reply(452, "4.2.2", f"<{address}>: this mailbox is full, try again later")
            return await self._target(address, answer.detail, options, record)
        if isinstance(answer, CannotSay):
            if answer.alarm:
                self._alarms.raise_alarm(answer.alarm, f"{address}: {answer.reason}")
            return cannot_say(address, answer)
        if for_postmaster:
            text = f"the directory does not know postmaster.address ({self._postmaster}); make the mailbox or the alias"
            self._alarms.raise_alarm("directory.no_postmaster", text)
            return reply(451, "4.3.5", f"<{address}>: this mailbox is not set up yet, try again later")
        return _unknown(address)

    async def steps(self, found: Found) -> list[Step] | CannotSay:
        """The whole way that mail for an entry goes, for people to look at. Places nobody and raises no alarm."""
        return await self._expander.steps(found)

    async def _who(self, name: Member) -> Answer:
        """Who is it, with postmaster as everybody's name for `postmaster.address`?"""
        if not isinstance(name, Address):
            return await self._directory.member(name)
        answer: Answer = NoSuch(Source.CACHE)
        if name.domain:
            answer = await self._directory.recipient(name)
        if isinstance(answer, NoSuch) and name.split_detail()[0].local.casefold() == "postmaster":
            answer = await self._directory.recipient(self._postmaster)
        return answer

    def _hop_of(self, address: Address) -> NodeId | None:
        """The next hop that takes an address; None: the directory knows it."""
        hop = self._routes.find(address)
        return RELAY if hop is None and address.domain not in self._local_domains else hop

    async def _box_target(self, box: Box, options: RecipientOptions) -> Target | Reply:
        owner = None if box.owner is None or box.owner.address is None else str(box.owner.address)
        target = await self._target(box.record.address, box.detail, options, box.record)
        return target if isinstance(target, Reply) else replace(target, via=box.via, list_owner=owner)

    async def _target(
        self, address: Address, detail: str, options: RecipientOptions, record: DirectoryRecord
    ) -> Target | Reply:
        user = self._node_user_of(record, detail)
        if self._is_handoff(record, user):
            return _unknown(address)
        try:
            placement = await self._locator.locate(record)
        except Unavailable as error:
            self._alarms.raise_alarm("placement.undecided", f"{address}: {error}")
            return reply(451, "4.3.5", f"<{address}>: the home of this mailbox cannot be decided now, try again later")
        return Target(address, options, record.key, user, placement, record.classes)

    def _node_user_of(self, record: DirectoryRecord, detail: str) -> NodeUser:
        mailbox = record.mailbox
        if detail:
            local, at, domain = mailbox.rpartition("@") if "@" in mailbox else (mailbox, "", "")
            mailbox = f"{local}+{detail}{at}{domain}"
        return node_user(self._node_user, mailbox, record.address.domain)

    def _is_handoff(self, record: DirectoryRecord, node_user: NodeUser) -> bool:
        """An alias that leads to the handoff account would mix people's mail with copies that wait."""
        if self._handoff_key is None:
            return False
        plain = parse_path(node_user)
        if plain is not None and plain.domain:
            return plain.split_detail()[0].key == self._handoff_key
        return record.mailbox.casefold() == self._handoff_local or record.address.key == self._handoff_key


def _unknown(address: Address) -> Reply:
    return reply(550, "5.1.1", f"<{address}>: there is no such mailbox here")
