"""The next hops of the keeper's queue, made from the configuration: smarthost, routes, and the look-up of addresses.

The look-up asks for mail that is in the queue already, by the same rules as at RCPT: an address with a route goes to
its server, one of a domain that is not ours to the smarthost, everything else is `intake.Recipients`' word.
"""

from collections.abc import Sequence

from mailfront.app.addresses import checked_address
from mailfront.base.errors import Unavailable
from mailfront.cluster.placement import Placement
from mailfront.cluster.registry import PlacementRegistry
from mailfront.config.model import Configuration
from mailfront.delivery.relay import Relay
from mailfront.delivery.transaction import Delivery
from mailfront.directory.answers import DirectoryRecord
from mailfront.directory.directory import Directory
from mailfront.intake.leaves import HopLeaf, Leaf, Target
from mailfront.intake.recipients import Alarms, Recipients
from mailfront.mail.address import Address
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import NodeId
from mailfront.mail.next_hop import RELAY, RESOLVE
from mailfront.mail.reply import Reply
from mailfront.mail.routes import RouteTable
from mailfront.queue.dsn import Reporter
from mailfront.queue.notices import NoticePolicy
from mailfront.queue.queue import Queue
from mailfront.queue.rows import Place
from mailfront.transfer.hops import NextHop
from mailfront.transfer.outbound import Route, Smarthost
from mailfront.transfer.resolver import Resolver

LOOK_UPS_AT_ONCE = 8
"""Notices whose readers are looked up in the directory at a time."""


class KeeperPlacer:
    """Intake's `Placer` in the process that owns the map."""

    def __init__(self, registry: PlacementRegistry) -> None:
        self._registry = registry

    async def locate(self, record: DirectoryRecord) -> Placement:
        """The home. A first placement is remembered before it is used. Raises Unavailable."""
        current, key = self._registry.map, record.key
        if current.first_placements and key not in current.pins:
            pinned = await self._registry.pin_first(key, record.host)
            return self._registry.map.place(key) if pinned is None else self._registry.map.place_at(key, pinned)
        return current.place(key)


class AddressLookUp:
    """The resolver's question. Called from one event loop."""

    def __init__(self, recipients: Recipients, local_domains: frozenset[str], routes: RouteTable) -> None:
        self._recipients = recipients
        self._local_domains = local_domains
        self._routes = routes

    async def __call__(
        self, address: Address, options: RecipientOptions, sender: Address | None
    ) -> Sequence[Place] | Reply:
        """Where mail for it goes, or the reply that refuses it. Raises Unavailable if the directory cannot say."""
        hop = self._routes.find(address)
        if hop is None and address.domain and address.domain not in self._local_domains:
            hop = RELAY
        if hop is not None:
            return (_place(HopLeaf(address=address, options=options, hop=hop)),)
        found = await self._recipients.resolve(address, options, sender)
        if isinstance(found, Reply):
            if found.enhanced == "4.4.3":
                raise Unavailable(found.text)
            return found
        return [_place(leaf) for leaf in ((found,) if isinstance(found, Target) else found.leaves)]


def _place(leaf: Leaf) -> Place:
    return Place(
        address=str(leaf.address),
        mailbox_key=leaf.mailbox_key,
        bucket=leaf.bucket,
        node_user=leaf.node_user,
        options=leaf.options,
        via=leaf.via,
        list_owner=leaf.list_owner,
    )


def next_hops(config: Configuration) -> frozenset[NodeId]:
    """Where mail that is for no mailbox can go from here."""
    smarthost = {RELAY} if config.outbound.smarthost else set()
    return frozenset({RESOLVE, *smarthost, *(route.hop for route in config.route)})


def route_table(config: Configuration) -> RouteTable:
    """The routes, to be asked about an address."""
    return RouteTable(route.name for route in config.route)


def make_next_hops(
    config: Configuration,
    queue: Queue,
    directory: Directory,
    registry: PlacementRegistry,
    alarms: Alarms,
    relay: Relay | None,
    to_routes: Delivery,
) -> dict[NodeId, tuple[NextHop, int]]:
    """The hops of `next_hops`, each with the most attempts at a time."""
    storage, local_domains = config.storage, frozenset(config.domains.local)
    recipients = Recipients(
        directory,
        KeeperPlacer(registry),
        alarms,
        local_domains=local_domains,
        postmaster=checked_address(config.postmaster.address),
        node_user=storage.node_user,
        handoff_mailbox=None if storage.handoff_mailbox is None else checked_address(storage.handoff_mailbox),
        routes=route_table(config),
        relays=relay is not None,
        most_members=config.directory.max_members,
    )
    look_up = AddressLookUp(recipients, local_domains, route_table(config))
    hops: dict[NodeId, tuple[NextHop, int]] = {RESOLVE: (Resolver(queue, look_up), LOOK_UPS_AT_ONCE)}
    if relay is not None:
        hops[RELAY] = (Smarthost(relay), config.outbound.connections)
    for route in config.route:
        hops[route.hop] = (Route(route.hop, to_routes), route.connections)
    return hops


def notice_policy(config: Configuration) -> NoticePolicy:
    """How senders are told what became of their mail."""
    queue = config.queue
    return NoticePolicy(
        reporter=Reporter(
            hostname=config.server.hostname, postmaster=config.postmaster.address, language=queue.notice_language
        ),
        lifetime_s=queue.lifetime,
        warn_after_s=queue.warn_after,
        double_bounce=queue.double_bounce,
        warn_networks=queue.warn_networks,
    )
