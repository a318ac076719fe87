"""A TCP relay in front of a node's LMTP port that stops one message at an exact step.

    hold = proxy.hold("answer", "ana")        the next message for ana is stopped there
    ... send the message ...
    hold.wait()                               it is there now
    ... kill somebody ...
    hold.go() or hold.cut()                   let it go on, or close that connection

The steps:

    RCPT      the node has not been told of the mailbox yet
    body      the node said 354 and has nothing of the message
    dot       the node has all of the message but its end: it keeps nothing
    answer    the node has stored the message and its answer is held back

Each hold stops one message, the first that fits. Everything else passes. A connection that mailfront or the node
closes is closed on the other side too, also while it is held. `breaks_at_rcpt(mailbox)` is a node that closes the
connection whenever it is told of a mailbox: cut off for that mailbox, well for all others.
"""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal

from tests.support.ports import free_port

Step = Literal["RCPT", "body", "dot", "answer"]

_RCPT = re.compile(rb"RCPT TO:<([^>+@]*)[^>]*>", re.IGNORECASE)
_END = b"\r\n.\r\n"


class Hold:
    """One message to stop at one step. `mailbox` None: whichever comes first."""

    def __init__(self, step: Step, mailbox: str | None) -> None:
        self.step = step
        self.mailbox = mailbox
        self.forgotten = False
        self._reached = threading.Event()
        self._released = threading.Event()
        self._cut = False

    def wait(self, timeout_s: float = 60.0) -> None:
        """Wait until the message is at the step. Raises TimeoutError."""
        if not self._reached.wait(timeout_s):
            raise TimeoutError(f"no message for {self.mailbox} came to the step {self.step!r} in {timeout_s:g} s")

    @property
    def reached(self) -> bool:
        """Whether the message is (or was) at the step."""
        return self._reached.is_set()

    def go(self) -> None:
        """Let it go on."""
        self._released.set()

    def cut(self) -> None:
        """Close its connection on both sides."""
        self._cut = True
        self._released.set()

    def forget(self) -> None:
        """Stop nothing any more: what is here, or would have come here, passes."""
        self.forgotten = True
        self.go()

    def stop_here(self) -> bool:
        """Called by the relay: stop until released. Returns whether to go on."""
        self._reached.set()
        self._released.wait()
        return not self._cut


class HoldingProxy:
    """See the module. A context manager; `port` takes the place of the node's LMTP port."""

    def __init__(self, target_port: int, *, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, free_port()
        self._target = (host, target_port)
        self._holds: list[Hold] = []
        self._all_holds: list[Hold] = []
        self._lock = threading.Lock()
        self._listener = socket.socket()
        self._relays: set[_Relay] = set()
        self._stopped = False
        self._broken: set[str] = set()

    @contextmanager
    def breaks_at_rcpt(self, mailbox: str) -> Iterator[None]:
        """Inside, every connection that names this mailbox is closed."""
        self._broken.add(mailbox)
        try:
            yield
        finally:
            self._broken.discard(mailbox)

    def is_broken_for(self, mailbox: str) -> bool:
        """Called by a relay: whether to close the connection."""
        return mailbox in self._broken

    def hold(self, step: Step, mailbox: str | None = None) -> Hold:
        """Stop the next message for this mailbox at this step."""
        hold = Hold(step, mailbox)
        with self._lock:
            self._holds.append(hold)
            self._all_holds.append(hold)
        return hold

    def take(self, step: Step, mailboxes: list[str]) -> Hold | None:
        """Called by a relay that is at a step: the hold that wants it, if there is one."""
        with self._lock:
            self._holds = [hold for hold in self._holds if not hold.forgotten]
            for hold in self._holds:
                if hold.step == step and (hold.mailbox in mailboxes or (hold.mailbox is None and mailboxes)):
                    self._holds.remove(hold)
                    return hold
        return None

    def __enter__(self) -> "HoldingProxy":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is held is not in our buffers either: a large message stops the sender.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self._listener.bind((self.host, self.port))
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Close everything."""
        self._stopped = True
        _shut(self._listener)
        with self._lock:
            holds, relays = list(self._all_holds), list(self._relays)
        for hold in holds:
            hold.cut()
        for relay in relays:
            relay.close()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5.0)
            except OSError:
                _shut(client)
                continue
            server.settimeout(None)
            relay = _Relay(self, client, server)
            with self._lock:
                self._relays.add(relay)
            for target in (relay.upward, relay.downward):
                threading.Thread(target=self._run, args=(relay, target), daemon=True).start()

    def _run(self, relay: "_Relay", target: object) -> None:
        assert callable(target)
        try:
            target()
        except OSError:
            pass
        finally:
            relay.close()
            with self._lock:
                self._relays.discard(relay)


class _Relay:
    """One connection: two threads, one for each direction."""

    def __init__(self, proxy: HoldingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._mailboxes: list[str] = []
        self._go_ahead = False
        self._answer_hold: Hold | None = None

    def close(self) -> None:
        _shut(self._client)
        _shut(self._server)

    def downward(self) -> None:
        """From the node to mailfront."""
        while data := self._server.recv(65_536):
            hold, self._answer_hold = self._answer_hold, None
            if hold is not None and not hold.stop_here():
                return
            if re.search(rb"^354", data, re.MULTILINE):
                self._go_ahead = True
            self._client.sendall(data)

    def upward(self) -> None:
        """From mailfront to the node, commands and bodies told apart."""
        buffer = b""
        while data := self._client.recv(65_536):
            buffer += data
            while buffer:
                if self._go_ahead:
                    buffer = self._body(buffer)
                    continue
                line, end, rest = buffer.partition(b"\r\n")
                if not end:
                    break
                buffer = rest
                self._command(line + end, is_message=b"DATA" in rest)

    def _command(self, line: bytes, *, is_message: bool) -> None:
        verb = line[:4].upper()
        if verb in (b"MAIL", b"LHLO", b"RSET"):
            self._mailboxes = []
        elif match := _RCPT.match(line):
            self._mailboxes.append(match[1].decode())
            if self._proxy.is_broken_for(self._mailboxes[-1]):
                raise ConnectionResetError
            if is_message:  # mailfront pipelines DATA; its probes end here
                self._stop_at("RCPT")
        self._server.sendall(line)

    def _body(self, first: bytes) -> bytes:
        """Pass one message on. Returns what came behind it."""
        self._stop_at("body")
        data = b"\r\n" + first  # so that the end of an empty message looks the same
        sent_count = 2
        while (end := data.find(_END)) < 0:
            # Never send what may be the beginning of the end.
            until = max(sent_count, len(data) - len(_END))
            self._server.sendall(data[sent_count:until])
            sent_count = until
            more = self._client.recv(65_536)
            if not more:
                raise ConnectionResetError
            data += more
        self._server.sendall(data[sent_count : end + 2])
        self._stop_at("dot")
        self._go_ahead = False
        self._answer_hold = self._proxy.take("answer", self._mailboxes)
        self._server.sendall(data[max(end + 2, sent_count) : end + len(_END)])
        return data[end + len(_END) :]

    def _stop_at(self, step: Step) -> None:
        hold = self._proxy.take(step, self._mailboxes)
        if hold is not None and not hold.stop_here():
            raise ConnectionResetError


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()
