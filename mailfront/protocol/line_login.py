"""What POP3 and ManageSieve towards a client have in common until it is logged in: one command at a time, no tags.

`LineLogin` keeps the state of the dialogue: whether a login waits for its answer, the SASL exchange, the count of bad
commands, the end. How a line is read and what a command means is the dialect's: it brings its `Phrases` and what takes
its bytes, and gives `_next` (read one line, act on it) and `_challenge`. Sans-IO; the order of calls is that of
`ClientLogin`. IMAP is not built on it: there each answer has its command's tag.

Limits: `Offer.bad_commands` commands that are unknown or out of place, then `Closing`; lines are bounded by the reader.
LocalProtocolError: calls in the wrong order.
"""

from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from mailfront.base.errors import LocalProtocolError
from mailfront.protocol.lines import LineBuffer
from mailfront.protocol.login_dialogue import ClientEvent, Closing, Farewell, LoginAsked, Offer, Refusal, ToClient
from mailfront.protocol.sasl import SaslError, SaslExchange, decode
from mailfront.protocol.sieve_text import SieveReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """What a dialect says, whole lines with their ends. `unusable` has `%b` for what is wrong with the
    name, the password or the SASL response."""

    refusals: Mapping[Refusal, bytes]
    farewells: Mapping[Farewell, bytes]
    logged_in: bytes
    not_in_clear: bytes
    not_offered: bytes
    unusable: bytes
    too_many_bad: bytes


class LineLogin(ABC):
    """See the module. A `ClientLogin` but for its greetings and its commands."""

    __slots__ = ("_awaits_answer", "_bad_count", "_input", "_is_done", "_offer", "_phrases", "_sasl", "about")

    def __init__(self, offer: Offer, phrases: Phrases, source: LineBuffer | SieveReader) -> None:
        """`source` takes the client's bytes; the dialect reads its lines from it."""
        self.about: tuple[tuple[str, str], ...] = ()
        self._offer = offer
        self._phrases = phrases
        self._input = source
        self._sasl: SaslExchange | None = None
        self._bad_count = 0
        self._awaits_answer = self._is_done = False

    @property
    def leftover(self) -> bytes:
        """What was received and not read."""
        return self._input.residue

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._input.receive(data)

    def accept(self, capabilities: str) -> bytes:
        """The client is logged in. `capabilities` are not told: a client of these protocols asks for them."""
        self._answered()
        self._is_done = True
        return self._phrases.logged_in

    def refuse(self, why: Refusal) -> bytes:
        """The login failed; the client may try again."""
        self._answered()
        return self._phrases.refusals[why]

    def farewell(self, why: Farewell) -> bytes:
        """The last line before we close."""
        return self._phrases.farewells[why]

    def next_event(self) -> ClientEvent | None:
        """The next event, or None if more bytes, or the answer to a login, are needed."""
        if self._awaits_answer or self._is_done:
            return None
        try:
            return self._next()
        except SaslError as error:
            self._sasl = None
            return self._bad(self._phrases.unusable % str(error).encode())

    @abstractmethod
    def _next(self) -> ClientEvent | None:
        """Read one line and act on it; None if it is not whole. SaslError: the exchange is over, the answer is bad."""

    @abstractmethod
    def _challenge(self, encoded: bytes) -> bytes:
        """The line that asks for the next SASL response."""

    def _authenticate(self, name: bytes, initial: bytes | None) -> ClientEvent:
        """Begin a SASL exchange. `initial`: the initial response in base64, if there is one."""
        mechanism = name.decode("ascii", "replace").upper()
        if not self._offer.passwords:
            return self._bad(self._phrases.not_in_clear)
        if mechanism not in self._offer.mechanisms:
            return self._bad(self._phrases.not_offered)
        self._sasl = SaslExchange(mechanism)
        return self._sasl_step(self._sasl.start(None if initial is None else decode(initial)))

    def _respond(self, exchange: SaslExchange, response: bytes) -> ClientEvent:
        """Go on with one response, in base64."""
        if response == b"*":
            raise SaslError("cancelled")
        return self._sasl_step(exchange.respond(decode(response)))

    def _sasl_step(self, step: LoginAsked | bytes) -> ClientEvent:
        if isinstance(step, bytes):
            return ToClient(self._challenge(b64encode(step)))
        self._sasl = None
        return self._asked(step)

    def _asked(self, login: LoginAsked) -> LoginAsked:
        self._awaits_answer = True
        return login

    def _answered(self) -> None:
        if not self._awaits_answer:
            raise LocalProtocolError("no login waits for an answer")
        self._awaits_answer = False

    def _bad(self, answer: bytes) -> ClientEvent:
        self._bad_count += 1
        if self._bad_count < self._offer.bad_commands:
            return ToClient(answer)
        return self._close(self._phrases.too_many_bad, "bad_commands")

    def _close(self, data: bytes, reason: str) -> Closing:
        self._is_done = True
        return Closing(data, reason)
