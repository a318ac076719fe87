"""The IMAP dialogue with a client until it is logged in (RFC 3501, RFC 9051, RFC 4959, RFC 7888, RFC 2971). Sans-IO.

See `login_dialogue` for the order of calls. Served here: CAPABILITY, NOOP, ID, STARTTLS, LOGIN, AUTHENTICATE, LOGOUT.
The name and the password are decoded here and written anew for the node; no byte of the client goes there before its
login is accepted. What the client says about itself by ID is kept without its `x-*` fields: a node that trusts us would
believe those.

Named before the login: what we do ourselves, and what every node is known to have (`Offer.extras`). The capabilities of
the session come with the answer to the login.
"""

from base64 import b64encode
from functools import lru_cache

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.base.printable import printable
from mailfront.protocol.imap_command import Argument, Command, CommandReader, Literal, Malformed, Mark
from mailfront.protocol.login_dialogue import (
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

MAX_ABOUT_FIELDS = 30
MAX_ABOUT_NAME_CHARS = 30
MAX_ABOUT_VALUE_CHARS = 256

_BEFORE_TLS = "[PRIVACYREQUIRED] a password needs TLS: use STARTTLS, or connect with TLS"
_REFUSALS = {
    Refusal.FAILED: "[AUTHENTICATIONFAILED] wrong name or password",
    Refusal.DISABLED: "[CONTACTADMIN] this account is disabled",
    Refusal.UNAVAILABLE: "[UNAVAILABLE] temporary trouble, try again later",
    Refusal.IN_USE: "[INUSE] another session holds the mailbox",
    Refusal.TOO_MANY: "[LIMIT] too many logins, try again later",
}
_FAREWELLS = {
    Farewell.TIMEOUT: "timeout: no login came in time",
    Farewell.SHUTDOWN: "[UNAVAILABLE] shutting down, try again later",
    Farewell.TOO_MANY: "[UNAVAILABLE] too many connections, try again later",
    Farewell.FAILURES: "too many failed logins",
}
_ENDINGS = {
    "line_length": "the line is too long",
    "literal_size": "[TOOBIG] the literal is too large",
    "syntax": "this cannot be understood",
}


class ImapLogin:
    """See the module. A `ClientLogin`."""

    def __init__(self, offer: Offer) -> None:
        self.about: tuple[tuple[str, str], ...] = ()
        self._offer = offer
        self._reader = CommandReader(frozenset({"LOGIN", "ID"}))
        self._tag = ""
        self._exchange: SaslExchange | None = None
        self._is_asking = False
        self._is_over = False
        self._bad_commands_count = 0

    @property
    def leftover(self) -> bytes:
        """See `ClientLogin`."""
        return self._reader.unread

    @property
    def capabilities(self) -> str:
        """What we offer before the login."""
        return _capabilities(self._offer)

    def greeting(self) -> bytes:
        """See `ClientLogin`."""
        return f"* OK [CAPABILITY {self.capabilities}] {self._offer.hostname} ready\r\n".encode()

    def greeting_after_tls(self) -> bytes:
        """See `ClientLogin`: an IMAP client speaks first."""
        return b""

    def receive(self, data: bytes) -> None:
        """See `ClientLogin`."""
        self._reader.receive(data)

    def next_event(self) -> ClientEvent | None:
        """See `ClientLogin`."""
        if self._is_asking or self._is_over:
            return None
        try:
            if self._exchange is not None:
                return self._go_on(self._exchange)
            found = self._reader.next()
        except RemoteProtocolError as error:
            return self._close(f"* BYE {_ENDINGS[str(error)]}", str(error))
        if found is None:
            return None
        if isinstance(found, Malformed):
            return self._bad(found.tag, found.reason)
        if isinstance(found, Literal):
            return self._allow(found)
        return self._obey(found)

    def refuse(self, why: Refusal) -> bytes:
        """See `ClientLogin`."""
        self._answered()
        return f"{self._tag} NO {_REFUSALS[why]}\r\n".encode()

    def accept(self, capabilities: str) -> bytes:
        """See `ClientLogin`."""
        self._answered()
        self._is_over = True
        code = f"[CAPABILITY {capabilities}] " if capabilities else ""
        return f"{self._tag} OK {code}logged in\r\n".encode()

    def farewell(self, why: Farewell) -> bytes:
        """See `ClientLogin`."""
        return f"* BYE {_FAREWELLS[why]}\r\n".encode()

    def _answered(self) -> None:
        if not self._is_asking:
            raise LocalProtocolError("no login was asked for")
        self._is_asking = False

    # Commands.

    def _obey(self, command: Command) -> ClientEvent:
        tag = command.tag
        match command.name:
            case "CAPABILITY":
                return ToClient(f"* CAPABILITY {self.capabilities}\r\n{tag} OK done\r\n".encode())
            case "NOOP":
                return _say(f"{tag} OK done")
            case "LOGOUT":
                return self._close(f"* BYE logging out\r\n{tag} OK done", "logout")
            case "ID":
                return self._identify(command)
            case "STARTTLS":
                return self._start_tls(command)
            case "LOGIN":
                return self._login(command)
            case "AUTHENTICATE":
                return self._authenticate(command)
            case _:
                return self._bad(tag, "unknown command, or not before the login")

    def _allow(self, literal: Literal) -> ClientEvent:
        if literal.name == "LOGIN" and not self._offer.passwords:
            self._reader.forget()
            return self._privacy(literal.tag)
        return _say("+ go on")

    def _privacy(self, tag: str) -> ClientEvent:
        self._bad_commands_count += 1
        return _say(f"{tag} NO {_BEFORE_TLS}")

    def _start_tls(self, command: Command) -> ClientEvent:
        if command.rest:
            return self._bad(command.tag, "STARTTLS takes no arguments")
        if not self._offer.starttls:
            return self._bad(command.tag, "TLS is not offered here, or in use already")
        if self._reader.unread:
            # Somebody may have put commands in front of the client's TLS.
            return self._close("* BYE nothing may follow STARTTLS before TLS", "tls_residue")
        self._is_over = True
        return StartTls(f"{command.tag} OK begin TLS\r\n".encode())

    def _login(self, command: Command) -> ClientEvent:
        if len(command.arguments) != 2 or not all(isinstance(part, bytes) for part in command.arguments):
            return self._bad(command.tag, "LOGIN needs a name and a password")
        if not self._offer.passwords:
            return self._privacy(command.tag)
        name, password = command.arguments
        assert isinstance(name, bytes)
        assert isinstance(password, bytes)
        try:
            return self._ask(command.tag, password_login(name, password))
        except SaslError as error:
            return self._bad(command.tag, str(error))

    def _authenticate(self, command: Command) -> ClientEvent:
        words = command.rest.split(b" ")
        mechanism = printable(words[0], 40).upper()
        if not 1 <= len(words) <= 2 or not mechanism:
            return self._bad(command.tag, "AUTHENTICATE needs a mechanism")
        if not self._offer.passwords:
            return self._privacy(command.tag)
        if mechanism not in self._offer.mechanisms:
            self._bad_commands_count += 1
            return _say(f"{command.tag} NO [CANNOT] this mechanism is not offered")
        exchange = SaslExchange(mechanism)
        initial = None
        try:
            if len(words) == 2:
                initial = b"" if words[1] == b"=" else decode(words[1])
            return self._result(command.tag, exchange, exchange.start(initial))
        except SaslError as error:
            return self._bad(command.tag, str(error))

    def _go_on(self, exchange: SaslExchange) -> ClientEvent | None:
        line = self._reader.take_line()
        if line is None:
            return None
        self._exchange = None
        if line == b"*":
            return self._bad(self._tag, "the client gave up")
        try:
            return self._result(self._tag, exchange, exchange.respond(decode(line)))
        except SaslError as error:
            return self._bad(self._tag, str(error))

    def _result(self, tag: str, exchange: SaslExchange, result: LoginAsked | bytes) -> ClientEvent:
        if isinstance(result, LoginAsked):
            return self._ask(tag, result)
        self._tag, self._exchange = tag, exchange
        return ToClient(b"+ " + b64encode(result) + b"\r\n")

    def _ask(self, tag: str, asked: LoginAsked) -> LoginAsked:
        self._tag, self._is_asking = tag, True
        return asked

    def _identify(self, command: Command) -> ClientEvent:
        fields = _about(command.arguments)
        if fields is None:
            return self._bad(command.tag, "ID needs a list of names and values, or NIL")
        self.about = fields
        return _say(f'* ID ("name" "mailfront")\r\n{command.tag} OK done')

    def _bad(self, tag: str, reason: str) -> ClientEvent:
        self._bad_commands_count += 1
        if self._bad_commands_count > self._offer.bad_commands:
            return self._close("* BYE too many bad commands", "bad_commands")
        return _say(f"{tag} BAD {reason}")

    def _close(self, text: str, reason: str) -> Closing:
        self._is_over = True
        return Closing(f"{text}\r\n".encode(), reason)


@lru_cache(maxsize=64)
def _capabilities(offer: Offer) -> str:
    words = ["IMAP4rev1", "SASL-IR", *offer.extras]
    if offer.starttls:
        words.append("STARTTLS")
    words += [f"AUTH={mechanism}" for mechanism in offer.mechanisms] if offer.passwords else ["LOGINDISABLED"]
    return " ".join(words)


def _say(line: str) -> ToClient:
    return ToClient(f"{line}\r\n".encode())


def _about(arguments: tuple[Argument, ...]) -> tuple[tuple[str, str], ...] | None:
    """The fields of an ID command that may be passed on; None if it is malformed."""
    if len(arguments) == 1 and isinstance(arguments[0], bytes) and arguments[0].upper() == b"NIL":
        return ()
    if len(arguments) < 2 or arguments[0] is not Mark.OPEN or arguments[-1] is not Mark.CLOSE:
        return None
    strings = [part for part in arguments[1:-1] if isinstance(part, bytes)]
    if len(strings) != len(arguments) - 2 or len(strings) % 2:
        return None
    fields = [
        (printable(name, MAX_ABOUT_NAME_CHARS), printable(value, MAX_ABOUT_VALUE_CHARS))
        for name, value in zip(strings[::2], strings[1::2], strict=True)
        if value.upper() != b"NIL"
    ]
    return tuple((name, value) for name, value in fields if name.isascii() and not name.lower().startswith("x-"))
