"""Settings of `[storage]` and `[[node]]`.

Each model checks what can be seen in one table; `node_problems` checks what needs all nodes. Whether a node answers
and a file can be read is asked by `config check`, not here.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_serializer, model_validator

from mailfront.base.settings import FilePath, Settings
from mailfront.cluster.hashing import MOST_CLUSTER_NAME_BYTES, MOST_NODES_COUNT, Node
from mailfront.mail.address import parse_path
from mailfront.mail.names import NodeId

_NODE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PORT_EXAMPLE = 'write a port such as 24, a table such as { port = 24, tls = "starttls" }, or "unix:/path"'


class StorageSettings(Settings):
    """How mailboxes are spread over the storage nodes, and what happens while a node is away."""

    cluster: str = Field(pattern=rf"^[A-Za-z0-9._-]{{1,{MOST_CLUSTER_NAME_BYTES}}}$")
    """Name of the cluster and key of the placement hash. Never change it: every mailbox would get another bucket."""
    layout: Literal["sharded"] = "sharded"
    """`sharded`: each node has its own disks, and health never changes who owns a mailbox."""
    secondaries: int = Field(default=1, ge=0, lt=MOST_NODES_COUNT)
    """How many other nodes are tried for a handoff while a home node is away. 0: such mail goes to the queue."""
    node_user: str = "{mailbox}"
    """The name that a node knows a mailbox by: `{mailbox}` (the directory's value) and `{domain}` are filled in."""
    handoff_mailbox: str | None = None
    """Address of the account, on every node, that keeps mail for other nodes. Needed unless `secondaries` is 0."""
    handoff_password_file: FilePath | None = None
    """File with the IMAP password of the handoff account in its first line."""
    secret_file: FilePath | None = None
    """File with the key that signs handed-off copies in its first line. The same on every front end."""
    unknown_at_node: Literal["defer", "refuse"] = "defer"
    """What to do when a node does not know a mailbox (`5.1.x`) that the directory knows. `defer`: the mail waits until
    one of the two is mended. `refuse`: the node's word counts, the mail is refused. Either way an alarm is raised, and
    a node that denies three mailboxes within a minute is not tried until a probe of it succeeds."""
    master_user: str | None = None
    """IMAP master user of the nodes. With it, a mailbox is searched before a delivery with an unknown outcome is
    repeated; without it, the repetition is recorded as a possible duplicate."""
    master_password_file: FilePath | None = None
    """File with the master user's password in its first line."""

    @field_validator("layout", mode="before")
    @classmethod
    def _only_sharded(cls, value: Any) -> Any:
        if value == "shared":
            raise ValueError('layout "shared" is not in this version; use "sharded"')
        return value

    @field_validator("node_user")
    @classmethod
    def _known_placeholders(cls, value: str) -> str:
        names = _PLACEHOLDER.findall(value)
        rest = _PLACEHOLDER.sub("", value)
        if "mailbox" not in names or set(names) - {"mailbox", "domain"} or not re.fullmatch(r"[!-z|~]*", rest):
            raise ValueError(f'{value!r} must be made of {{mailbox}} and {{domain}}, such as "{{mailbox}}@{{domain}}"')
        return value

    @field_validator("handoff_mailbox")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None and ((address := parse_path(value)) is None or not address.is_ascii or not address.domain):
            raise ValueError(f'{value!r} is not an address in ASCII, such as "handoff@example.edu"')
        return value

    @model_validator(mode="after")
    def _what_belongs_together(self) -> "StorageSettings":
        if self.secondaries:
            missing = [
                name for name in ("handoff_mailbox", "handoff_password_file", "secret_file") if not getattr(self, name)
            ]
            if missing:
                raise ValueError(f"{', '.join(missing)} missing: handoffs need them; set them, or secondaries = 0")
        if (self.master_user is None) != (self.master_password_file is None):
            raise ValueError("master_user and master_password_file go together: set both or none")
        return self


class NodePort(Settings):
    """One way into a node: a TCP port, with or without TLS, or a UNIX socket."""

    port: int | None = Field(default=None, ge=1, le=65535)
    """TCP port."""
    path: str | None = None
    """UNIX socket."""
    tls: Literal["off", "starttls", "implicit"] = "off"
    """How TLS begins. The certificate is checked as `[node_tls]` says."""
    proxy: bool = False
    """Whether every connection begins with a PROXY header, version 2, also before TLS."""

    @model_validator(mode="after")
    def _one_way(self) -> "NodePort":
        if (self.port is None) == (self.path is None):
            raise ValueError(_PORT_EXAMPLE)
        if self.path is not None and (self.tls != "off" or self.proxy):
            raise ValueError("a UNIX socket has no TLS and takes no PROXY header")
        return self

    @model_serializer
    def _as_written(self) -> Any:
        if self.path is not None:
            return f"unix:{self.path}"
        more: dict[str, Any] = {"tls": self.tls} if self.tls != "off" else {}
        if self.proxy:
            more["proxy"] = True
        return {"port": self.port, **more} if more else self.port


def _short_forms(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"port": value}
    if isinstance(value, str):
        if value.startswith("unix:/"):
            return {"path": value.removeprefix("unix:")}
        raise ValueError(f"{value!r} is not a way into a node; {_PORT_EXAMPLE}")
    return value


PortSetting = Annotated[NodePort, BeforeValidator(_short_forms)]
"""A `NodePort`, written as a port, as a table or as `"unix:/path"`."""


class NodeSettings(Settings):
    """One storage node."""

    id: str
    """The node's name for ever: it decides which mailboxes live here. Addresses and ports may change under it."""
    host: str = ""
    """Host name or IP address (IPv6 without brackets). May be absent where `lmtp` and `imap` are UNIX sockets."""
    weight: int = Field(default=100, ge=1, le=10_000)
    """Share of mailboxes compared with the other nodes. A change makes a plan; it moves nobody."""
    zone: str = ""
    """What fails together with this node: a rack, a room. The first secondary comes from another zone."""
    lmtp: PortSetting = NodePort(port=24)
    """Where mail is delivered."""
    imap: PortSetting = NodePort(port=143)
    """Where people log in, handed-off mail is fetched, and a mailbox is searched. With `proxy = true` in its table each
    connection begins with a PROXY header, version 2, that names the client; the node must expect it (Dovecot:
    `haproxy = yes`)."""
    pop3: PortSetting = NodePort(port=110)
    """POP3 of the node. `proxy` as for `imap`."""
    sieve: PortSetting = NodePort(port=4190)
    """ManageSieve of the node. `proxy` as for `imap`."""
    lmtp_connections: int = Field(default=10, ge=1, le=1000)
    """Most LMTP connections to this node at a time from one front end; its processes share them."""
    server_name: str | None = None
    """Name that the node's certificate must carry. Absent: `host`."""

    @field_validator("id")
    @classmethod
    def _id_shape(cls, value: str) -> str:
        if _NODE_ID.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not a node id; use 1 to 63 letters, digits, dots, hyphens, underscores")
        return value

    @field_validator("host", "server_name")
    @classmethod
    def _host_shape(cls, value: str | None) -> str | None:
        if value and (problem := host_problem(value)):
            raise ValueError(problem)
        return value

    @field_validator("lmtp")
    @classmethod
    def _no_proxy_for_mail(cls, value: NodePort) -> NodePort:
        if value.proxy:
            raise ValueError("proxy is for imap, pop3 and sieve: a delivery has no client to name")
        return value

    @model_validator(mode="after")
    def _host_for_tcp(self) -> "NodeSettings":
        if not self.host and (self.lmtp.path is None or self.imap.path is None):
            raise ValueError("host is missing: name the machine that lmtp and imap are reached at")
        return self

    def as_node(self) -> Node:
        """The part that placement looks at."""
        return Node(NodeId(self.id), self.weight, self.zone)


def host_problem(value: str) -> str:
    """What is wrong with the name or address of a machine; '' if nothing is."""
    return "" if _HOST.fullmatch(value) else f"{value!r} is not a host name or IP address"


def node_problems(nodes: Sequence[NodeSettings]) -> tuple[str, ...]:
    """What is wrong between the `[[node]]` tables, one line each; empty if nothing is."""
    problems = []
    if not nodes:
        problems.append("node: no [[node]] is configured; mailfront needs at least one storage node")
    if len(nodes) > MOST_NODES_COUNT:
        problems.append(f"node: {len(nodes)} nodes are configured; at most {MOST_NODES_COUNT} are supported")
    for id_, count in Counter(node.id.lower() for node in nodes).items():
        if count > 1:
            problems.append(f"node: id {id_!r} is used {count} times (case does not count); each node needs its own")
    return tuple(problems)
