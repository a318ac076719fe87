"""POP3 towards a client until it is logged in (RFC 1939, 2449, 2595, 3206, 5034, 6856): a `ClientLogin`. Sans-IO.

Served: CAPA, STLS, USER and PASS, AUTH (with and without initial response), UTF8 if all nodes can, QUIT. What works
only after a login gets -ERR. A byte that follows STLS in the same breath ends the connection: it came in clear and must
not be read as if it had come through TLS. `about` tells the node core that the client asked for UTF8.

Why a login failed is told apart as RFC 3206 wants: `[AUTH]` is the password and nothing else, `[SYS/TEMP]` our trouble,
`[SYS/PERM]` the account, `[IN-USE]` another session.

Limits: a line `MAX_LINE_BYTES`, `Offer.bad_commands` commands that are unknown or out of place; beyond them `Closing`.
LocalProtocolError: calls in the wrong order.
"""

from base64 import b64encode

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.protocol.lines import LineBuffer
from mailfront.protocol.login_dialogue import (
    MAX_LINE_BYTES,
    ClientEvent,
    Closing,
    Farewell,
    LoginAsked,
    Offer,
    Refusal,
    StartTls,
    ToClient,
)
from mailfront.protocol.sasl import SaslError, SaslExchange, decode, password_login

ASKED_FOR_UTF8 = ("utf8", "yes")

_ALWAYS = ("TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING")
_NOT_IN_CLEAR = b"-ERR a password is taken here only after STLS\r\n"
_REFUSALS = {
    Refusal.FAILED: b"-ERR [AUTH] wrong user name or password\r\n",
    Refusal.DISABLED: b"-ERR [SYS/PERM] this account is disabled\r\n",
    Refusal.IN_USE: b"-ERR [IN-USE] the mailbox is open in another session\r\n",
    Refusal.UNAVAILABLE: b"-ERR [SYS/TEMP] your mailbox cannot be reached now, please try again later\r\n",
    Refusal.TOO_MANY: b"-ERR [SYS/TEMP] too many failures or sessions, please try again later\r\n",
}
_FAREWELLS = {
    Farewell.TIMEOUT: b"-ERR [SYS/TEMP] no login in time\r\n",
    Farewell.SHUTDOWN: b"-ERR [SYS/TEMP] the server is shutting down\r\n",
    Farewell.TOO_MANY: b"-ERR [SYS/TEMP] too many connections\r\n",
    Farewell.FAILURES: b"-ERR [AUTH] too many failed logins\r\n",
}


