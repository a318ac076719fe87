"""A client's connection until it is logged in. Afterwards the relay has its transport, and this object is gone.

Bytes go to the dialect's core; its events are acted on here. A login runs in a task of its own; what the client sends
meanwhile stays in the core, up to `MOST_PENDING_BYTES`, then it has to wait. A client that leaves cancels its login.
One that does not read its answers gets no further ones: they would heap up here.

There is no timer per connection: the listener calls `check_time` about once a second. Only the client's own time
counts: a login that waits for a home that is down is not cut off here.
"""

import asyncio
import time
from typing import Any, cast

from mailfront.base.ids import new_message_id
from mailfront.base.printable import printable
from mailfront.base.tasks import spawn
from mailfront.net.networks import canonical_ip
from mailfront.net.tls import describe
from mailfront.observe import metrics
from mailfront.observe.log import get
from mailfront.protocol.login_dialogue import (
    ClientIdentity,
    ClientLogin,
    Closing,
    Farewell,
    LoginAsked,
    Refusal,
    StartTls,
    ToClient,
)
from mailfront.sessions.flow import Opened, Position, Trail
from mailfront.sessions.listener import SessionListener
from mailfront.sessions.relay import ClientEnd, NodeEnd, Session

MOST_PENDING_BYTES = 64 * 1024
LINGER_S = 5.0

log = get("sessions")


