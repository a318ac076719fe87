"""The protocols that people log in with: for each the two login cores, the node's port, and what a client says last."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mailfront.cluster.node_states import Service
from mailfront.cluster.settings import NodePort, NodeSettings
from mailfront.protocol.imap_login import ImapLogin
from mailfront.protocol.imap_node_login import ImapNodeLogin
from mailfront.protocol.login_dialogue import MakeClientLogin, MakeNodeLogin
from mailfront.protocol.pop3_login import Pop3Login
from mailfront.protocol.pop3_node_login import Pop3NodeLogin
from mailfront.protocol.sieve_login import SieveLogin
from mailfront.protocol.sieve_node_login import SieveNodeLogin

Role = Literal["imap", "pop3", "sieve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One protocol. `farewell`: a client whose last words have it in them ends its session on purpose. `goodbye`: what
    we say when we end a session that is between two answers.

    `extras`: capabilities of the nodes that a client may be told of before its login, if all nodes have them; None:
    whatever they all have.
    """

    role: Role
    service: Service
    client: MakeClientLogin
    node: MakeNodeLogin
    port: Callable[[NodeSettings], NodePort]
    farewell: bytes
    goodbye: bytes
    extras: tuple[str, ...] | None = ()


DIALECTS: dict[str, Dialect] = {
    "imap": Dialect(
        role="imap",
        service=Service.IMAP,
        client=ImapLogin,
        node=ImapNodeLogin,
        port=lambda node: node.imap,
        farewell=b"LOGOUT",
        goodbye=b"* BYE Disconnected by the server, please come again.\r\n",
        extras=("ID", "ENABLE", "IDLE", "LITERAL+", "LITERAL-"),
    ),
    "pop3": Dialect(
        role="pop3",
        service=Service.POP3,
        client=Pop3Login,
        node=Pop3NodeLogin,
        port=lambda node: node.pop3,
        farewell=b"QUIT",
        goodbye=b"-ERR [SYS/TEMP] disconnected by the server, please come again\r\n",
        extras=("UTF8",),
    ),
    "sieve": Dialect(
        role="sieve",
        service=Service.SIEVE,
        client=SieveLogin,
        node=SieveNodeLogin,
        port=lambda node: node.sieve,
        farewell=b"LOGOUT",
        goodbye=b'BYE (TRYLATER) "Disconnected by the server, please come again."\r\n',
        extras=None,
    ),
}
"""By the listener's role."""
