"""The client's side of LMTP (RFC 2033). Sans-IO: bytes in, events out; the driver writes what it is told.

Order of calls:

    core = LmtpClient("mx1.example.edu", starttls=False)
    receive(data), next_event() until None      Send: write it; StartTls: start TLS, then write tls_started()
    ... Ready                                   the connection is idle
    write(begin(envelope))                      MAIL, all RCPT and DATA in one write (RFC 2920)
    ... EnvelopeAnswered                        go: write the body, dot-stuffed; else idle again, or write(quit())
    body_ended(), write the final dot
    ... FinalReply, one per accepted recipient, in order; after the last one the connection is idle again

A new transaction needs no RSET unless the last one ended before its final dot; then RSET rides in the same write.
A peer that does not offer PIPELINING gets one command at a time.

What closes the connection: 421 at any time (`ServiceClosing`); any byte while it is idle, while the body is sent,
behind the reply to STARTTLS, or after the last final reply; any code that does not belong where it stands
(RemoteProtocolError). A 354 without an accepted recipient is answered by a lone dot and QUIT, because nobody can say
how many replies follow. MAIL and RCPT parameters are sent only if the peer's LHLO offered them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.base.printable import printable
from mailfront.mail.envelope import NO_OPTIONS, BodyType, RecipientOptions
from mailfront.mail.reply import Reply
from mailfront.protocol.replies import ReplyReader

_PATH = re.compile(
    r'(?:[^\x00-\x20\x7f-\x9f<>"\\\ud800-\udfff]++|"(?:[^\x00-\x1f\x7f-\x9f"\\\ud800-\udfff]|\\[ -~])*")+'
)
_PARAMETER = re.compile(r"[^\x00-\x20\x7f-\x9f\ud800-\udfff]+")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9.+_=@\-]+")


class Step(Enum):
    """What the dialogue waits for; names the place in logs."""

    GREETING = "greeting"
    LHLO = "LHLO"
    STARTTLS = "STARTTLS"
    TLS = "TLS"
    IDLE = "idle"
    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BODY = "body"
    FINAL = "final"
    CLOSED = "closed"


_SILENT_STEPS = frozenset({Step.TLS, Step.IDLE, Step.BODY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """What a peer's LHLO offered. `size_limit_bytes` 0: no limit named. `names` are upper case."""

    names: frozenset[str] = frozenset()
    size_limit_bytes: int = 0
    pipelining: bool = False
    size: bool = False
    eightbitmime: bool = False
    smtputf8: bool = False
    dsn: bool = False


NO_EXTENSIONS = Extensions()


@dataclass(frozen=True, slots=True, kw_only=True)
class LmtpEnvelope:
    """One transaction. `reverse_path` '' is the null reverse-path. Paths stand without their angle brackets."""

    reverse_path: str
    recipients: Sequence[tuple[str, RecipientOptions]]
    size_bytes: int = 0
    body_type: BodyType = BodyType.SEVENBIT
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None
    data: bool = True


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes now."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """The peer is ready for TLS. Shake hands, then `tls_started`. Bytes that come before that are an error."""


@dataclass(frozen=True, slots=True)
class Ready:
    """LHLO is answered and the connection is idle."""

    extensions: Extensions


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer's greeting or its answer to LHLO or STARTTLS is not positive. The connection is of no use."""

    step: Step
    reply: Reply


@dataclass(frozen=True, slots=True)
class EnvelopeAnswered:
    """All commands before the body are answered.

    `recipients` is empty if MAIL was refused. `data` is None if DATA was not sent. `go`: send the body now.
    """

    mail: Reply
    recipients: tuple[Reply, ...]
    data: Reply | None
    go: bool


@dataclass(frozen=True, slots=True)
class FinalReply:
    """The answer after the final dot for the recipient of this index in the envelope."""

    index: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class ServiceClosing:
    """421: the peer is closing. What was not answered until now has no answer."""

    step: Step
    reply: Reply


Event = Send | StartTls | Ready | Refused | EnvelopeAnswered | FinalReply | ServiceClosing


