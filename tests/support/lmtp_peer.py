"""An LMTP server that misbehaves on purpose, as data, and records what it got.

    script = {"RCPT": Action(replies=("451 4.3.0 later",)), "dot": Action(then="close")}
    with ScriptedLmtpPeer(script) as peer: ...

A script says what happens at a *step*; at every other step the peer is a good
server. One Action stands for every time; a list is used up from the front, once
per time, and afterwards the peer is good again. The steps:

    connect       in place of the greeting
    LHLO EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP QUIT    in place of the command's reply
    RCPT <a@b>    for this recipient only (goes before RCPT)
    body          when the first bytes of the message arrive
    dot           after the end of data, in place of *all* the replies that follow it
    dot <a@b>     after the end of data, in place of the reply for this recipient
    idle          after the replies of a transaction, unasked

With `smtp=True` it is an SMTP server: EHLO, and one reply after the end of data for all recipients together.

An Action waits `delay_s`, sends its `replies` (None: what a good server says;
fewer or more than expected, as told), then goes on, or stalls, or closes, or
resets the connection. A stalled connection reads nothing and says nothing until
`release()` or `stop()`.
"""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.support.ports import free_port
from tests.support.processes import Endpoint, wait_until

GOOD_EXTENSIONS = ("PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "CHUNKING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What the peer does at one step."""

    replies: Sequence[str] | None = None
    delay_s: float = 0.0
    then: Literal["go on", "stall", "close", "reset"] = "go on"


Script = Mapping[str, Action | Sequence[Action]]


@dataclass(slots=True, kw_only=True)
class Transaction:
    """One message as the peer saw it; `complete` when the end of data arrived."""

    connection: int
    mail: str
    recipients: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    replies: list[str] = field(default_factory=list)


class _Closed(Exception):
    """The connection is over: by the client, by the script or by stop()."""


class ScriptedLmtpPeer:
    """A threaded LMTP server on loopback (or on a UNIX socket when `path` is given).

    extensions   what LHLO offers, besides STARTTLS when `tls` is "starttls"
    context      the server's TLS context; needed for "starttls" and "implicit"
    smtp         be an SMTP server

    `commands`, `transactions`, and how many `connections` and `stalls` there were, may be read at any time.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        host: str = "127.0.0.1",
        path: Path | None = None,
        extensions: Sequence[str] = GOOD_EXTENSIONS,
        tls: Literal["off", "starttls", "implicit"] = "off",
        context: ssl.SSLContext | None = None,
        smtp: bool = False,
    ) -> None:
        if tls != "off" and context is None:
            raise ValueError("TLS needs a context")
        self.host = host
        self.port = 0 if path is not None else free_port()
        self.path = path
        self.extensions = tuple(extensions)
        self.tls = tls
        self.smtp = smtp
        self.commands: list[tuple[int, str]] = []
        self.transactions: list[Transaction] = []
        self.connections = 0
        self.stalls = 0
        self.failures: list[BaseException] = []
        self._context = context
        self._script: dict[str, Action | list[Action]] = {}
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._sessions: set[_Session] = set()
        self.set_script(script or {})

    @property
    def endpoint(self) -> Endpoint:
        return (self.host, self.port) if self.path is None else self.path

    def set_script(self, script: Script) -> None:
        """Replace the script; running connections follow the new one from their next step."""
        with self._lock:
            self._script = {
                step: action if isinstance(action, Action) else list(action) for step, action in script.items()
            }

    # Life

    def start(self) -> None:
        """Listen. After `stop()` it may be started again on the same port."""
        self._stopping.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(self.path))
        else:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
        listener.listen(128)
        self._listener = listener
        self._spawn(self._accept, listener)

    def stop(self) -> None:
        """Close everything. Raises the first error that a connection's thread met."""
        self._stopping.set()
        self._released.set()
        if self._listener is not None:
            self._shut(self._listener)
            self._listener = None
        self.drop_connections()
        for thread in self._threads:
            thread.join(5.0)
        self._threads.clear()
        if self.failures:
            raise self.failures[0]

    def __enter__(self) -> "ScriptedLmtpPeer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def release(self) -> None:
        """Let every stalled connection go on, now and later."""
        self._released.set()

    def drop_connections(self) -> None:
        """Close all open connections; go on listening."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            self._shut(session.stream)

    # What it saw

    @property
    def open_count(self) -> int:
        """How many connections are open: one that the client has closed counts until all that came by it was read."""
        with self._lock:
            return len(self._sessions)

    def verbs(self, connection: int | None = None) -> list[str]:
        """Return the verbs it received, of one connection (counted from 1) or of all."""
        with self._lock:
            return [
                line.split(" ")[0].upper()
                for number, line in self.commands
                if connection is None or number == connection
            ]

    def received(self) -> list[Transaction]:
        """Return the transactions whose end of data arrived."""
        with self._lock:
            return [transaction for transaction in self.transactions if transaction.complete]

    def wait_for_messages(self, count: int, timeout_s: float = 60.0) -> list[Transaction]:
        """Wait until `count` messages have arrived and return all of them."""
        wait_until(lambda: len(self.received()) >= count, timeout_s, f"{count} messages at the scripted peer")
        return self.received()

    # Inside

    def next_action(self, *steps: str) -> Action:
        """Return the action for the first of these steps that the script names."""
        with self._lock:
            for step in steps:
                entry = self._script.get(step)
                if isinstance(entry, Action):
                    return entry
                if entry:
                    return entry.pop(0)
        return Action()

    def record_command(self, connection: int, line: str) -> None:
        with self._lock:
            self.commands.append((connection, line))

    def record_transaction(self, transaction: Transaction) -> None:
        with self._lock:
            self.transactions.append(transaction)

    def wait_for_release(self) -> None:
        """Stall. Raises _Closed when the peer stops meanwhile."""
        with self._lock:
            self.stalls += 1
        self._released.wait()
        if self._stopping.is_set():
            raise _Closed

    def pause(self, delay_s: float) -> None:
        if delay_s and self._stopping.wait(delay_s):
            raise _Closed

    def server_context(self) -> ssl.SSLContext:
        assert self._context is not None
        return self._context

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                session = _Session(self, connection, self.connections)
                self._sessions.add(session)
            self._spawn(self._serve, session)

    def _serve(self, session: "_Session") -> None:
        try:
            session.run()
        except (_Closed, OSError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            with self._lock:
                self._sessions.discard(session)
            self._shut(session.stream)

    @staticmethod
    def _shut(connection: socket.socket) -> None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        connection.close()


class _Session:
    """One connection: reads commands, asks the script, answers."""

    def __init__(self, peer: ScriptedLmtpPeer, connection: socket.socket, number: int) -> None:
        self.peer = peer
        self.stream = connection
        self._number = number
        self._buffer = b""
        self._encrypted = False
        self._transaction: Transaction | None = None

    def run(self) -> None:
        if self.peer.tls == "implicit":
            self._encrypt()
        self._act(self.peer.next_action("connect"), ["220 peer.example.edu LMTP"])
        while True:
            line = self._line()
            self.peer.record_command(self._number, line)
            self._command(line)

    def _command(self, line: str) -> None:
        verb = line.split(" ")[0].upper()
        match verb:
            case "LHLO" | "EHLO" if (verb == "EHLO") == self.peer.smtp:
                self._transaction = None
                self._act(self.peer.next_action(verb), _multiline(["peer.example.edu", *self._offered()]))
            case "AUTH":
                self._act(self.peer.next_action("AUTH"), ["235 2.7.0 welcome"])
            case "STARTTLS" if self.peer.tls == "starttls" and not self._encrypted:
                self._act(self.peer.next_action("STARTTLS"), ["220 2.0.0 go"])
                self._encrypt()
            case "MAIL":
                self._transaction = Transaction(connection=self._number, mail=line)
                self.peer.record_transaction(self._transaction)
                self._act(self.peer.next_action("MAIL"), ["250 2.1.0 sender ok"])
            case "RCPT":
                self._recipient(line)
            case "DATA":
                self._data()
            case "BDAT":
                self._chunk(line)
            case "RSET" | "NOOP":
                if verb == "RSET":
                    self._transaction = None
                self._act(self.peer.next_action(verb), ["250 2.0.0 ok"])
            case "QUIT":
                self._act(self.peer.next_action("QUIT"), ["221 2.0.0 bye"])
                raise _Closed
            case _:
                self._act(Action(), ["500 5.5.2 unknown command"])

    def _recipient(self, line: str) -> None:
        address = line[line.index("<") + 1 : line.index(">")]
        said = self._act(self.peer.next_action(f"RCPT <{address}>", "RCPT"), ["250 2.1.5 recipient ok"])
        if self._transaction is not None:
            self._transaction.recipients.append(address)
            if said and said[0].startswith("2"):
                self._transaction.accepted.append(address)

    def _data(self) -> None:
        transaction = self._transaction
        usual = ["354 send it"] if transaction is not None and transaction.accepted else ["503 5.5.1 no recipients"]
        said = self._act(self.peer.next_action("DATA"), usual)
        if transaction is None or not said or not said[0].startswith("354"):
            return
        # With a line end in front, the end of data looks the same after an empty message.
        data = bytearray(b"\r\n")
        searched = 0
        try:
            while (end := data.find(b"\r\n.\r\n", searched)) < 0:
                searched = max(0, len(data) - 4)
                data += self._bytes()
                if searched == 0:
                    self._act(self.peer.next_action("body"), [])
        finally:
            transaction.body = bytes(data[2:])
        self._buffer = bytes(data[end + 5 :])
        body = bytes(data[2 : end + 2])
        transaction.body = (body[1:] if body.startswith(b".") else body).replace(b"\r\n..", b"\r\n.")
        self._end_of_data(transaction)

    def _chunk(self, line: str) -> None:
        _, size, *last = line.split(" ")
        data = self._exactly(int(size))
        transaction = self._transaction
        if transaction is None or not transaction.accepted:
            self._act(self.peer.next_action("BDAT"), ["503 5.5.1 no recipients"])
            return
        transaction.body += data
        if last:
            self._end_of_data(transaction)
        else:
            self._act(self.peer.next_action("BDAT"), ["250 2.0.0 chunk ok"])

    def _end_of_data(self, transaction: Transaction) -> None:
        transaction.complete = True
        self._transaction = None
        whole = self.peer.next_action("dot")
        if self.peer.smtp:
            self._act(whole, ["250 2.0.0 stored"], transaction.replies)
        elif whole != Action():
            usual = [f"250 2.0.0 <{address}> stored" for address in transaction.accepted]
            self._act(whole, usual, transaction.replies)
        else:
            for address in transaction.accepted:
                action = self.peer.next_action(f"dot <{address}>")
                self._act(action, [f"250 2.0.0 <{address}> stored"], transaction.replies)
        idle = self.peer.next_action("idle")
        if idle != Action():
            self._act(idle, [])

    def _act(self, action: Action, usual: list[str], record: list[str] | None = None) -> list[str]:
        """Do what the script says. The replies go into `record` before they are sent: who hears them may look there."""
        self.peer.pause(action.delay_s)
        replies = list(usual if action.replies is None else action.replies)
        if action.then != "go on" and action.replies is None:
            replies = []  # "close" alone means: without a word
        if record is not None:
            record += replies
        if replies:
            self.stream.sendall("".join(f"{reply}\r\n" for reply in replies).encode())
        if action.then == "stall":
            self.peer.wait_for_release()
        if action.then == "reset":
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.stream.close()
        if action.then in ("close", "reset"):
            raise _Closed
        return replies

    def _offered(self) -> list[str]:
        starttls = ["STARTTLS"] if self.peer.tls == "starttls" and not self._encrypted else []
        return [*self.peer.extensions, *starttls]

    def _encrypt(self) -> None:
        if self._buffer:
            raise AssertionError(f"the client sent {self._buffer!r} in clear before the TLS handshake")
        self.stream = self.peer.server_context().wrap_socket(self.stream, server_side=True)
        self._encrypted = True

    def _line(self) -> str:
        while b"\r\n" not in self._buffer:
            self._buffer += self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode(errors="surrogateescape")

    def _bytes(self) -> bytes:
        data, self._buffer = (self._buffer or self._receive()), b""
        return data

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += self._receive()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _receive(self) -> bytes:
        data = self.stream.recv(65_536)
        if not data:
            raise _Closed
        return data


def _multiline(lines: Sequence[str]) -> list[str]:
    return [f"250{'-' if index < len(lines) - 1 else ' '}{line}" for index, line in enumerate(lines)]
