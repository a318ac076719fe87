"""The mail server's side of the milter protocol, version 6 (and 2 to 5, by negotiation). Sans-IO: the core says what
to write and what the filter's bytes mean; the driver reads, writes and keeps the time.

Order of calls:

    core = MilterClient()
    write(core.negotiate())                      answer: Negotiated
    write(core.connect(...)), write(core.helo(...))
    write(core.mail(...)), write(core.recipient(...)) for each, write(core.data(...))
    write(core.header(...)) for each, write(core.end_of_headers(...))
    write(core.body(piece)) for each piece of at most BODY_PIECE_BYTES, write(core.end_of_message(...))
    core.can_begin_anew: write(core.new_client()) and `connect` again; else write(core.quit())

After each of them: while `core.waiting`, feed `receive` and take `next_answer`. A call returns b"" where the filter
does not want that step, and does not wait where it said that it will not answer: such calls are collected and ride in
front of the next packet that is answered, so that macro, silent steps and event are one write.

Answers: a `Decision` ends the wait of its step, except PROGRESS, which only says that the filter lives. Edits come
only while the end of the message is answered; an edit that was not negotiated, or at any other place, is a
RemoteProtocolError. SKIP is allowed for a piece of a body only. After SHUTDOWN, CONNECTION_FAILURE or an error the
core is closed and the connection must be. ACCEPT, REJECT and the like end the message and the connection's use:
libmilter takes `new_client` only behind an end of message that was answered by CONTINUE, and ignores it elsewhere.

What it does not do: decide. What a reply, a lost connection or a time-out means for the message is the filter kind's.
"""

import ipaddress
from collections.abc import Mapping
from enum import Enum

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.protocol.milter_packets import (
    ACTION_OF_EDIT,
    ALL_ACTIONS,
    ALL_STEPS,
    BODY_PIECE_BYTES,
    VERSION,
    Action,
    Answer,
    Decision,
    Negotiated,
    PacketReader,
    ReplyWith,
    Stage,
    Step,
    decode,
    pack,
    pack_negotiation,
    pack_texts,
)

Macros = Mapping[str, str]

USUAL_MACROS: dict[Stage, tuple[str, ...]] = {
    Stage.CONNECT: ("j", "_", "{daemon_name}", "{daemon_addr}", "{daemon_port}", "{if_name}", "{if_addr}", "v"),
    Stage.HELO: ("{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}", "{cert_issuer}"),
    Stage.MAIL: ("i", "{auth_type}", "{auth_authen}", "{auth_author}", "{mail_mailer}", "{mail_host}", "{mail_addr}"),
    Stage.RCPT: ("{rcpt_mailer}", "{rcpt_host}", "{rcpt_addr}"),
    Stage.DATA: ("i",),
    Stage.END_OF_HEADERS: ("i",),
    Stage.END_OF_MESSAGE: ("i",),
}
"""What is sent to a filter that names no macros of its own for a stage."""

_SILENCE = {
    Stage.CONNECT: Step.SILENT_CONNECT,
    Stage.HELO: Step.SILENT_HELO,
    Stage.MAIL: Step.SILENT_MAIL,
    Stage.RCPT: Step.SILENT_RCPT,
    Stage.DATA: Step.SILENT_DATA,
    Stage.END_OF_HEADERS: Step.SILENT_END_OF_HEADERS,
}
_REFUSAL = {
    Stage.CONNECT: Step.NO_CONNECT,
    Stage.HELO: Step.NO_HELO,
    Stage.MAIL: Step.NO_MAIL,
    Stage.RCPT: Step.NO_RCPT,
    Stage.DATA: Step.NO_DATA,
    Stage.END_OF_HEADERS: Step.NO_END_OF_HEADERS,
}
_ENDS_A_MESSAGE = frozenset({Decision.ACCEPT, Decision.REJECT, Decision.TEMPFAIL, Decision.DISCARD})
_CLOSES = frozenset({Decision.SHUTDOWN, Decision.CONNECTION_FAILURE})


class _Waits(Enum):
    NOTHING = "nothing"
    NEGOTIATION = "the negotiation"
    STEP = "a step"
    BODY = "a piece of the body"
    END = "the end of the message"
    CLOSED = "nothing: it is closed"


