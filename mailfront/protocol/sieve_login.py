"""ManageSieve towards a client until it is logged in (RFC 5804): a `ClientLogin`. Sans-IO.

Served: CAPABILITY, STARTTLS (afterwards the capabilities are told again), AUTHENTICATE (with and without initial
response, strings in quotes or as literals), NOOP, LOGOUT. What only works after a login gets NO. A byte that follows
STARTTLS in the same breath ends the connection. The Sieve extensions that are named are `Offer.extras`: what the nodes
said, never a guess of ours.

Limits: a line with its literals `MAX_LINE_BYTES`, `Offer.bad_commands` commands that are unknown or out of place;
beyond them, and for what cannot be read, `Closing`. LocalProtocolError: calls in the wrong order.
"""

from base64 import b64encode

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
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
from mailfront.protocol.sasl import SaslError, SaslExchange, decode
from mailfront.protocol.sieve_text import SieveReader, String, Token, write_string

_NOT_IN_CLEAR = b'NO (ENCRYPT-NEEDED) "A password is taken here only after STARTTLS."\r\n'
_REFUSALS = {
    Refusal.FAILED: b'NO "Wrong user name or password."\r\n',
    Refusal.DISABLED: b'NO "This account is disabled."\r\n',
    Refusal.IN_USE: b'NO (TRYLATER) "The mailbox is open in another session."\r\n',
    Refusal.UNAVAILABLE: b'NO (TRYLATER) "Your mailbox cannot be reached now, please try again later."\r\n',
    Refusal.TOO_MANY: b'NO (TRYLATER) "Too many failures or sessions, please try again later."\r\n',
}
_FAREWELLS = {
    Farewell.TIMEOUT: b'BYE (TRYLATER) "No login in time."\r\n',
    Farewell.SHUTDOWN: b'BYE (TRYLATER) "The server is shutting down."\r\n',
    Farewell.TOO_MANY: b'BYE (TRYLATER) "Too many connections."\r\n',
    Farewell.FAILURES: b'BYE "Too many failed logins."\r\n',
}


class SieveLogin:
    """See the module. One per connection and TLS state."""

    __slots__ = ("_awaits_answer", "_bad_count", "_is_done", "_offer", "_reader", "_sasl", "about")

    def __init__(self, offer: Offer) -> None:
        self.about: tuple[tuple[str, str], ...] = ()
        self._offer = offer
        self._reader = SieveReader(MAX_LINE_BYTES, needs_plus=True)
        self._sasl: SaslExchange | None = None
        self._bad_count = 0
        self._awaits_answer = self._is_done = False

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

    @property
    def leftover(self) -> bytes:
        """What was received and not read."""
        return self._reader.residue

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._reader.receive(data)

    def accept(self, capabilities: str) -> bytes:
        """The client is logged in. `capabilities` are not told: a ManageSieve client asks for them."""
        self._answered()
        self._is_done = True
        return b'OK "Logged in."\r\n'

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
            tokens = self._reader.next_line()
        except RemoteProtocolError as error:
            return self._close(f'BYE "Cannot go on: {error}."\r\n'.encode(), "syntax")
        if tokens is None:
            return None
        try:
            return self._command(tokens) if self._sasl is None else self._respond(self._sasl, tokens)
        except SaslError as error:
            self._sasl = None
            return self._bad(f'NO "Cannot be used: {error}."\r\n'.encode())

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

    def _authenticate(self, name: bytes, initial: bytes | None) -> ClientEvent:
        mechanism = name.decode("ascii", "replace").upper()
        if not self._offer.passwords:
            return self._bad(_NOT_IN_CLEAR)
        if mechanism not in self._offer.mechanisms:
            return self._bad(b'NO "This mechanism is not offered."\r\n')
        self._sasl = SaslExchange(mechanism)
        return self._sasl_step(self._sasl.start(None if initial is None else decode(initial)))

    def _respond(self, exchange: SaslExchange, tokens: tuple[Token, ...]) -> ClientEvent:
        if len(tokens) != 1 or not isinstance(tokens[0], String):
            raise SaslError("the answer must be one string")
        if tokens[0].value == b"*":
            raise SaslError("cancelled")
        return self._sasl_step(exchange.respond(decode(tokens[0].value)))

    def _sasl_step(self, step: LoginAsked | bytes) -> ClientEvent:
        if isinstance(step, bytes):
            return ToClient(write_string(b64encode(step)) + b"\r\n")
        self._sasl = None
        self._awaits_answer = True
        return step

    def _bad(self, answer: bytes) -> ClientEvent:
        self._bad_count += 1
        if self._bad_count < self._offer.bad_commands:
            return ToClient(answer)
        return self._close(b'BYE "Too many bad commands."\r\n', "bad_commands")

    def _close(self, data: bytes, reason: str) -> Closing:
        self._is_done = True
        return Closing(data, reason)

    def _answered(self) -> None:
        if not self._awaits_answer:
            raise LocalProtocolError("no login waits for an answer")
        self._awaits_answer = False
