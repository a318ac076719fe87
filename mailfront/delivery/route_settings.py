"""Settings of `[[route]]`: mail for some domain or address goes to an LMTP server that is no storage node."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import Field, field_validator, model_validator

from mailfront.base.settings import Settings
from mailfront.cluster.settings import NodeSettings, PortSetting, host_problem
from mailfront.delivery.endpoint import NodeEndpoint
from mailfront.delivery.trouble import Authority
from mailfront.mail.address import parse_path
from mailfront.mail.names import NodeId
from mailfront.mail.next_hop import route_hop
from mailfront.mail.routes import route_name


class RouteSettings(Settings):
    """Mail for one domain or one address that goes to an LMTP server other than the storage nodes, such as Mailman. The
    directory is not asked about it. Times and limits are those of `[delivery]`; certificates are checked as
    `[node_tls]` says."""

    domain: str | None = None
    """All mail for this domain, such as `"lists.example.edu"`. It needs no entry in `domains.local`."""
    address: str | None = None
    """Mail for this address, with or without a detail. It goes before the directory; its domain must be ours."""
    host: str = ""
    """Host name or IP address of the server (IPv6 without brackets). May be absent where `lmtp` is a UNIX socket."""
    lmtp: PortSetting = Field()
    """Where it takes mail over LMTP."""
    server_name: str | None = None
    """Name that its certificate must carry. Absent: `host`."""
    verify: bool = True
    """Ask the server at RCPT whether it takes the recipient, so that the client hears a refusal while it waits. Without
    this the sender of what is refused gets a notice, and senders are easily forged."""
    connections: int = Field(default=4, ge=1, le=200)
    """Most connections to it at a time."""

    @field_validator("domain", "address")
    @classmethod
    def _canonical(cls, value: str | None) -> str | None:
        if value is None:
            return None
        name = route_name(value)
        if name is None:
            raise ValueError(f'{value!r} is not a domain or an address, such as "lists.example.edu"')
        return name

    @field_validator("host", "server_name")
    @classmethod
    def _host_shape(cls, value: str | None) -> str | None:
        if value and (problem := host_problem(value)):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _one_of_each(self) -> "RouteSettings":
        if (self.domain is None) == (self.address is None):
            raise ValueError("a route is for one domain or for one address: write domain or address")
        if self.domain is not None and "@" in self.domain:
            raise ValueError(f'domain: "{self.domain}" is an address; write address = "{self.domain}"')
        if self.address is not None and "@" not in self.address:
            raise ValueError(f'address: "{self.address}" is a domain; write domain = "{self.address}"')
        if not self.host and self.lmtp.path is None:
            raise ValueError("host is missing: name the machine that lmtp is reached at")
        return self

    @property
    def name(self) -> str:
        """The domain or address that it is for, in the form of `mail.routes`."""
        return self.domain or self.address or ""

    @property
    def hop(self) -> NodeId:
        """The next hop of its mail."""
        return route_hop(self.name)

    @property
    def endpoint(self) -> NodeEndpoint:
        """Where its mail is delivered."""
        return NodeEndpoint(
            host=self.host,
            port=self.lmtp.port or 0,
            path=self.lmtp.path or "",
            tls=self.lmtp.tls,
            server_name=self.server_name or "",
            lmtp_connections=self.connections,
            authority=Authority.ELSEWHERE,
        )


def route_problems(
    routes: Sequence[RouteSettings],
    nodes: Sequence[NodeSettings],
    local_domains: Sequence[str],
    reserved: dict[str, str | None],
) -> Iterator[str]:
    """What is wrong between `[[route]]` tables and the rest of the file, one line each. `reserved`: addresses that no
    route may take, by the setting that names them."""
    for name, count in Counter(route.name for route in routes).items():
        if count > 1:
            yield f"route: {name} has {count} routes; each domain or address can have one"
    ours = {*local_domains, *(route.domain for route in routes if route.domain is not None)}
    ways = {_way(node.host, node.lmtp.port, node.lmtp.path): node.id for node in nodes}
    for route in routes:
        if route.domain is not None and route.domain in local_domains:
            yield f"route: {route.name} is in domains.local too, and its mail can go only one way; take it out of one"
            continue
        if route.address is not None and route.address.rpartition("@")[2] not in ours:
            yield f"route: the domain of {route.name} is not ours; add it to domains.local or make a route for it"
        if (node := ways.get(_way(route.host, route.lmtp.port, route.lmtp.path))) is not None:
            yield f"route: {route.name} leads to the LMTP port of node {node}; nodes get mail by placement only"
        for setting, text in reserved.items():
            address = parse_path(text) if text else None
            if address is not None and route.name in (address.key, address.domain):
                yield f"route: {route.name} would take the mail of {setting}, which must be a mailbox"


def _way(host: str, port: int | None, path: str | None) -> tuple[str, int | None, str | None]:
    return ("" if path else host.lower(), port, path)
