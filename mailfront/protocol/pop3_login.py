"""POP3 towards a client until it is logged in (RFC 1939, 2449, 2595, 3206, 5034, 6856): a `ClientLogin`. Sans-IO.

Served: CAPA, STLS, USER and PASS, AUTH (with and without initial response), UTF8 if all nodes can, QUIT. What works
only after a login gets -ERR. A byte that follows STLS in the same breath ends the connection: it came in clear and must
not be read as if it had come through TLS. `about` tells the node core that the client asked for UTF8.

Why a login failed is told apart as RFC 3206 wants: `[AUTH]` is the password and nothing else, `[SYS/TEMP]` our trouble,
`[SYS/PERM]` the account, `[IN-USE]` another session.

Limits: a line `MAX_LINE_BYTES`, `Offer.bad_commands` commands that are unknown or out of place; beyond them `Closing`.
LocalProtocolError: calls in the wrong order.
"""

from mailfront.base.errors import RemoteProtocolError
from mailfront.protocol.line_login import LineLogin, Phrases
from mailfront.protocol.lines import LineBuffer
from mailfront.protocol.login_dialogue import (
    MAX_LINE_BYTES,
    ClientEvent,
    Farewell,
    Offer,
    Refusal,
    StartTls,
    ToClient,
)
from mailfront.protocol.sasl import password_login

ASKED_FOR_UTF8 = ("utf8", "yes")

_ALWAYS = ("TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING")
_PHRASES = Phrases(
    refusals={
        Refusal.FAILED: b"-ERR [AUTH] wrong user name or password\r\n",
        Refusal.DISABLED: b"-ERR [SYS/PERM] this account is disabled\r\n",
        Refusal.IN_USE: b"-ERR [IN-USE] the mailbox is open in another session\r\n",
        Refusal.UNAVAILABLE: b"-ERR [SYS/TEMP] your mailbox cannot be reached now, please try again later\r\n",
        Refusal.TOO_MANY: b"-ERR [SYS/TEMP] too many failures or sessions, please try again later\r\n",
    },
    farewells={
        Farewell.TIMEOUT: b"-ERR [SYS/TEMP] no login in time\r\n",
        Farewell.SHUTDOWN: b"-ERR [SYS/TEMP] the server is shutting down\r\n",
        Farewell.TOO_MANY: b"-ERR [SYS/TEMP] too many connections\r\n",
        Farewell.FAILURES: b"-ERR [AUTH] too many failed logins\r\n",
    },
    logged_in=b"+OK logged in\r\n",
    not_in_clear=b"-ERR a password is taken here only after STLS\r\n",
    not_offered=b"-ERR this mechanism is not offered\r\n",
    unusable=b"-ERR %b\r\n",
    too_many_bad=b"-ERR too many bad commands\r\n",
)


class Pop3Login(LineLogin):
    """See the module. One per connection and TLS state."""

    __slots__ = ("_lines", "_user")

    def __init__(self, offer: Offer) -> None:
        self._lines = LineBuffer(MAX_LINE_BYTES)
        super().__init__(offer, _PHRASES, self._lines)
        self._user: bytes | None = None

    def greeting(self) -> bytes:
        """What is said first."""
        return f"+OK {self._offer.hostname} ready\r\n".encode("ascii", "replace")

    def greeting_after_tls(self) -> bytes:
        """Nothing: the client speaks first after STLS."""
        return b""

    def _next(self) -> ClientEvent | None:
        try:
            line = self._lines.next_line()
        except RemoteProtocolError:
            return self._close(b"-ERR line too long\r\n", "line_length")
        if line is None:
            return None
        return self._command(line) if self._sasl is None else self._respond(self._sasl, line)

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
            return self._bad(_PHRASES.not_in_clear)
        if not name:
            return self._bad(b"-ERR USER needs a name\r\n")
        self._user = name
        return ToClient(b"+OK\r\n")

    def _auth(self, argument: bytes) -> ClientEvent:
        self._user = None
        if not argument:
            # No RFC has this form, but some mail programs ask this way.
            mechanisms = self._offer.mechanisms if self._offer.passwords else ()
            return ToClient("\r\n".join(["+OK", *mechanisms, ".", ""]).encode())
        name, _, initial = argument.partition(b" ")
        return self._authenticate(name, None if not initial else b"" if initial == b"=" else initial)

    def _challenge(self, encoded: bytes) -> bytes:
        return b"+ %b\r\n" % encoded
