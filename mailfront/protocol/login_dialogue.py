"""What the login cores of IMAP, POP3 and ManageSieve have in common: one vocabulary and two interfaces. Sans-IO.

A session has two dialogues before it becomes a byte relay. `ClientLogin` is the one with the client: we are the server.
`NodeLogin` is the one with the storage node: we are the client. Both take bytes by `receive` and give events by
`next_event` (take them all, until None, before the next `receive`); neither ever passes a byte of one side to the
other. What goes to the node is written anew from decoded values.

    client: greeting -> ToClient* -> StartTls (then a new core, `greeting_after_tls`) -> LoginAsked
            -> refuse (and on) or accept; then `leftover` is what the client sent behind its login
    node:   ToNode* -> StartTls -> tls_started -> ToNode* -> LoggedIn, Rejected or TryLater

Between `LoginAsked` and its answer a client core reads nothing: what comes is kept (the caller bounds it) and is served
after a refusal, or belongs to the node after `accept`. A byte behind the command that starts TLS ends the dialogue, on
both sides.

Limits of every core: a line `MAX_LINE_BYTES`, literals of one command together `MAX_LITERAL_BYTES`. A client that
breaks a limit or the protocol beyond repair gets a last line (`Closing`); a node that does raises RemoteProtocolError.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mailfront.base.secret import Secret

MAX_LINE_BYTES = 8192
MAX_LITERAL_BYTES = 8192
MAX_NAME_BYTES = 1024


class Refusal(Enum):
    """Why a login is refused. FAILED is said only if the authority said so; our own trouble is UNAVAILABLE."""

    FAILED = "wrong name or password"
    DISABLED = "the account is disabled"
    UNAVAILABLE = "temporary trouble"
    IN_USE = "another session holds the mailbox"
    TOO_MANY = "too many failures or sessions"


class Farewell(Enum):
    """Why we end a dialogue before a login."""

    TIMEOUT = "no login in time"
    SHUTDOWN = "shutting down"
    TOO_MANY = "too many connections"
    FAILURES = "too many failed logins"


# Events of a client core.


@dataclass(frozen=True, slots=True)
class ToClient:
    """Send this to the client."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """TLS was agreed on. Client side: send `data`, then shake hands. Node side: `data` is empty, shake hands."""

    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAsked:
    """The client wants to log in; answer with `refuse` or `accept`.

    `name` is what it calls itself, `authorize` whom it wants to act for ('' : the same). `secret` is the password for
    PLAIN and LOGIN; for XOAUTH2 and OAUTHBEARER it is the whole SASL response, passed on as it is.
    """

    name: str
    secret: Secret
    mechanism: str = "PLAIN"
    authorize: str = ""


@dataclass(frozen=True, slots=True)
class Closing:
    """Send `data` and close. `reason` is for the log: logout, line_length, bad_commands, tls_residue, syntax."""

    data: bytes
    reason: str


ClientEvent = ToClient | StartTls | LoginAsked | Closing


# Events of a node core.


@dataclass(frozen=True, slots=True)
class ToNode:
    """Send this to the node."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The node accepted. `capabilities` as it named them, '' if it named none; `leftover` it sent behind its answer."""

    capabilities: str
    leftover: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """The node does not accept this name with this password. `code` is its response code, `text` its words, printable;
    neither goes to the client."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class TryLater:
    """The node cannot, or will not, log anybody in now; or it wants something that we do not do. Printable."""

    code: str
    text: str


NodeEvent = ToNode | StartTls | LoggedIn | Rejected | TryLater


# What the cores are made with.


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a client is offered on its connection as it is now.

    `passwords`: a password may come here, because the line is encrypted or the settings allow it. `mechanisms`: SASL
    mechanisms in order. `extras`: capabilities of the nodes that may be named before the login: only what all have.
    """

    hostname: str
    starttls: bool
    passwords: bool
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    extras: tuple[str, ...] = ()
    bad_commands: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCredentials:
    """How to log in at the node: `user` with `secret`, acting as `authorize` ('': as `user`). For XOAUTH2 and
    OAUTHBEARER `secret` is the client's SASL response."""

    user: str
    secret: Secret
    authorize: str = ""
    mechanism: str = "PLAIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdentity:
    """Who the client is, told to a node that trusts us. `about` is what the client said of itself (IMAP ID)."""

    ip: str
    port: int
    local_ip: str
    local_port: int
    session: str
    encrypted: bool
    about: tuple[tuple[str, str], ...] = ()


class ClientLogin(Protocol):
    """The dialogue with the client until its login is accepted. One object per connection and TLS state."""

    about: tuple[tuple[str, str], ...]
    """What the client said about itself, `x-*` left out."""

    @property
    def leftover(self) -> bytes:
        """What was received and not read. After `accept` it belongs to the node."""
        ...

    def greeting(self) -> bytes:
        """What is said first on a new connection."""
        ...

    def greeting_after_tls(self) -> bytes:
        """What is said first after STARTTLS; b'' where the client speaks first."""
        ...

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        ...

    def next_event(self) -> ClientEvent | None:
        """The next event, or None if more bytes (or an answer to `LoginAsked`) are needed."""
        ...

    def refuse(self, why: Refusal) -> bytes:
        """Answer `LoginAsked`: no. Returns the bytes to send; the dialogue goes on."""
        ...

    def accept(self, capabilities: str) -> bytes:
        """Answer `LoginAsked`: yes. Returns the bytes to send; the dialogue is over."""
        ...

    def farewell(self, why: Farewell) -> bytes:
        """The last line before we close."""
        ...


class NodeLogin(Protocol):
    """The dialogue with a node until it has logged the user in."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What the node said it can do, before and after the login, as its protocol writes it."""
        ...

    @property
    def position(self) -> str:
        """Where the dialogue is, for the log: greeting, starttls, tls, capability, login."""
        ...

    def receive(self, data: bytes) -> None:
        """Take bytes from the node."""
        ...

    def next_event(self) -> NodeEvent | None:
        """The next event, or None if more bytes are needed. Raises RemoteProtocolError."""
        ...

    def tls_started(self) -> None:
        """TLS is up after `StartTls`: all that was said before is forgotten. Raises RemoteProtocolError."""
        ...


MakeClientLogin = Callable[[Offer], ClientLogin]
MakeNodeLogin = Callable[[NodeCredentials, ClientIdentity, bool], NodeLogin]
"""Called with the credentials, who the client is, and whether STARTTLS must come first."""
