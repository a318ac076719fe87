"""Where and how a storage node, or the server of a route, is reached over LMTP."""

from dataclasses import dataclass
from typing import Literal

from mailfront.delivery.trouble import Authority


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEndpoint:
    """One node's LMTP service: a TCP host and port, or a UNIX socket (`path`, then `host` and `port` are unused).

    `server_name` is what the node's certificate must name; '' means `host`. `lmtp_connections` is how many connections
    this process may have to it at a time. `authority` says whose word counts there.
    """

    host: str = ""
    port: int = 24
    path: str = ""
    tls: Literal["off", "starttls", "implicit"] = "off"
    server_name: str = ""
    lmtp_connections: int = 10
    authority: Authority = Authority.DIRECTORY

    @property
    def certificate_name(self) -> str:
        """The name to verify the node's certificate against."""
        return self.server_name or self.host
