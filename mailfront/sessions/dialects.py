"""The protocols that people log in with: for each the two login cores, the node's port, and what a client says last."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mailfront.cluster.node_states import Service
from mailfront.cluster.settings import NodePort, NodeSettings
from mailfront.protocol.imap_login import ImapLogin
from mailfront.protocol.imap_node_login import ImapNodeLogin
from mailfront.protocol.login_dialogue import MakeClientLogin, MakeNodeLogin

Role = Literal["imap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One protocol. `farewell`: a client whose last words have it in them ends its session on purpose.

    `extras`: capabilities of the nodes that a client may be told of before its login, if all nodes have them.
    """

    role: Role
    service: Service
    client: MakeClientLogin
    node: MakeNodeLogin
    port: Callable[[NodeSettings], NodePort]
    farewell: bytes
    extras: tuple[str, ...] = ()


DIALECTS: dict[str, Dialect] = {
    "imap": Dialect(
        role="imap",
        service=Service.IMAP,
        client=ImapLogin,
        node=ImapNodeLogin,
        port=lambda node: node.imap,
        farewell=b"LOGOUT",
        extras=("ID", "ENABLE", "IDLE", "LITERAL+", "LITERAL-"),
    )
}
"""By the listener's role."""