class MilterClient:
    """One connection to a filter. Not thread-safe; one message at a time."""

    __slots__ = ("_pending", "_reader", "_state", "actions", "can_begin_anew", "macros", "steps", "version")

    def __init__(self) -> None:
        self.version = 0
        self.actions = Action(0)
        self.steps = Step(0)
        self.macros: dict[Stage, tuple[str, ...]] = {}
        self.can_begin_anew = False
        self._reader = PacketReader()
        self._state = _Waits.NOTHING
        self._pending = b""

    @property
    def waiting(self) -> bool:
        """Whether the filter owes an answer."""
        return self._state not in (_Waits.NOTHING, _Waits.CLOSED)

    @property
    def closed(self) -> bool:
        """Whether this connection is of no more use."""
        return self._state is _Waits.CLOSED

    def receive(self, data: bytes) -> None:
        """Take bytes from the filter."""
        self._reader.receive(data)

    def next_answer(self) -> Answer | None:
        """The next thing that the filter said, or None if more bytes are needed. Raises RemoteProtocolError; the core
        is then closed."""
        if self._state is _Waits.CLOSED:
            return None
        try:
            packet = self._reader.next_packet()
            if packet is None:
                if self._reader.has_residue and not self.waiting:
                    raise RemoteProtocolError("bytes that nobody asked for")
                return None
            answer = decode(*packet)
            self._take(answer)
        except RemoteProtocolError:
            self._state = _Waits.CLOSED
            raise
        return answer

    def negotiate(self) -> bytes:
        """Offer all that we can do."""
        self._must_not_wait()
        self._state = _Waits.NEGOTIATION
        return pack_negotiation(ALL_ACTIONS, ALL_STEPS)

    def connect(self, host_name: str, ip: str, port: int, macros: Macros) -> bytes:
        """Who connected. `host_name`: its verified name, or its address in brackets; `ip` '' where there is none."""
        if not ip:
            content = pack_texts(host_name.encode())[:-1] + b"\0U"
        else:
            family = b"6" if ipaddress.ip_address(ip).version == 6 else b"4"
            text = ip if family == b"4" else f"IPv6:{ip}"
            content = pack_texts(host_name.encode()) + family + port.to_bytes(2, "big") + pack_texts(text.encode())
        return self._step(Stage.CONNECT, b"C", content, macros)

    def helo(self, name: str, macros: Macros) -> bytes:
        """What the client called itself."""
        return self._step(Stage.HELO, b"H", pack_texts(name.encode()), macros)

    def mail(self, path: str, parameters: tuple[str, ...], macros: Macros) -> bytes:
        """The reverse-path without its brackets; '' is the null reverse-path."""
        texts = pack_texts(f"<{path}>".encode(), *(each.encode() for each in parameters))
        return self._step(Stage.MAIL, b"M", texts, macros)

    def recipient(self, path: str, parameters: tuple[str, ...], macros: Macros) -> bytes:
        """One accepted recipient."""
        texts = pack_texts(f"<{path}>".encode(), *(each.encode() for each in parameters))
        return self._step(Stage.RCPT, b"R", texts, macros)

    def data(self, macros: Macros) -> bytes:
        """DATA: no more recipients follow. Filters of version 3 and older do not know it."""
        return self._step(Stage.DATA, b"T", b"", macros) if self.version >= 4 else b""

    def header(self, name: bytes, value: bytes) -> bytes:
        """One field. `value` is all that stands behind the colon, without the last line end, folds as CRLF."""
        if Step.NO_HEADERS in self.steps:
            return b""
        if Step.LEADING_SPACE not in self.steps:
            value = value.removeprefix(b" ")
        # Filters see folds as bare LF, as sendmail keeps them.
        packet = pack(b"L", pack_texts(name, value.replace(b"\r\n", b"\n")))
        return self._send(packet, silent=Step.SILENT_HEADER in self.steps, then=_Waits.STEP)

    def end_of_headers(self, macros: Macros) -> bytes:
        """The empty line behind the header."""
        return self._step(Stage.END_OF_HEADERS, b"N", b"", macros)

    def body(self, piece: bytes) -> bytes:
        """At most `BODY_PIECE_BYTES` bytes of the body, as they came."""
        if len(piece) > BODY_PIECE_BYTES:
            raise LocalProtocolError(f"a piece of {len(piece)} bytes; {BODY_PIECE_BYTES} are allowed")
        if Step.NO_BODY in self.steps:
            return b""
        return self._send(pack(b"B", piece), silent=Step.SILENT_BODY in self.steps, then=_Waits.BODY)

    def end_of_message(self, macros: Macros) -> bytes:
        """All is said. The answer always comes; edits come before it."""
        packet = self._macro(Stage.END_OF_MESSAGE, b"E", macros) + pack(b"E")
        return self._send(packet, silent=False, then=_Waits.END)

    def new_client(self) -> bytes:
        """The next `connect` tells of another client. Nothing is answered."""
        if not self.can_begin_anew:
            raise LocalProtocolError("this connection cannot serve another client")
        self.can_begin_anew = False
        return pack(b"K")

    def quit(self) -> bytes:
        """Good-bye. Nothing is answered, and the connection is closed."""
        self._state = _Waits.CLOSED
        return pack(b"Q")

    def _step(self, stage: Stage, command: bytes, content: bytes, macros: Macros) -> bytes:
        # A filter that does not want the step still gets its macros: they count for the steps behind it.
        packet = self._macro(stage, command, macros)
        if _REFUSAL[stage] in self.steps:
            self._must_not_wait()
            self._pending += packet
            return b""
        return self._send(packet + pack(command, content), silent=_SILENCE[stage] in self.steps, then=_Waits.STEP)

    def _macro(self, stage: Stage, command: bytes, macros: Macros) -> bytes:
        wanted = self.macros.get(stage, USUAL_MACROS[stage])
        texts = [text.encode() for name in wanted if (value := _value(macros, name)) for text in (name, value)]
        return pack(b"D", command + pack_texts(*texts))

    def _send(self, packet: bytes, *, silent: bool, then: _Waits) -> bytes:
        self._must_not_wait()
        if silent and len(self._pending) + len(packet) <= BODY_PIECE_BYTES:
            self._pending += packet
            return b""
        pending, self._pending = self._pending, b""
        if not silent:
            self._state = then
        return pending + packet

    def _must_not_wait(self) -> None:
        if self._state is not _Waits.NOTHING:
            raise LocalProtocolError(f"the filter waits for or owes {self._state.value}")

    def _take(self, answer: Answer) -> None:
        state = self._state
        if not self.waiting:
            raise RemoteProtocolError("an answer that nobody asked for")
        if isinstance(answer, Negotiated):
            self._negotiated(answer)
        elif isinstance(answer, Decision):
            self._decided(answer)
        elif state is _Waits.NEGOTIATION:
            raise RemoteProtocolError("an answer before the negotiation")
        elif isinstance(answer, ReplyWith):
            self._state = _Waits.NOTHING
        elif state is not _Waits.END:
            raise RemoteProtocolError(f"{type(answer).__name__} before the end of the message")
        elif not ACTION_OF_EDIT[type(answer)] & self.actions:
            raise RemoteProtocolError(f"{type(answer).__name__} was not negotiated")

    def _decided(self, answer: Decision) -> None:
        if answer in _CLOSES:
            self._state = _Waits.CLOSED
        elif self._state is _Waits.NEGOTIATION:
            raise RemoteProtocolError(f"{answer.name} in place of the negotiation")
        elif answer is Decision.SKIP and (self._state is not _Waits.BODY or Step.SKIP not in self.steps):
            raise RemoteProtocolError("SKIP where no body is sent, or without having asked for it")
        elif answer is not Decision.PROGRESS:
            ended = self._state is _Waits.END and answer is Decision.CONTINUE
            self.can_begin_anew = ended and self.version >= 6
            self._state = _Waits.NOTHING

    def _negotiated(self, answer: Negotiated) -> None:
        if self._state is not _Waits.NEGOTIATION:
            raise RemoteProtocolError("a second negotiation")
        if not 2 <= answer.version <= VERSION:
            raise RemoteProtocolError(f"version {answer.version}; versions 2 to {VERSION} are spoken here")
        if int(answer.actions) & ~int(ALL_ACTIONS) or int(answer.steps) & ~int(ALL_STEPS):
            raise RemoteProtocolError("the filter wants what was not offered")
        self.version, self.actions, self.steps, self.macros = (
            answer.version,
            answer.actions,
            answer.steps,
            answer.macros,
        )
        self._state = _Waits.NOTHING


def _value(macros: Macros, name: str) -> str:
    """`{j}` and `j` are one macro; `macros` has the names without braces."""
    return macros.get(name.strip("{}"), "")


def ends_message(answer: Answer) -> bool:
    """Whether this answer decides the message: nothing more of it is sent to this filter."""
    return isinstance(answer, ReplyWith) or answer in _ENDS_A_MESSAGE
