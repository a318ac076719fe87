"""What POP3 and ManageSieve towards a storage node have in common until somebody is logged in there. Sans-IO.

`LineNodeLogin` keeps where the dialogue is and whether it is over, and holds to two rules: no byte of the node may lie
around STARTTLS, and XCLIENT (Dovecot's: who the client is) is written in one way. What lines are, what the node's
answers mean, and which stage follows which is the dialect's. The order of calls is that of `NodeLogin`. IMAP is not
built on it: there answers carry tags, and ID tells who the client is.

RemoteProtocolError: bytes around STARTTLS; close. LocalProtocolError: calls in the wrong order.
"""

from enum import Enum

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.protocol.lines import LineBuffer
from mailfront.protocol.login_dialogue import ClientIdentity, NodeCredentials, NodeEvent, StartTls, ToNode
from mailfront.protocol.sieve_text import SieveReader


class Stage(Enum):
    """What we wait for, and what that is called in the log. In CAPABILITY POP3 has yet to ask for it; what follows
    LOGIN is POP3's alone."""

    GREETING = (0, "greeting")
    CAPABILITY = (1, "capability")
    STARTTLS = (2, "starttls")
    TLS = (3, "tls")
    XCLIENT = (4, "capability")
    LOGIN = (5, "login")
    CAPABILITY_LINES = (6, "capability")
    UTF8 = (7, "capability")
    USER = (8, "login")


class LineNodeLogin:
    """See the module. A `NodeLogin` but for `next_event`."""

    def __init__(
        self, credentials: NodeCredentials, identity: ClientIdentity, starttls: bool, source: LineBuffer | SieveReader
    ) -> None:
        """`starttls`: TLS must be agreed on before anything else. `source` takes the node's bytes; the dialect reads
        its lines from it."""
        self.capabilities: frozenset[str] = frozenset()
        self._credentials = credentials
        self._identity = identity
        self._input = source
        self._stage = Stage.GREETING
        self._needs_tls = starttls
        self._is_done = False

    @property
    def position(self) -> str:
        """Where the dialogue is, or where it ended, for the log."""
        return self._stage.value[1]

    def receive(self, data: bytes) -> None:
        """Take bytes from the node."""
        self._input.receive(data)

    def tls_started(self) -> None:
        """TLS is up: all that was said before is forgotten. Raises RemoteProtocolError for bytes from before it."""
        if self._stage is not Stage.TLS:
            raise LocalProtocolError("TLS was not agreed on")
        self._no_early_bytes()
        self._needs_tls = False
        self._stage = Stage.CAPABILITY

    def _start_tls(self) -> StartTls:
        """The node agreed to start TLS."""
        self._stage = Stage.TLS
        self._no_early_bytes()
        return StartTls()

    def _no_early_bytes(self) -> None:
        if self._input.residue:
            raise RemoteProtocolError("the node sent data after it had agreed to start TLS")

    def _tell_who(self) -> ToNode:
        self._stage = Stage.XCLIENT
        who = self._identity
        return ToNode(f"XCLIENT ADDR={who.ip} PORT={who.port} SESSION={who.session}\r\n".encode("ascii", "replace"))

    def _end(self, event: NodeEvent) -> NodeEvent:
        self._is_done = True
        return event
