"""POP3 towards a storage node until somebody is logged in there (RFC 1939, 2449, 2595, 3206, 5034): a `NodeLogin`.

    greeting -> CAPA -> [STLS -> tls_started -> CAPA] -> [XCLIENT] -> [UTF8] -> AUTH, or USER and PASS -> LoggedIn

Sans-IO. Nothing that a node says before TLS is believed, but for two offers: STLS, and XCLIENT (Dovecot's: who the
client is), which Dovecot makes in its greeting only. XCLIENT is sent inside TLS, and a refusal of it ends nothing. AUTH
with PLAIN is preferred; USER and PASS only where the node offers no PLAIN and nobody acts for somebody else.

`Rejected` is said for `[AUTH]` and `[SYS/PERM]`, and for an answer without a code from a node that has no
AUTH-RESP-CODE, which cannot say more. Everything else is `TryLater`: it is no word about the password (RFC 3206).

Limits: a line `MAX_LINE_BYTES`, `MAX_CAPABILITIES`. Beyond them, for what is no POP3, and for bytes around STLS:
RemoteProtocolError; close. LocalProtocolError: calls in the wrong order, a NUL in a name.
"""

from base64 import b64encode

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.base.printable import printable
from mailfront.protocol.line_node_login import LineNodeLogin, Stage
from mailfront.protocol.lines import LineBuffer
from mailfront.protocol.login_dialogue import (
    ClientIdentity,
    LoggedIn,
    NodeCredentials,
    NodeEvent,
    Rejected,
    ToNode,
    TryLater,
)
from mailfront.protocol.pop3_login import ASKED_FOR_UTF8
from mailfront.protocol.sasl import BEARER_MECHANISMS

MAX_LINE_BYTES = 2048
MAX_CAPABILITIES = 100
_MOST_INITIAL_BYTES = 200
"""Of an initial response: RFC 2449 allows a command line of 255 octets, RFC 5034 no longer one."""


