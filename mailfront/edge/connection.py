"""One client's connection, below the mail commands: the loop that reads a line, splits it and calls its command.

What holds here:

- tables belong to the class, and a connection makes few objects;
- one corked stream (`mailfront.edge.stream`): timers per phase, 421 instead of silence;
- `eof_received` and `connection_lost` cancel nothing. The loop ends at its next read; what a message commits is never
  cut off by its client;
- our own trouble is 451 with an id, and no Python text reaches a client;
- STARTTLS by `loop.start_tls`, with a check for bytes sent too early and completely new state.

A command is a method that takes its argument (None: there was none) and returns None, or what is to be awaited. The
loop ends by `DialogueEnded`; whoever wants to end it with a reply raises `Farewell` or calls `leave`.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar, cast

from mailfront.base.ids import new_message_id
from mailfront.base.printable import printable
from mailfront.base.tasks import spawn
from mailfront.edge.listener import EdgeListener
from mailfront.edge.port import Screened
from mailfront.edge.stream import DialogueEnded, DialogueStream, Farewell
from mailfront.filters.contract import Finding
from mailfront.mail.client import ClientInfo
from mailfront.mail.reply import Reply, reply
from mailfront.net.networks import canonical_ip, is_listed
from mailfront.observe import log as observe_log
from mailfront.observe import metrics

log = observe_log.get("edge")

ABORT_S = 10.0
NEWCOMER_S = 2.0
"""So long after it came, a client may begin its first message though we drain: a reload turns nobody away."""
_CLEAN_ENDS = frozenset(("", "quit", "lost"))
_BAD = frozenset((b"500", b"501", b"502", b"503", b"555"))
_TOO_MANY_BAD = reply(421, "4.7.0", "too many bad commands, closing the connection")
_TOO_MANY_ERRORS = reply(421, "4.7.0", "too many errors, closing the connection")
_TOO_MANY_IDLE = reply(421, "4.7.0", "too many commands without a message, closing the connection")
_SHUTTING_DOWN = reply(421, "4.3.2", "shutting down, try again later")
_TRY_LATER = reply(421, "4.7.0", "too many connections, try again later")
_RESIDUE = reply(503, "5.5.1", "nothing may follow STARTTLS before TLS, closing the connection")


class EdgeConnection(asyncio.Protocol):
    """See the module. `proxied` is (client ip, client port, peer ip) if a PROXY header spoke for the client."""

    commands: ClassVar[Mapping[str, str]] = {}
    """Each command and the method that serves it."""
    greeting_name: ClassVar[str] = "ESMTP"

    def __init__(self, listener: EdgeListener, proxied: tuple[str, int, str] | None = None) -> None:
        self.listener = listener
        self.loop = listener.loop
        self.hostname = listener.hostname
        self.transport: asyncio.BaseTransport | None = None
        self.stream = DialogueStream(listener.loop, listener.limits, refuse_bare=not listener.normalize_newlines)
        self.helo = ""
        """What the client called itself; '' before HELO."""
        self.is_extended = False
        """Whether it said EHLO or LHLO."""
        self._proxied = proxied
        self.peer_ip = self.ip = ""
        self.port = 0
        self.tls = ""
        self.is_trusted = False
        self.client: ClientInfo | None = None
        self.stage = "connect"
        self.is_busy = False
        self._is_handshaking = False
        self._admitted_ip: str | None = None
        self._started_s = listener.loop.time()
        self.end = self.reason = ""
        self.last_reply: Reply | None = None
        self.bad_commands_count = self.errors_count = self.idle_commands_count = 0
        self.messages_count = self.rejected_count = self.early_count = 0
        self.findings: tuple[Finding, ...] = ()

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there: decide whether it may stay, then start the dialogue."""
        self.transport = transport
        # uvloop's transports are no subclasses of asyncio's.
        self.stream.transport = cast(asyncio.Transport, transport)
        self._read_peer(transport)
        listener = self.listener
        trusted = listener.settings.xclient
        self.is_trusted = bool(trusted) and is_listed(self.ip, trusted)
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self.tls = _tls_text(ssl_object)
        refusal = listener.admission.admit(self.ip)
        if refusal is not None:
            metrics.EDGE_CONNECTIONS.inc(listener.name, refusal.limit_name.value)
            self._refuse(_TRY_LATER, f"limit of {refusal.limit} connections")
            return
        listener.accepted_count += 1
        # A trusted peer is about to say who its client is.
        screened = None if self.is_trusted else self._ask_filters()
        if isinstance(screened, tuple) and screened[0] is not None:
            # Nothing but this line is spent on a client that is known to be unwanted: no task, no wait for its end. It
            # has said nothing yet, so closing cuts nothing off.
            listener.admission.release(self.ip)
            self._count_refusal()
            self._refuse(_in_place_of_greeting(screened[0]), "")
            return
        self._admitted_ip = self.ip
        listener.sessions.add(self)
        if listener.is_draining:
            self.ask_to_leave(now=False)
        # Nobody keeps this task: nobody can cancel it, so what a message commits runs to its end.
        spawn(self._run(screened), name="session")

    def _read_peer(self, transport: asyncio.BaseTransport) -> None:
        if self._proxied is not None:
            self.ip, self.port, self.peer_ip = self._proxied
            return
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.ip, self.port = canonical_ip(peer[0]) if ":" in peer[0] else peer[0], peer[1]
        self.peer_ip = self.ip

    def _refuse(self, answer: Reply, reason: str) -> None:
        self.end, self.reason, self.last_reply = "refused", reason, answer
        self.stream.write(answer.wire())
        self.stream.flush()
        if self.stream.transport is not None:
            self.stream.transport.close()
        self._report()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self.stream.feed(data)

    def eof_received(self) -> bool:
        """The client has no more to say. It still gets its replies, where the transport can do that."""
        self.stream.feed_eof()
        return not self.tls

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone. Nothing is cancelled: the loop sees it at its next read."""
        self.stream.lost()

    def pause_writing(self) -> None:
        """The client does not take its replies."""
        self.stream.set_write_paused(True)

    def resume_writing(self) -> None:
        """The client takes replies again."""
        self.stream.set_write_paused(False)

    # The loop, and what it needs.

    async def _run(self, screened: Screened | Awaitable[Screened] | None) -> None:
        try:
            await self._obey(screened)
            self.early_count += self.stream.has_input
            self.stream.write(f"220 {self.hostname} {self.greeting_name}\r\n".encode())
            while True:
                await self._serve()
        except DialogueEnded:
            pass
        finally:
            try:
                self.drop_transaction()
                await self.stream.part(linger=self.end not in _CLEAN_ENDS and not self.tls)
            finally:
                self._finished()

    async def screen(self) -> None:
        """Ask the filters of stage `connect`, before the greeting. Raises DialogueEnded if they refuse the client."""
        await self._obey(self._ask_filters())

    def _ask_filters(self) -> Screened | Awaitable[Screened] | None:
        """Ask them. None: there are none to be asked."""
        screening = self.listener.intake.screening
        if screening is None or not screening.at_connect:
            return None
        client = ClientInfo(
            ip=self.ip, port=self.port, protocol=self.greeting_name, tls=self.tls, listener=self.listener.name
        )
        return screening.connect(client, self.stream)

    async def _obey(self, screened: Screened | Awaitable[Screened] | None) -> None:
        if screened is None:
            return
        refusal, self.findings = screened if isinstance(screened, tuple) else await screened
        if refusal is not None:
            self._count_refusal()
            self.leave(_in_place_of_greeting(refusal), end="refused", reason="")

    def _count_refusal(self) -> None:
        metrics.EDGE_REJECTIONS.inc("filters")
        self.rejected_count += 1

    async def _serve(self) -> None:
        """Serve commands until one fails. Raises DialogueEnded."""
        stream, commands = self.stream, self.commands
        try:
            while True:
                line = (await stream.command_line()).rstrip(b"\r\n")
                name, _, argument = line.partition(b" ")
                method = commands.get(name.upper().decode("latin-1"), "unknown_command")
                waiting: Awaitable[None] | None = getattr(self, method)(
                    argument.strip().decode("utf-8", "surrogateescape") if argument else None
                )
                if waiting is not None:
                    await waiting
        except DialogueEnded:
            raise
        except Farewell as farewell:
            self.leave(farewell.answer, end=farewell.end, reason=farewell.reason)
        except Exception as error:
            self._say_trouble(error)

    def _finished(self) -> None:
        listener, stream = self.listener, self.stream
        transport = stream.transport
        if transport is not None and not self.tls and not stream.is_lost and transport.get_write_buffer_size():
            # A client that takes nothing must not hold the connection: closing waits for what is unsent. Over TLS the
            # event loop has a time limit of its own.
            listener.parting.append((self.loop.time() + ABORT_S, transport))
        if self._admitted_ip is not None:
            listener.admission.release(self._admitted_ip)
        listener.sessions.discard(self)
        if not listener.sessions:
            listener.changed.set()
        self._report()

    def _report(self) -> None:
        """One canonical line per connection."""
        stream, client = self.stream, self.client
        last = self.last_reply
        self.listener.emit(
            "connection",
            listener=self.listener.name,
            client_ip=self.ip,
            client_port=self.port,
            proxy_ip=self.peer_ip if self.peer_ip != self.ip else None,
            helo=client.helo if client is not None else printable(self.helo),
            protocol=self.protocol,
            tls=self.tls or None,
            commands_count=stream.commands_count,
            bad_commands_count=self.bad_commands_count,
            messages_count=self.messages_count,
            rejected_count=self.rejected_count,
            received_bytes=stream.received_bytes,
            duration_s=round(self.loop.time() - self._started_s, 3),
            end=self.end or "lost",
            stage=self.stage,
            early_count=self.early_count,
            reason=self.reason or None,
            reply=str(last) if last is not None else None,
        )

    @property
    def protocol(self) -> str:
        """SMTP, ESMTP or LMTP, with S over TLS."""
        name = self.greeting_name if self.is_extended else "SMTP"
        return name + "S" if self.tls else name

    def drop_transaction(self) -> None:
        """End the message that is under way, if any."""
        raise NotImplementedError

    @property
    def has_transaction(self) -> bool:
        """Whether a message is under way."""
        raise NotImplementedError

    def say(self, answer: Reply | bytes) -> None:
        """Send a reply, corked. Ends the dialogue when there were too many bad ones."""
        line = answer if isinstance(answer, bytes) else answer.wire()
        self.stream.write(line)
        if line[0] > 51:
            self._count_error(line)

    def _count_error(self, line: bytes) -> None:
        limits = self.listener.limits
        self.errors_count += 1
        if line[:3] in _BAD:
            self.bad_commands_count += 1
            metrics.EDGE_REJECTIONS.inc("sequence" if line[:3] == b"503" else "syntax")
            if self.bad_commands_count > limits.bad_commands:
                self.leave(_TOO_MANY_BAD, end="limit", reason="bad_commands")
        if self.errors_count > limits.errors:
            self.leave(_TOO_MANY_ERRORS, end="limit", reason="bad_commands")

    def count_idle_command(self) -> None:
        """A command that brings no message closer."""
        self.idle_commands_count += 1
        if self.idle_commands_count > self.listener.limits.idle_commands:
            self.leave(_TOO_MANY_IDLE, end="limit", reason="bad_commands")

    def leave(self, answer: Reply, *, end: str, reason: str = "") -> None:
        """Say the last reply and end the dialogue: always raises DialogueEnded."""
        self.end, self.reason, self.last_reply = end, reason, answer
        if reason:
            metrics.EDGE_REJECTIONS.inc(reason)
        self.stream.write(answer.wire())
        raise DialogueEnded

    def _say_trouble(self, error: Exception) -> None:
        """A command raised: say that it is our trouble, and nothing about the cause."""
        trouble_id = new_message_id(time.time())
        log.error("a command failed", id=trouble_id, client_ip=self.ip, stage=self.stage, exc_info=error)
        if self.stage == "data":
            # In the middle of a message nobody knows where the next command begins.
            answer = reply(421, "4.3.0", f"{trouble_id} internal trouble, try again later")
            self.leave(answer, end="failed", reason="internal")
        metrics.EDGE_REJECTIONS.inc("internal")
        self.say(reply(451, "4.3.0", f"{trouble_id} internal trouble, try again later"))

    # Leaving.

    def _leave_if_idle(self) -> None:
        is_newcomer = self.messages_count == 0 and self.loop.time() < self._started_s + NEWCOMER_S
        if self.stage != "data" and not self.has_transaction and not is_newcomer:
            self._leave_now()

    def _leave_now(self) -> None:
        raise Farewell(_SHUTTING_DOWN, end="shutdown", reason="draining")

    def ask_to_leave(self, *, now: bool) -> None:
        """End the dialogue with 421: after the message that is under way, or `now`. A commit is always awaited."""
        self.stream.may_leave = self._leave_now if now else self._leave_if_idle
        self.stream.wake()
        if not now:
            self.loop.call_at(self._started_s + NEWCOMER_S, self.stream.wake)
        if now and self._is_handshaking:
            cast(asyncio.Transport, self.transport).abort()

    # TLS.

    def smtp_STARTTLS(self, arg: str | None) -> Awaitable[None] | None:
        """Go on over TLS, knowing nothing of what was said before (RFC 3207 section 4.2)."""
        tls = self.listener.tls
        if tls is None or self.listener.settings.tls != "starttls":
            self.say(b"502 5.5.1 STARTTLS is not offered\r\n")
        elif arg:
            self.say(b"501 5.5.4 Syntax: STARTTLS\r\n")
        elif self.tls:
            self.say(b"503 5.5.1 TLS is already in use\r\n")
        elif self.stream.has_input:
            # Somebody may have put commands in front of the client's TLS.
            self.leave(_RESIDUE, end="protocol", reason="tls_residue")
        else:
            return self._start_tls(tls.context)
        return None

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        raw_transport = cast(asyncio.Transport, self.transport)
        self.drop_transaction()
        self.stream.write(b"220 2.0.0 ready to start TLS\r\n")
        self.stream.flush()
        # What comes during the handshake is already inside TLS; nothing is sent or paused until it is over.
        self.stream.transport = None
        self._is_handshaking = True
        try:
            transport = await self.loop.start_tls(
                raw_transport, self, context, server_side=True, ssl_handshake_timeout=self.listener.limits.tls_timeout
            )
        except (OSError, TimeoutError) as error:
            metrics.EDGE_TLS_HANDSHAKES.inc("failed")
            self.end, self.reason = "failed", printable(f"TLS handshake: {error}")
            raise DialogueEnded from error
        finally:
            self._is_handshaking = False
        if transport is None:
            self.end, self.reason = "lost", "TLS handshake"
            raise DialogueEnded
        metrics.EDGE_TLS_HANDSHAKES.inc("ok")
        self.transport = transport
        self.stream.start_afresh(transport)
        self.tls = _tls_text(transport.get_extra_info("ssl_object"))
        self.forget_client()
        self.helo, self.is_extended = "", False
        self.stage = "connect"

    def forget_client(self) -> None:
        """Forget what the client said about itself."""
        self.client = None
        if self.transport is not None:
            self._read_peer(self.transport)


def _in_place_of_greeting(refusal: Reply) -> Reply:
    """521 and 421 say that the connection ends (RFC 7504, RFC 5321 section 4.2.1)."""
    return Reply(521 if refusal.is_permanent else 421, refusal.enhanced, refusal.lines)


def _tls_text(ssl_object: Any) -> str:
    cipher = ssl_object.cipher()
    return f"{ssl_object.version()} {cipher[0] if cipher else ''}".strip()
