"""ManageSieve towards a storage node until somebody is logged in there (RFC 5804): a `NodeLogin`. Sans-IO.

    greeting -> [STARTTLS -> tls_started -> capabilities again] -> [XCLIENT] -> AUTHENTICATE -> LoggedIn

Nothing that a node says before TLS is believed, but for the offer of STARTTLS. XCLIENT (Dovecot's: who the client is)
is sent if the capabilities name it. One command at a time: Dovecot hangs on a command that comes with AUTHENTICATE. A
referral, in whatever answer, ends it: no node sends a client elsewhere.

`Rejected` is NO to AUTHENTICATE without a code (or with AUTHENTICATIONFAILED). TRYLATER, BYE, and codes that want
another way to log in are `TryLater`: they are no word about the password.

Limits: a line with its literals `MAX_LINE_BYTES`, `MAX_CAPABILITIES`. Beyond them, for what is no ManageSieve, and for
bytes around STARTTLS: RemoteProtocolError; close. LocalProtocolError: calls in the wrong order, a NUL in a name.
"""

from base64 import b64encode

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.base.printable import printable
from mailfront.protocol.line_node_login import LineNodeLogin, Stage
from mailfront.protocol.login_dialogue import (
    MAX_LINE_BYTES,
    ClientIdentity,
    LoggedIn,
    NodeCredentials,
    NodeEvent,
    Rejected,
    ToNode,
    TryLater,
)
from mailfront.protocol.sasl import BEARER_MECHANISMS
from mailfront.protocol.sieve_text import SieveReader, String, Token, write_string

MAX_CAPABILITIES = 64

_STATUSES = (b"OK", b"NO", b"BYE")


class SieveNodeLogin(LineNodeLogin):
    """See the module. One per connection. `capabilities` are Sieve extensions, and each SASL mechanism as
    `AUTH=NAME`."""

    def __init__(self, credentials: NodeCredentials, identity: ClientIdentity, starttls: bool) -> None:
        """`starttls`: TLS must be agreed on before anything else."""
        self._reader = SieveReader(MAX_LINE_BYTES, needs_plus=False)
        super().__init__(credentials, identity, starttls, self._reader)
        self._heard: dict[str, str] = {}
        self._heard_count = 0

    def tls_started(self) -> None:
        """TLS is up: all that was said before is forgotten, and the node tells its capabilities again. Raises
        RemoteProtocolError for bytes from before it."""
        super().tls_started()
        self._heard.clear()

    def next_event(self) -> NodeEvent | None:
        """The next event, or None if more bytes or TLS are needed. Raises RemoteProtocolError."""
        if self._stage is Stage.TLS:
            self._no_early_bytes()
        while not self._is_done and self._stage is not Stage.TLS:
            tokens = self._reader.next_line()
            if tokens is None:
                return None
            event = self._line(tokens)
            if event is not None:
                return event
        return None

    def _line(self, tokens: tuple[Token, ...]) -> NodeEvent | None:
        match tokens:
            case (bytes() as status, *rest) if status in _STATUSES:
                return self._status(status, _code(rest), _text(rest))
            case (String(name), *rest) if self._stage in (Stage.GREETING, Stage.CAPABILITY):
                self._learn(name, rest)
                return None
            case (String(),) if self._stage is Stage.LOGIN and self._credentials.mechanism in BEARER_MECHANISMS:
                # The node says in a challenge why it says no (RFC 7628 section 3.2.3), and waits for an empty word.
                return ToNode(b'"AQ=="\r\n')
            case _:
                raise RemoteProtocolError(f"an answer that nothing asked for, while waiting for {self.position}")

    def _learn(self, name: bytes, rest: list[Token]) -> None:
        self._heard_count += 1
        if self._heard_count > MAX_CAPABILITIES:
            raise RemoteProtocolError(f"more than {MAX_CAPABILITIES} capabilities")
        value = rest[0].value if rest and isinstance(rest[0], String) else b""
        self._heard[printable(name, 64).upper()] = printable(value, 4096)

    def _status(self, status: bytes, code: str, text: str) -> NodeEvent:
        if code == "REFERRAL":
            return self._end(TryLater(code, f"the node refers the client elsewhere, which is not followed: {text}"))
        if status == b"BYE":
            return self._end(TryLater(code, text))
        is_ok = status == b"OK"
        match self._stage:
            case Stage.GREETING | Stage.CAPABILITY if is_ok:
                return self._after_capabilities()
            case Stage.STARTTLS if is_ok:
                return self._start_tls()
            case Stage.XCLIENT:
                # A node that does not take it sees our address instead; the login goes on.
                return self._log_in()
            case Stage.LOGIN if is_ok:
                return self._end(LoggedIn("", self._reader.residue))
            case Stage.LOGIN if code in ("", "AUTHENTICATIONFAILED"):
                return self._end(Rejected(code, text))
            case _:
                return self._end(TryLater(code, text))

    def _after_capabilities(self) -> NodeEvent:
        if self._needs_tls:
            if "STARTTLS" not in self._heard:
                return self._end(TryLater("", "the node does not offer STARTTLS, and its tls is set to starttls"))
            self._stage = Stage.STARTTLS
            return ToNode(b"STARTTLS\r\n")
        extensions = self._heard.get("SIEVE", "").lower().split()
        mechanisms = self._heard.get("SASL", "").upper().split()
        self.capabilities = frozenset(extensions) | {f"AUTH={name}" for name in mechanisms}
        if "XCLIENT" in self._heard:
            return self._tell_who()
        return self._log_in()

    def _log_in(self) -> NodeEvent:
        how = self._credentials
        mechanism, response = how.mechanism, how.secret.reveal()
        if mechanism not in BEARER_MECHANISMS:
            parts = (how.authorize.encode(), how.user.encode(), response)
            if any(b"\0" in part for part in parts):
                raise LocalProtocolError("a NUL cannot be part of a name or a password")
            mechanism, response = "PLAIN", b"\0".join(parts)
        self._stage = Stage.LOGIN
        encoded = write_string(b64encode(response), literal=b"{%d+}")
        return ToNode(b"AUTHENTICATE " + write_string(mechanism.encode()) + b" " + encoded + b"\r\n")


def _code(tokens: list[Token]) -> str:
    """The response code's first word, '' if there is none."""
    match tokens:
        case [b"(", bytes() as code, *_]:
            return printable(code, 64)
    return ""


def _text(tokens: list[Token]) -> str:
    """The human-readable text: the last string."""
    texts = [token.value for token in tokens if isinstance(token, String)]
    return printable(texts[-1], 200) if texts else ""