class Pop3Login:
    """See the module. One per connection and TLS state."""

    __slots__ = ("_awaits_answer", "_bad_count", "_is_done", "_lines", "_offer", "_sasl", "_user", "about")

    def __init__(self, offer: Offer) -> None:
        self.about: tuple[tuple[str, str], ...] = ()
        self._offer = offer
        self._lines = LineBuffer(MAX_LINE_BYTES)
        self._user: bytes | None = None
        self._sasl: SaslExchange | None = None
        self._bad_count = 0
        self._awaits_answer = self._is_done = False

    def greeting(self) -> bytes:
        """What is said first."""
        return f"+OK {self._offer.hostname} ready\r\n".encode("ascii", "replace")

    def greeting_after_tls(self) -> bytes:
        """Nothing: the client speaks first after STLS."""
        return b""

    @property
    def leftover(self) -> bytes:
        """What was received and not read."""
        return self._lines.residue

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._lines.receive(data)

    def accept(self, capabilities: str) -> bytes:
        """The client is logged in. `capabilities` are not told: a POP3 client asks for them."""
        self._answered()
        self._is_done = True
        return b"+OK logged in\r\n"

    def refuse(self, why: Refusal) -> bytes:
        """The login failed; the client may try again."""
        self._answered()
        return _REFUSALS[why]

    def farewell(self, why: Farewell) -> bytes:
        """The last line before we close."""
        return _FAREWELLS[why]

    def next_event(self) -> ClientEvent | None:
        """The next event, or None if more bytes, or the answer to a login, are needed."""
        if self._awaits_answer or self._is_done:
            return None
        try:
            line = self._lines.next_line()
        except RemoteProtocolError:
            return self._close(b"-ERR line too long\r\n", "line_length")
        if line is None:
            return None
        try:
            return self._command(line) if self._sasl is None else self._respond(self._sasl, line)
        except SaslError as error:
            self._sasl = None
            return self._bad(f"-ERR {error}\r\n".encode())

    def _command(self, line: bytes) -> ClientEvent:
        verb, _, argument = line.partition(b" ")
        match verb.upper():
            case b"CAPA":
                return ToClient(self._capa())
            case b"STLS" if self._offer.starttls:
                return self._stls()
            case b"USER":
                return self._name(argument)
            case b"PASS" if self._user is not None:
                user, self._user = self._user, None
                return self._asked(password_login(user, argument))
            case b"AUTH":
                return self._auth(argument)
            case b"UTF8" if "UTF8" in self._offer.extras:
                self.about = (ASKED_FOR_UTF8,)
                return ToClient(b"+OK UTF8 enabled\r\n")
            case b"QUIT":
                return self._close(b"+OK bye\r\n", "logout")
            case _:
                return self._bad(b"-ERR this is no command before the login\r\n")

    def _capa(self) -> bytes:
        names = [*_ALWAYS, *self._offer.extras]
        if self._offer.passwords:
            names += ["USER", "SASL " + " ".join(self._offer.mechanisms)]
        if self._offer.starttls:
            names.append("STLS")
        return "\r\n".join(["+OK", *names, ".", ""]).encode()

    def _stls(self) -> ClientEvent:
        if self._lines.residue:
            return self._close(b"-ERR nothing may follow STLS\r\n", "tls_residue")
        self._is_done = True
        return StartTls(b"+OK begin TLS\r\n")

    def _name(self, name: bytes) -> ClientEvent:
        if not self._offer.passwords:
            return self._bad(_NOT_IN_CLEAR)
        if not name:
            return self._bad(b"-ERR USER needs a name\r\n")
        self._user = name
        return ToClient(b"+OK\r\n")

    def _auth(self, argument: bytes) -> ClientEvent:
        self._user = None
        mechanisms = self._offer.mechanisms if self._offer.passwords else ()
        if not argument:
            # No RFC has this form, but some mail programs ask this way.
            return ToClient("\r\n".join(["+OK", *mechanisms, ".", ""]).encode())
        name, _, initial = argument.partition(b" ")
        mechanism = name.decode("ascii", "replace").upper()
        if not self._offer.passwords:
            return self._bad(_NOT_IN_CLEAR)
        if mechanism not in mechanisms:
            return self._bad(b"-ERR this mechanism is not offered\r\n")
        self._sasl = SaslExchange(mechanism)
        first = None if not initial else b"" if initial == b"=" else decode(initial)
        return self._sasl_step(self._sasl.start(first))

    def _respond(self, exchange: SaslExchange, line: bytes) -> ClientEvent:
        if line == b"*":
            raise SaslError("cancelled")
        return self._sasl_step(exchange.respond(decode(line)))

    def _sasl_step(self, step: LoginAsked | bytes) -> ClientEvent:
        if isinstance(step, bytes):
            return ToClient(b"+ %b\r\n" % b64encode(step))
        self._sasl = None
        return self._asked(step)

    def _asked(self, login: LoginAsked) -> LoginAsked:
        self._awaits_answer = True
        return login

    def _bad(self, answer: bytes) -> ClientEvent:
        self._bad_count += 1
        if self._bad_count < self._offer.bad_commands:
            return ToClient(answer)
        return self._close(b"-ERR too many bad commands\r\n", "bad_commands")

    def _close(self, data: bytes, reason: str) -> Closing:
        self._is_done = True
        return Closing(data, reason)

    def _answered(self) -> None:
        if not self._awaits_answer:
            raise LocalProtocolError("no login waits for an answer")
        self._awaits_answer = False