class LmtpClient:
    """One connection's dialogue. After Refused, ServiceClosing or an error it is closed and says nothing more."""

    __slots__ = (
        "_accepted",
        "_answers",
        "_client_name",
        "_closing",
        "_commands",
        "_next_final",
        "_reader",
        "_reset_first",
        "_starttls",
        "_with_data",
        "extensions",
        "step",
    )

    def __init__(self, client_name: str, *, starttls: bool) -> None:
        """`client_name` goes into LHLO; with `starttls` nothing is ever sent in the clear beyond STARTTLS."""
        if _PARAMETER.fullmatch(client_name) is None:
            raise LocalProtocolError(f"{client_name!r} is not a host name for LHLO")
        self.step = Step.GREETING
        self.extensions = NO_EXTENSIONS
        self._client_name = client_name
        self._starttls = starttls
        self._reader = ReplyReader()
        self._reset_first = False
        self._with_data = True
        self._commands: list[bytes] = []
        self._answers: list[Reply] = []
        self._accepted: list[int] = []
        self._next_final = 0
        self._closing = False

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._reader.receive(data)

    def next_event(self) -> Event | None:
        """The next thing that happened, or None if more bytes are needed. Raises RemoteProtocolError."""
        try:
            while self.step is not Step.CLOSED:
                reply = self._reader.next_reply()
                if reply is None:
                    if self._reader.has_residue and self.step in _SILENT_STEPS:
                        raise RemoteProtocolError(f"unexpected bytes ({self.step.value})")
                    return None
                event = self._take(reply)
                if event is not None:
                    return event
        except RemoteProtocolError:
            self.step = Step.CLOSED
            raise
        return None

    def tls_started(self) -> bytes:
        """TLS stands. Forgets all that was said before it; returns the LHLO to write."""
        self._must_be(Step.TLS)
        self._starttls = False
        self._reader = ReplyReader()
        self.extensions = NO_EXTENSIONS
        self.step = Step.LHLO
        return self._lhlo()

    def begin(self, envelope: LmtpEnvelope) -> bytes:
        """Start a transaction. Returns the bytes to write. Raises LocalProtocolError if the connection is not idle or
        a path or parameter cannot be written safely; nothing has then been sent."""
        self._must_be(Step.IDLE)
        commands = [b"RSET\r\n"] if self._reset_first else []
        commands.append(self._mail(envelope))
        commands.extend([self._rcpt(path, options) for path, options in envelope.recipients])
        if envelope.data:
            commands.append(b"DATA\r\n")
        self._with_data = envelope.data
        self._commands = commands
        self._answers = []
        self._accepted = []
        self._next_final = 0
        self.step = Step.RSET if self._reset_first else Step.MAIL
        return b"".join(commands) if self.extensions.pipelining else commands[0]

    def body_ended(self) -> None:
        """The final dot is written next. From here on a lost connection leaves the outcome unknown."""
        self._must_be(Step.BODY)
        if not self._accepted:
            raise LocalProtocolError("no recipient is accepted: there is no body to send")
        self.step = Step.FINAL

    def quit(self) -> bytes:
        """Close the dialogue politely; no answer is awaited. Returns what to write: QUIT, after a lone dot if DATA was
        answered 354 without an accepted recipient; nothing where QUIT would be out of place."""
        step, self.step = self.step, Step.CLOSED
        if step is Step.BODY and not self._accepted:
            return b".\r\nQUIT\r\n"
        return b"QUIT\r\n" if step is Step.IDLE else b""

    def _must_be(self, step: Step) -> None:
        if self.step is not step:
            raise LocalProtocolError(f"the dialogue waits for {self.step.value}, not for {step.value}")

    def _take(self, reply: Reply) -> Event | None:
        step = self.step
        if step is Step.FINAL:
            return self._final_reply(reply)
        if reply.code == 421:
            self.step = Step.CLOSED
            return ServiceClosing(step, reply)
        if step is Step.MAIL or step is Step.RCPT or step is Step.DATA or step is Step.RSET:
            return self._envelope_reply(reply)
        if step in _SILENT_STEPS:
            raise RemoteProtocolError(f"unexpected reply ({step.value}): {reply}")
        if not reply.is_positive:
            self.step = Step.CLOSED
            return Refused(step, reply)
        return self._handshake_reply(reply)

    def _handshake_reply(self, reply: Reply) -> Event:
        if self.step is Step.GREETING:
            self.step = Step.LHLO
            return Send(self._lhlo())
        if self.step is Step.STARTTLS:
            if self._reader.has_residue:
                raise RemoteProtocolError("bytes came behind the reply to STARTTLS, before TLS")
            self.step = Step.TLS
            return StartTls()
        self.extensions = read_extensions(reply)
        if self._starttls:
            if "STARTTLS" not in self.extensions.names:
                raise RemoteProtocolError("the peer does not offer STARTTLS")
            self.step = Step.STARTTLS
            return Send(b"STARTTLS\r\n")
        self.step = Step.IDLE
        return Ready(self.extensions)

    def _envelope_reply(self, reply: Reply) -> Event | None:
        step, pipelining = self.step, self.extensions.pipelining
        positive = reply.code == 354 if step is Step.DATA else reply.is_positive
        if not positive and reply.code < 400:
            raise RemoteProtocolError(f"unexpected reply ({step.value}): {reply}")
        if step is Step.RSET:
            if not positive:
                raise RemoteProtocolError(f"the peer refuses RSET: {reply}")
            self._commands.pop(0)
            self._reset_first = False
            self.step = Step.MAIL
            return None if pipelining else Send(self._commands[0])
        answers = self._answers
        answers.append(reply)
        count = len(answers)
        if step is Step.RCPT and positive and answers[0].is_positive:
            self._accepted.append(count - 2)
        left = len(self._commands) - count
        useless = not pipelining and (
            not answers[0].is_positive or (left == 1 and self._with_data and not self._accepted)
        )
        if left == 0 or useless:
            return self._envelope_answered()
        self.step = Step.DATA if left == 1 and self._with_data else Step.RCPT
        return None if pipelining else Send(self._commands[count])

    def _envelope_answered(self) -> Event:
        answers = self._answers
        mail = answers[0]
        data = answers[-1] if self._with_data and len(answers) == len(self._commands) else None
        recipients = tuple(answers[1:-1] if data is not None else answers[1:]) if mail.is_positive else ()
        go = data is not None and data.code == 354 and bool(self._accepted)
        if go:
            self.step = Step.BODY
        elif data is not None and data.code == 354:
            self.step = Step.BODY  # which `quit` ends with a lone dot
        else:
            self.step = Step.IDLE
            self._reset_first = True
        return EnvelopeAnswered(mail, recipients, data, go)

    def _final_reply(self, reply: Reply) -> Event:
        if not reply.is_positive and reply.code < 400:
            raise RemoteProtocolError(f"unexpected reply (final): {reply}")
        index = self._accepted[self._next_final]
        self._next_final += 1
        # RFC 5321 section 3.8: 421 answers this recipient, and the peer will close. It may still answer the others.
        self._closing = self._closing or reply.code == 421
        if self._next_final == len(self._accepted):
            self.step = Step.CLOSED if self._closing else Step.IDLE
        return FinalReply(index, reply)

    def _lhlo(self) -> bytes:
        return f"LHLO {self._client_name}\r\n".encode()

    def _mail(self, envelope: LmtpEnvelope) -> bytes:
        offered = self.extensions
        command = f"MAIL FROM:<{self._path(envelope.reverse_path) if envelope.reverse_path else ''}>"
        if offered.size and envelope.size_bytes:
            command += f" SIZE={envelope.size_bytes}"
        if offered.eightbitmime and envelope.body_type is BodyType.EIGHTBITMIME:
            command += " BODY=8BITMIME"
        if offered.smtputf8 and (envelope.smtputf8 or not is_ascii(envelope)):
            command += " SMTPUTF8"
        if offered.dsn:
            if envelope.ret is not None:
                command += f" RET={_parameter(envelope.ret)}"
            if envelope.envid is not None:
                command += f" ENVID={_parameter(envelope.envid)}"
        return f"{command}\r\n".encode()

    def _rcpt(self, path: str, options: RecipientOptions) -> bytes:
        command = f"RCPT TO:<{self._path(path)}>"
        if self.extensions.dsn and options is not NO_OPTIONS:
            if options.notify is not None:
                command += f" NOTIFY={_parameter(options.notify)}"
            if options.orcpt is not None:
                command += f" ORCPT={_parameter(options.orcpt)}"
        return f"{command}\r\n".encode()

    def _path(self, path: str) -> str:
        if _PLAIN_PATH.fullmatch(path) is not None:
            return path
        if _PATH.fullmatch(path) is None:
            raise LocalProtocolError(f"{printable(path)!r} cannot be written between < and >")
        if not path.isascii() and not self.extensions.smtputf8:
            raise LocalProtocolError(f"{printable(path)!r} needs SMTPUTF8, which the peer does not offer")
        return path


def is_ascii(envelope: LmtpEnvelope) -> bool:
    """Whether every path can be sent without SMTPUTF8."""
    return envelope.reverse_path.isascii() and all(path.isascii() for path, _ in envelope.recipients)


def read_extensions(reply: Reply) -> Extensions:
    """Read the extensions from the answer to LHLO (RFC 5321 section 4.1.1.1). What cannot be read is not offered."""
    words = [line.upper().split() for line in reply.lines[1:]]
    offered = {each[0]: each[1:] for each in words if each}
    limit = offered.get("SIZE", [])
    return Extensions(
        names=frozenset(offered),
        size_limit_bytes=int(limit[0]) if limit and limit[0].isdecimal() and limit[0].isascii() else 0,
        pipelining="PIPELINING" in offered,
        size="SIZE" in offered,
        eightbitmime="8BITMIME" in offered,
        smtputf8="SMTPUTF8" in offered,
        dsn="DSN" in offered,
    )


def _parameter(value: str) -> str:
    if _PARAMETER.fullmatch(value) is None or not value.isascii():
        raise LocalProtocolError(f"{printable(value)!r} cannot be written as a parameter")
    return value
