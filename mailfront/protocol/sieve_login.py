"""ManageSieve towards a client until it is logged in (RFC 5804): a `ClientLogin`. Sans-IO.

Served: CAPABILITY, STARTTLS (afterwards the capabilities are told again), AUTHENTICATE (with and without initial
response, strings in quotes or as literals), NOOP, LOGOUT. What only works after a login gets NO. A byte that follows
STARTTLS in the same breath ends the connection. The Sieve extensions that are named are `Offer.extras`: what the nodes
said, never a guess of ours.

Limits: a line with its literals `MAX_LINE_BYTES`, `Offer.bad_commands` commands that are unknown or out of place;
beyond them, and for what cannot be read, `Closing`. LocalProtocolError: calls in the wrong order.
"""

from mailfront.base.errors import RemoteProtocolError
from mailfront.protocol.line_login import LineLogin, Phrases
from mailfront.protocol.login_dialogue import (
    MAX_LINE_BYTES,
    ClientEvent,
    Farewell,
    Offer,
    Refusal,
    StartTls,
    ToClient,
)
from mailfront.protocol.sasl import SaslError
from mailfront.protocol.sieve_text import SieveReader, String, Token, write_string

_PHRASES = Phrases(
    refusals={
        Refusal.FAILED: b'NO "Wrong user name or password."\r\n',
        Refusal.DISABLED: b'NO "This account is disabled."\r\n',
        Refusal.IN_USE: b'NO (TRYLATER) "The mailbox is open in another session."\r\n',
        Refusal.UNAVAILABLE: b'NO (TRYLATER) "Your mailbox cannot be reached now, please try again later."\r\n',
        Refusal.TOO_MANY: b'NO (TRYLATER) "Too many failures or sessions, please try again later."\r\n',
    },
    farewells={
        Farewell.TIMEOUT: b'BYE (TRYLATER) "No login in time."\r\n',
        Farewell.SHUTDOWN: b'BYE (TRYLATER) "The server is shutting down."\r\n',
        Farewell.TOO_MANY: b'BYE (TRYLATER) "Too many connections."\r\n',
        Farewell.FAILURES: b'BYE "Too many failed logins."\r\n',
    },
    logged_in=b'OK "Logged in."\r\n',
    not_in_clear=b'NO (ENCRYPT-NEEDED) "A password is taken here only after STARTTLS."\r\n',
    not_offered=b'NO "This mechanism is not offered."\r\n',
    unusable=b'NO "Cannot be used: %b."\r\n',
    too_many_bad=b'BYE "Too many bad commands."\r\n',
)


class SieveLogin(LineLogin):
    """See the module. One per connection and TLS state."""

    __slots__ = ("_reader",)

    def __init__(self, offer: Offer) -> None:
        self._reader = SieveReader(MAX_LINE_BYTES, needs_plus=True)
        super().__init__(offer, _PHRASES, self._reader)

    def greeting(self) -> bytes:
        """What is said first: the capabilities."""
        mechanisms = self._offer.mechanisms if self._offer.passwords else ()
        lines = [
            b'"IMPLEMENTATION" ' + write_string(self._offer.hostname.encode()),
            b'"SASL" ' + write_string(" ".join(mechanisms).encode()),
            b'"SIEVE" ' + write_string(" ".join(self._offer.extras).encode()),
        ]
        if self._offer.starttls:
            lines.append(b'"STARTTLS"')
        return b"\r\n".join([*lines, b'"VERSION" "1.0"', b'OK "ready"', b""])

    def greeting_after_tls(self) -> bytes:
        """The capabilities again: those before TLS must not be believed."""
        return self.greeting()

    def _next(self) -> ClientEvent | None:
        try:
            tokens = self._reader.next_line()
        except RemoteProtocolError as error:
            return self._close(f'BYE "Cannot go on: {error}."\r\n'.encode(), "syntax")
        if tokens is None:
            return None
        if self._sasl is None:
            return self._command(tokens)
        if len(tokens) != 1 or not isinstance(tokens[0], String):
            raise SaslError("the answer must be one string")
        return self._respond(self._sasl, tokens[0].value)

    def _command(self, tokens: tuple[Token, ...]) -> ClientEvent:
        match tokens:
            case (b"CAPABILITY",):
                return ToClient(self.greeting())
            case (b"STARTTLS",) if self._offer.starttls:
                return self._starttls()
            case (b"NOOP",):
                return ToClient(b'OK "Done."\r\n')
            case (b"NOOP", String(value)):
                return ToClient(b'OK (TAG %b) "Done."\r\n' % write_string(value.replace(b"\0", b"")))
            case (b"AUTHENTICATE", String(name)):
                return self._authenticate(name, None)
            case (b"AUTHENTICATE", String(name), String(initial)):
                return self._authenticate(name, initial)
            case (b"LOGOUT",):
                return self._close(b'OK "Bye."\r\n', "logout")
            case _:
                return self._bad(b'NO "This is no command before the login."\r\n')

    def _starttls(self) -> ClientEvent:
        if self._reader.residue:
            return self._close(b'BYE "Nothing may follow STARTTLS."\r\n', "tls_residue")
        self._is_done = True
        return StartTls(b'OK "Begin TLS."\r\n')

    def _challenge(self, encoded: bytes) -> bytes:
        return write_string(encoded) + b"\r\n"
