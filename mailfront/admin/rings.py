"""`ring show` and `ring explain`: who owns how much, and where one address lives and why.

Explaining changes nothing: a mailbox that has not been placed yet stays so, and the answer says where it would go.
"""

from dataclasses import dataclass

from mailfront.admin.lookups import AnswerView, read_address, show_answer
from mailfront.base.errors import Unavailable
from mailfront.base.printable import printable
from mailfront.cluster.explain import NodeView, PlacementExplanation, explain
from mailfront.cluster.placement import ClusterMap, Placement
from mailfront.cluster.registry import PlacementRegistry
from mailfront.directory.answers import Answer, DirectoryRecord, Member, NoSuch
from mailfront.intake.leaves import Expanded, Leaf, Target
from mailfront.intake.recipients import RecipientDirectory, Recipients
from mailfront.mail.address import Address
from mailfront.mail.envelope import NO_OPTIONS
from mailfront.mail.names import NodeId
from mailfront.mail.routes import RouteTable

MOST_LEAVES = 100
_ACCEPTED = "250 2.1.5 recipient ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareView:
    """One node's part of the ring. Buckets it owns, those it would be given today, and mailboxes pinned to it."""

    id: NodeId
    weight: int
    zone: str
    buckets_count: int
    desired_count: int
    pins_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RingView:
    """The ring as it is. `differing_count`: buckets whose owner is not the one that they would be given today."""

    version: int
    buckets_count: int
    differing_count: int
    nodes: tuple[ShareView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafView:
    """One of those whom a forward or a list reaches. `at`: the mailbox's home, or the next hop."""

    address: str
    at: NodeId
    via: str
    list_owner: str | None
    through_queue: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressExplanation:
    """Where one address lives, why, and what would happen to a message for it now.

    `reply` is what RCPT is answered. Without a mailbox (refused addresses) `home` and all that follows are empty.
    `now` is `deliver`, `handoff` or `queue`, `now_at` the node that would get the message. A forward or a list has no
    home: `leads_to` says whom it reaches and where they live, the first `MOST_LEAVES` of `leads_to_count`.
    """

    address: str
    directory: AnswerView | None
    reply: str
    accepted: bool
    mailbox_key: str = ""
    node_user: str = ""
    bucket: int | None = None
    home: NodeId | None = None
    reason: str = ""
    secondaries: tuple[NodeId, ...] = ()
    desired: NodeId | None = None
    map_version: int = 0
    now: str = ""
    now_at: NodeId | None = None
    now_reason: str = ""
    nodes: tuple[NodeView, ...] = ()
    leads_to: tuple[LeafView, ...] = ()
    leads_to_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientPolicy:
    """What decides about an address besides the directory: the same values that intake was given."""

    local_domains: frozenset[str]
    postmaster: Address
    node_user: str
    handoff_mailbox: Address | None
    secondaries_count: int
    routes: RouteTable | None = None
    relays: bool = False
    most_members: int = 5000


def looking(directory: RecipientDirectory, locator: "LookingOnly", policy: RecipientPolicy) -> Recipients:
    """What decides at RCPT, for questions that change nothing."""
    return Recipients(
        directory,
        locator,
        locator,
        local_domains=policy.local_domains,
        postmaster=policy.postmaster,
        node_user=policy.node_user,
        handoff_mailbox=policy.handoff_mailbox,
        routes=policy.routes,
        relays=policy.relays,
        most_members=policy.most_members,
    )


class RingService:
    """See the module."""

    def __init__(self, directory: RecipientDirectory, registry: PlacementRegistry, policy: RecipientPolicy) -> None:
        self._directory = directory
        self._registry = registry
        self._policy = policy

    async def show(self) -> RingView:
        """The ring, node by node."""
        ring = await self._registry.ring()
        return RingView(
            version=ring.version,
            buckets_count=sum(share.buckets_count for share in ring.shares),
            differing_count=ring.differing_count,
            nodes=tuple(
                ShareView(
                    id=share.node.id,
                    weight=share.node.weight,
                    zone=share.node.zone,
                    buckets_count=share.buckets_count,
                    desired_count=share.desired_count,
                    pins_count=share.pins_count,
                )
                for share in ring.shares
            ),
        )

    async def explain(self, address: str) -> AddressExplanation:
        """Explain one address. Raises AdminError if it is none."""
        parsed = read_address(address)
        listening = _Listening(self._directory)
        locator = LookingOnly(self._registry.map)
        recipients = looking(listening, locator, self._policy)
        target = await recipients.resolve(parsed, NO_OPTIONS)
        said = None if listening.answer is None else show_answer(*listening.answer)
        if isinstance(target, Expanded):
            return AddressExplanation(
                address=str(parsed),
                directory=said,
                reply=_ACCEPTED,
                accepted=True,
                leads_to=tuple(_leaf_view(leaf) for leaf in target.leaves[:MOST_LEAVES]),
                leads_to_count=len(target.leaves),
            )
        if not isinstance(target, Target):
            return AddressExplanation(address=str(parsed), directory=said, reply=str(target), accepted=False)
        found = explain(
            target.mailbox_key, locator.cluster_map, self._registry.states, tries=self._policy.secondaries_count
        )
        return _explanation(parsed, said, target, found, first=locator.first_placement)


def _explanation(
    address: Address, said: AnswerView | None, target: Target, found: PlacementExplanation, *, first: str
) -> AddressExplanation:
    return AddressExplanation(
        address=str(address),
        directory=said,
        reply=_ACCEPTED,
        accepted=True,
        mailbox_key=printable(target.mailbox_key),
        node_user=printable(target.node_user),
        bucket=found.bucket,
        home=found.home,
        reason=first or found.reason,
        secondaries=found.secondaries,
        desired=found.desired,
        map_version=found.map_version,
        now=found.now.value,
        now_at=found.now_at,
        now_reason=found.now_reason,
        nodes=found.nodes,
    )


def _leaf_view(leaf: Leaf) -> LeafView:
    return LeafView(
        address=str(leaf.address),
        at=leaf.placement.home if isinstance(leaf, Target) else leaf.hop,
        via=leaf.via,
        list_owner=leaf.list_owner,
        through_queue=not isinstance(leaf, Target) or leaf.through_queue,
    )


class _Listening:
    """Passes questions on to the directory and remembers the first answer: what the address itself is."""

    def __init__(self, directory: RecipientDirectory) -> None:
        self._directory = directory
        self.answer: tuple[Address, Answer] | None = None

    async def recipient(self, address: Address) -> Answer:
        answer = await self._directory.recipient(address)
        if self.answer is None or isinstance(self.answer[1], NoSuch):
            self.answer = (address, answer)
        return answer

    async def member(self, member: Member) -> Answer:
        return await self._directory.member(member)


class LookingOnly:
    """A locator that places nobody: it says where the mailbox is, or where its first message would place it."""

    def __init__(self, cluster_map: ClusterMap) -> None:
        self.cluster_map = cluster_map
        self.first_placement = ""

    async def locate(self, record: DirectoryRecord) -> Placement:
        if not self.cluster_map.must_announce(record.key) or record.host is None:
            return self.cluster_map.place(record.key)
        node = self.cluster_map.node_of_host(record.host)
        if node is None:
            raise Unavailable(f"the directory says host {printable(record.host)!r}, and no node has that id or address")
        self.first_placement = f"not placed yet; the directory's host attribute will pin it to {node}"
        self.cluster_map = self.cluster_map.with_pins({record.key: node}, version=self.cluster_map.version)
        return self.cluster_map.place(record.key)

    def may_try(self, _node: NodeId) -> bool:
        return False

    def handoff_order(self, _placement: Placement) -> tuple[NodeId, ...]:
        return ()

    def raise_alarm(self, _name: str, _text: str) -> None:
        """Looking raises no alarm."""