class ClientConnection(asyncio.Protocol):
    """See the module. `proxied` is (client ip, client port, peer ip) if a PROXY header spoke for the client."""

    __slots__ = (
        "_admitted", "_core", "_deadline_s", "_end", "_failures_count", "_id", "_is_choked", "_is_handed_over",
        "_is_lost", "_listener", "_login", "_proxied", "_proxy_ip", "_started_s", "_tls", "_trail", "_transport", "ip",
        "port",
    )  # fmt: skip

    def __init__(self, listener: SessionListener, proxied: tuple[str, int, str] | None = None) -> None:
        self._listener = listener
        self._proxied = proxied
        self._transport: asyncio.Transport
        self._core: ClientLogin
        self._trail = Trail()
        self._login: asyncio.Task[None] | None = None
        self._started_s = self._deadline_s = 0.0
        self._failures_count = 0
        self._admitted = self._is_choked = self._is_handed_over = self._is_lost = False
        self.ip = self._proxy_ip = self._tls = self._end = self._id = ""
        self.port = 0

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there: greet it, or say that there are too many."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        listener = self._listener
        self._tls = describe(transport.get_extra_info("ssl_object"))
        self._read_peer()
        self._id = new_message_id(time.time())
        self._started_s = listener.loop.time()
        self._deadline_s = self._started_s + listener.login.timeout
        self._core = listener.dialect.client(listener.offer(self.ip, encrypted=bool(self._tls)))
        refusal = listener.admission.admit(self.ip)
        if refusal is not None:
            metrics.SESSION_CONNECTIONS.inc(listener.name, refusal.limit_name.value)
            self._leave(self._core.farewell(Farewell.TOO_MANY), "refused", f"limit of {refusal.limit} connections")
            return
        self._admitted = True
        listener.accepted_count += 1
        listener.waiting.add(self)
        self._transport.write(self._core.greeting())

    def _read_peer(self) -> None:
        peer = self._transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.ip, self.port = canonical_ip(peer[0]) if ":" in peer[0] else peer[0], peer[1]
        if self._proxied is not None:
            self.ip, self.port, self._proxy_ip = self._proxied

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._core.receive(data)
        if self._login is None and not self._is_choked:
            self._serve()
        elif len(self._core.leftover) > MOST_PENDING_BYTES:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """The client does not read our answers: it gets no further ones, and is read no more, until it does."""
        self._is_choked = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._is_choked = False
        if not self._transport.is_closing() and self._login is None:
            self._transport.resume_reading()
            self._serve()

    def eof_received(self) -> bool:
        """A client that has no more to say before its login will not get one, but may be told why not."""
        self._end = self._end or "lost"
        return self._login is not None and not self._tls

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        self._is_lost = True
        if self._login is not None:
            self._login.cancel()
        self._ended(self._end or "lost")

    # The dialogue.

    def _serve(self) -> None:
        """Act on what the client has said so far."""
        core = self._core
        while not (self._end or self._is_choked) and (event := core.next_event()) is not None:
            if isinstance(event, ToClient):
                self._transport.write(event.data)
            elif isinstance(event, LoginAsked):
                self._login = spawn(self._log_in(event), name="login")
            elif isinstance(event, StartTls):
                self._login = spawn(self._start_tls(event.data), name="starttls")
            else:
                self._close(event)

    def _close(self, event: Closing) -> None:
        if event.reason == "logout":
            self._leave(event.data, "logout", "")
        else:
            metrics.SESSION_REJECTIONS.inc(event.reason)
            self._leave(event.data, "protocol", event.reason)

    def _leave(self, last_words: bytes, end: str, reason: str) -> None:
        self._end = end
        if reason:
            self._trail.reason = reason
        if not self._is_lost:
            self._transport.write(last_words)
            self._transport.close()

    def check_time(self, now_s: float) -> None:
        """End the dialogue if the client is too slow, or we are to stop; cut the connection if it does not go then.
        `now_s` is the loop's time."""
        if self._login is not None:
            return
        if self._end:
            if now_s > self._deadline_s + LINGER_S:
                self._transport.abort()  # it does not take its last words
        elif self._listener.is_draining:
            self._leave(self._core.farewell(Farewell.SHUTDOWN), "shutdown", "")
        elif now_s > self._deadline_s:
            metrics.SESSION_REJECTIONS.inc("timeout")
            self._leave(self._core.farewell(Farewell.TIMEOUT), "timeout", "no login in time")

    def drop(self) -> None:
        """We stop, and cannot wait any longer."""
        self._end = self._end or "shutdown"
        self._transport.abort()

    async def _start_tls(self, answer: bytes) -> None:
        listener = self._listener
        assert listener.tls is not None
        self._trail.position = Position.TLS
        if self._core.leftover:
            metrics.SESSION_REJECTIONS.inc("tls_residue")
            self._leave(b"", "protocol", "tls_residue")
            return
        # Whatever was said before was said to nobody. What comes from now on is inside TLS.
        self._core = listener.dialect.client(listener.offer(self.ip, encrypted=True))
        self._transport.write(answer)
        try:
            transport = await listener.loop.start_tls(
                self._transport,
                self,
                listener.tls.context,
                server_side=True,
                ssl_handshake_timeout=listener.tls_timeout_s,
            )
        except (OSError, TimeoutError) as error:
            metrics.SESSION_TLS_HANDSHAKES.inc("failed")
            self._leave(b"", "failed", printable(f"TLS handshake: {error}"))
            return
        if transport is None:
            self._end = "lost"
            return
        metrics.SESSION_TLS_HANDSHAKES.inc("ok")
        self._transport = transport
        self._tls = describe(transport.get_extra_info("ssl_object"))
        self._trail.position = Position.GREETING
        if greeting := self._core.greeting_after_tls():
            transport.write(greeting)
        self._login = None
        self._serve()

    # Logging in.

    async def _log_in(self, asked: LoginAsked) -> None:
        listener = self._listener
        asked_s = listener.loop.time()
        if not await listener.slowing.wait(self.ip, asked.name):
            self._turn_away(asked, asked_s)
            return
        began_s = listener.loop.time()
        try:
            result = await listener.logins.log_in(listener.dialect, asked, self._who_it_is(), self._trail)
        except Exception as error:
            log.error("a login failed by our fault", client_ip=self.ip, exc_info=error)
            self._trail.reason = "internal"
            result = Refusal.UNAVAILABLE
        if isinstance(result, Opened):
            listener.slowing.succeeded(asked.name)
            self._hand_over(result)
            return
        self._report_failure(result)
        if result in (Refusal.FAILED, Refusal.DISABLED):
            self._failures_count += 1
            listener.slowing.failed(self.ip, asked.name)
            wait_s = began_s + listener.login.failure_delay - listener.loop.time()
            await asyncio.sleep(max(0.0, wait_s))
        self._login = None
        self._refuse(result, asked_s)

    def _turn_away(self, asked: LoginAsked, asked_s: float) -> None:
        """Nobody looks at this password: too many logins from there wait."""
        trail = self._trail
        trail.login, trail.mechanism = printable(asked.name), asked.mechanism
        trail.mailbox = trail.node = ""
        trail.reason = "too many logins from this address wait after failed ones"
        self._report_failure(Refusal.TOO_MANY)
        self._failures_count += 1
        self._login = None
        self._refuse(Refusal.TOO_MANY, asked_s)

    def _refuse(self, why: Refusal, asked_s: float) -> None:
        self._transport.write(self._core.refuse(why))
        now_s = self._listener.loop.time()
        self._deadline_s += now_s - asked_s
        if self._end:
            self._transport.close()
        elif self._failures_count >= self._listener.login.attempts:
            self._leave(self._core.farewell(Farewell.FAILURES), "failures", "")
        else:
            if not self._is_choked:
                self._transport.resume_reading()
            self._serve()

    def _who_it_is(self) -> ClientIdentity:
        local = self._transport.get_extra_info("sockname")
        local_ip, local_port = (local[0], local[1]) if isinstance(local, tuple) else ("", 0)
        return ClientIdentity(
            ip=self.ip,
            port=self.port,
            local_ip=local_ip,
            local_port=local_port,
            session=self._id,
            encrypted=bool(self._tls),
            about=self._core.about,
        )

    def _hand_over(self, opened: Opened) -> None:
        """The login is accepted: from now on bytes are passed on."""
        wire, client, trail, listener = opened.wire, self._transport, self._trail, self._listener
        node = wire.transport
        assert node is not None
        if wire.has_ended:
            node.abort()
            self._login = None
            trail.reason = f"{trail.node} closed the connection after the login"
            self._refuse(Refusal.UNAVAILABLE, listener.loop.time())
            return
        session = Session(
            table=listener.table,
            id=self._id,
            role=listener.dialect.role,
            login=trail.login,
            mailbox=trail.mailbox,
            node=trail.node,
        )
        session.listener, session.mechanism, session.tls = listener.name, trail.mechanism, self._tls
        session.client_ip, session.client_port, session.proxy_ip = self.ip, self.port, self._proxy_ip
        session.client = ClientEnd(session, client, node)
        session.node_side = NodeEnd(session, node, client)
        session.node_side.has_ended_line = wire.leftover.endswith(b"\n") or not wire.leftover
        pending = self._core.leftover
        client.set_protocol(session.client)
        node.set_protocol(session.node_side)
        client.write(self._core.accept(opened.capabilities) + wire.leftover)
        if pending:
            session.client.data_received(pending)
        if self._end:
            session.client.eof_received()  # the client had no more to say when it asked
        client.resume_reading()
        metrics.LOGINS.inc(listener.dialect.role, trail.node, "ok")
        self._is_handed_over = True
        listener.table.add(session)
        self._forget()

    def _report_failure(self, why: Refusal) -> None:
        trail, listener = self._trail, self._listener
        metrics.LOGINS.inc(listener.dialect.role, trail.node, why.name.lower())
        listener.emit("login_failed", **self._facts(), result=why.name.lower(), reason=trail.reason or why.value)

    def _facts(self) -> dict[str, Any]:
        trail, listener = self._trail, self._listener
        return {
            "session": self._id,
            "listener": listener.name,
            "protocol": listener.dialect.role,
            "client_ip": self.ip,
            "client_port": self.port,
            "proxy_ip": self._proxy_ip or None,
            "tls": self._tls or None,
            "login": trail.login,
            "mechanism": trail.mechanism,
            "mailbox": trail.mailbox or None,
            "node": trail.node or None,
            "position": trail.position.value,
        }

    def _ended(self, end: str) -> None:
        """The connection ended without a login."""
        if self._is_handed_over:
            return
        listener = self._listener
        if self._admitted:
            listener.admission.release(self.ip)
        listener.emit(
            "session",
            **self._facts(),
            end=end,
            reason=self._trail.reason or None,
            duration_s=round(listener.loop.time() - self._started_s, 3),
        )
        self._forget()

    def _forget(self) -> None:
        waiting = self._listener.waiting
        waiting.discard(self)
        if not waiting:
            self._listener.emptied.set()