class Pop3NodeLogin(LineNodeLogin):
    """See the module. One per connection. `capabilities` are CAPA's lines, and each SASL mechanism as `AUTH=NAME`."""

    def __init__(self, credentials: NodeCredentials, identity: ClientIdentity, starttls: bool) -> None:
        """`starttls`: TLS must be agreed on before anything else."""
        self._lines = LineBuffer(MAX_LINE_BYTES)
        super().__init__(credentials, identity, starttls, self._lines)
        self._heard: set[str] = set()
        self._heard_count = 0
        self._greeting_has_xclient = False
        self._password_line: bytes | None = None

    def next_event(self) -> NodeEvent | None:
        """The next event, or None if more bytes or TLS are needed. Raises RemoteProtocolError."""
        if self._stage is Stage.TLS:
            self._no_early_bytes()
        if self._stage is Stage.CAPABILITY:
            self._stage = Stage.CAPABILITY_LINES
            self._heard.clear()
            return ToNode(b"CAPA\r\n")
        while not self._is_done and self._stage is not Stage.TLS:
            line = self._lines.next_line()
            if line is None:
                return None
            event = self._capability(line) if self._stage is Stage.CAPABILITY_LINES else self._answer(line)
            if event is not None:
                return event
        return None

    def _answer(self, line: bytes) -> NodeEvent | None:
        if line.startswith(b"+ ") or line == b"+":
            return self._go_on()
        is_ok = line[:3].upper() == b"+OK"
        if not is_ok and line[:4].upper() != b"-ERR":
            raise RemoteProtocolError(f"not a POP3 answer: {printable(line, 80)}")
        match self._stage:
            case Stage.GREETING if is_ok:
                self._greeting_has_xclient = b"[XCLIENT]" in line.upper()
                self._stage = Stage.CAPABILITY
                return self.next_event()
            case Stage.STARTTLS if is_ok:
                return self._start_tls()
            case Stage.XCLIENT:
                # A node that does not take it sees our address instead; the login goes on.
                return self._ask_for_utf8()
            case Stage.UTF8 if is_ok:
                return self._log_in()
            case Stage.USER if is_ok:
                return self._go_on()
            case Stage.LOGIN if is_ok:
                return self._logged_in()
            case _:
                return self._refused(line)

    def _capability(self, line: bytes) -> NodeEvent | None:
        """Take one line of the answer to CAPA, whose first is a status; a node without CAPA has no capabilities."""
        if not self._heard:
            if line[:3].upper() == b"+OK":
                self._heard.add("CAPA")
                return None
            if line[:4].upper() == b"-ERR":
                self._heard.add("USER")
                return self._after_capabilities()
            raise RemoteProtocolError(f"not a POP3 answer: {printable(line, 80)}")
        if line == b".":
            return self._after_capabilities()
        self._heard_count += 1
        if self._heard_count > MAX_CAPABILITIES:
            raise RemoteProtocolError(f"more than {MAX_CAPABILITIES} capabilities")
        self._heard.add(printable(line, 512).upper())
        return None

    def _after_capabilities(self) -> NodeEvent:
        if self._needs_tls:
            if "STLS" not in self._heard:
                return self._end(TryLater("", "the node does not offer STLS, and its tls is set to starttls"))
            self._stage = Stage.STARTTLS
            return ToNode(b"STLS\r\n")
        self.capabilities = frozenset(self._heard) | {f"AUTH={name}" for name in self._mechanisms()}
        if self._greeting_has_xclient or any(each.split()[:1] == ["XCLIENT"] for each in self._heard):
            return self._tell_who()
        return self._ask_for_utf8()

    def _ask_for_utf8(self) -> NodeEvent:
        if ASKED_FOR_UTF8 not in self._identity.about:
            return self._log_in()
        self._stage = Stage.UTF8
        return ToNode(b"UTF8\r\n")

    def _log_in(self) -> NodeEvent:
        how = self._credentials
        user, secret = how.user.encode(), how.secret.reveal()
        if how.mechanism in BEARER_MECHANISMS:
            return self._sasl(how.mechanism, secret)
        if b"\0" in user or b"\0" in secret:
            raise LocalProtocolError("a NUL cannot be part of a name or a password")
        if how.authorize or "PLAIN" in self._mechanisms():
            return self._sasl("PLAIN", b"\0".join((how.authorize.encode(), user, secret)))
        if b"\r" in user + secret or b"\n" in user + secret:
            return self._end(TryLater("", "the node has no SASL PLAIN, and PASS cannot carry a line end"))
        self._stage = Stage.USER
        self._password_line = b"PASS " + secret + b"\r\n"
        return ToNode(b"USER " + user + b"\r\n")

    def _mechanisms(self) -> list[str]:
        return next((each.split()[1:] for each in self._heard if each.startswith("SASL ")), [])

    def _sasl(self, mechanism: str, response: bytes) -> NodeEvent:
        self._stage = Stage.LOGIN
        line, encoded = b"AUTH " + mechanism.encode(), b64encode(response)
        if len(encoded) <= _MOST_INITIAL_BYTES:
            return ToNode(line + b" " + encoded + b"\r\n")
        self._password_line = encoded + b"\r\n"
        return ToNode(line + b"\r\n")

    def _go_on(self) -> NodeEvent:
        line, self._password_line = self._password_line, None
        if line is not None:
            self._stage = Stage.LOGIN
            return ToNode(line)
        if self._stage is Stage.LOGIN and self._credentials.mechanism in BEARER_MECHANISMS:
            # The node says in a challenge why it says no (RFC 7628 section 3.2.3), and waits for an empty word.
            return ToNode(b"AQ==\r\n")
        raise RemoteProtocolError("the node asks to go on, and there is nothing to send")

    def _logged_in(self) -> NodeEvent:
        if self._password_line is not None:
            raise RemoteProtocolError("the node says +OK before it has the password")
        return self._end(LoggedIn(" ".join(sorted(self._heard - {"CAPA"})), self._lines.residue))

    def _refused(self, line: bytes) -> NodeEvent:
        text = printable(line[4:].strip(), 200)
        code = text[1:].partition("]")[0].upper() if text.startswith("[") else ""
        if self._stage not in (Stage.LOGIN, Stage.USER):
            return self._end(TryLater(code, text))
        cannot_say_more = not code and "AUTH-RESP-CODE" not in self._heard
        is_about_the_login = code in ("AUTH", "SYS/PERM") or cannot_say_more
        return self._end(Rejected(code, text) if is_about_the_login else TryLater(code, text))
