"""What several sections of the file must agree on. Pure; nothing outside the file is looked at.

A rule runs when the sections that it needs are right by themselves, so that one mistake does not cause more lines.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mailfront.cluster.settings import NodeSettings, StorageSettings, node_problems
from mailfront.config.settings import LimitsSettings, ServerSettings
from mailfront.delivery.outbound_settings import OutboundSettings
from mailfront.delivery.route_settings import RouteSettings, route_problems
from mailfront.delivery.settings import DeliverySettings
from mailfront.directory.settings import LdapSettings, StaticSettings
from mailfront.filters.order import filter_problems
from mailfront.filters.settings import FilterSettings
from mailfront.intake.settings import DomainsSettings, IntakeSettings, PostmasterSettings
from mailfront.mail.address import parse_path
from mailfront.net.settings import ListenSettings, NodeTlsSettings, TlsSettings
from mailfront.queue.settings import QueueSettings
from mailfront.sessions.settings import LoginSettings

_MAX_SOCKET_PATH_BYTES = 107
_LONGEST_RUNTIME_NAME = "keeper.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """The sections that are right by themselves; None where one is not. Of lists, the elements that are.

    `tls_is_there`: the file has a [tls] section, right or not.
    """

    server: ServerSettings | None
    listen: tuple[ListenSettings, ...] | None
    tls: TlsSettings | None
    domains: DomainsSettings | None
    postmaster: PostmasterSettings | None
    directory: LdapSettings | StaticSettings | None
    storage: StorageSettings | None
    node_tls: NodeTlsSettings | None
    node: tuple[NodeSettings, ...] | None
    filter: tuple[FilterSettings, ...] | None
    intake: IntakeSettings | None
    delivery: DeliverySettings | None
    queue: QueueSettings | None
    route: tuple[RouteSettings, ...] | None
    outbound: OutboundSettings | None
    login: LoginSettings | None
    limits: LimitsSettings | None
    tls_is_there: bool


def disagreements(sections: Sections) -> Iterator[str]:
    """What does not fit together, one line each."""
    if sections.server is not None:
        yield from _server(sections.server)
    if sections.listen is not None:
        yield from _listeners(sections.listen, tls_is_there=sections.tls_is_there)
    if sections.limits is not None:
        yield from _limits(sections.limits, sections.server)
    if sections.postmaster is not None:
        yield from _postmaster(sections.postmaster, sections.domains, sections.storage)
    if sections.login is not None and sections.storage is not None:
        yield from _login(sections.login, sections.storage)
    if sections.node is not None:
        yield from node_problems(sections.node)
    if sections.filter:
        yield from filter_problems(sections.filter)
        if sections.intake is not None:
            yield from _filter_times(sections.filter, sections.intake)
    if sections.queue is not None:
        yield from _queue(sections.queue)
    if sections.route:
        yield from _routes(sections.route, sections)


def _server(server: ServerSettings) -> Iterator[str]:
    path = os.fsencode((server.runtime_dir / _LONGEST_RUNTIME_NAME).absolute())
    if len(path) > _MAX_SOCKET_PATH_BYTES:
        yield (
            f"server.runtime_dir: {len(path)} bytes with the name of a socket in it, and the system allows "
            f"{_MAX_SOCKET_PATH_BYTES}; choose a shorter folder"
        )


def _listeners(listeners: tuple[ListenSettings, ...], *, tls_is_there: bool) -> Iterator[str]:
    if all(listener.role == "admin" for listener in listeners):
        yield 'listen: no [[listen]] takes mail or logins; add one with a role such as "smtp" or "imap"'
    for address, count in Counter(listener.address for listener in listeners).items():
        if count > 1 and not address.endswith(":0"):
            yield f"listen: {address} is listened on {count} times; each address can have one role"
    if not tls_is_there:
        for listener in listeners:
            if listener.tls != "off":
                yield f'listen: {listener.address} has tls = "{listener.tls}", which needs a certificate; add [tls]'


def _queue(queue: QueueSettings) -> Iterator[str]:
    if queue.warn_networks and queue.warn_after >= queue.lifetime:
        yield "queue.warn_after: is not shorter than queue.lifetime; nobody of queue.warn_networks would be warned"


def _routes(routes: tuple[RouteSettings, ...], sections: Sections) -> Iterator[str]:
    reserved = {
        "postmaster.address": sections.postmaster.address if sections.postmaster is not None else None,
        "storage.handoff_mailbox": sections.storage.handoff_mailbox if sections.storage is not None else None,
    }
    if sections.domains is not None:
        yield from route_problems(routes, sections.node or (), sections.domains.local, reserved)


def _limits(limits: LimitsSettings, server: ServerSettings | None) -> Iterator[str]:
    if limits.connections_per_ip > limits.connections:
        yield "limits.connections_per_ip: is more than limits.connections; one address cannot have more than all"
    if limits.body_disk < limits.message_size:
        yield "limits.body_disk: is smaller than limits.message_size; the largest message would never fit"
    if server is not None and limits.connections < server.workers:
        yield "limits.connections: is less than server.workers; each worker needs at least one"
    if limits.sessions_per_ip > limits.sessions:
        yield "limits.sessions_per_ip: is more than limits.sessions; one address cannot have more than all"


def _login(login: LoginSettings, storage: StorageSettings) -> Iterator[str]:
    if login.send == "master" and storage.master_user is None:
        yield 'login.send: "master" needs storage.master_user and storage.master_password_file; set them'


def _filter_times(filters: tuple[FilterSettings, ...], intake: IntakeSettings) -> Iterator[str]:
    for each in filters:
        if each.timeout >= intake.deadline:
            yield (
                f"filter {each.name}: timeout is not less than intake.deadline, so its on_error would never apply; "
                "all mail would get 451"
            )


def _postmaster(
    postmaster: PostmasterSettings, domains: DomainsSettings | None, storage: StorageSettings | None
) -> Iterator[str]:
    address = parse_path(postmaster.address)
    if address is None:
        return
    if domains is not None and address.domain not in domains.local:
        yield f"postmaster.address: {address.domain} is not in domains.local; mail to it would be refused as relaying"
    handoff = parse_path(storage.handoff_mailbox) if storage is not None and storage.handoff_mailbox else None
    if handoff is not None and handoff.key == address.key:
        yield "postmaster.address: is storage.handoff_mailbox, which takes no mail from outside; name a person"
