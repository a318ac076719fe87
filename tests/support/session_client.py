"""A raw client of the three login protocols: lines go out and come in as they are. Blocking, for tests.

`Clients` makes them and closes all of them at its end.
"""

import socket
import ssl
from base64 import b64encode
from contextlib import ExitStack
from types import TracebackType

from tests.support.processes import wait_until
from tests.support.session_cluster import PASSWORD, SessionCluster

LIMIT_S = 60.0
OK = {"imap": "a OK", "pop3": "+OK", "sieve": "OK"}
WRONG = {"imap": "a NO [AUTHENTICATIONFAILED]", "pop3": "-ERR [AUTH]", "sieve": 'NO "'}
LATER = {"imap": "a NO [UNAVAILABLE]", "pop3": "-ERR [SYS/TEMP]", "sieve": "NO (TRYLATER)"}
IN_CLEAR = {"imap": "a NO [PRIVACYREQUIRED]", "pop3": "-ERR a password", "sieve": "NO (ENCRYPT-NEEDED)"}
BYE = {"imap": b"* BYE ", "pop3": b"-ERR [SYS/TEMP] ", "sieve": b"BYE (TRYLATER) "}
_STARTTLS = {"imap": "s STARTTLS", "pop3": "STLS", "sieve": "STARTTLS"}
_ENDS = {"imap": (b"a ", b"s "), "pop3": (b"+OK", b"-ERR"), "sieve": (b"OK", b"NO", b"BYE")}


class SessionClient:
    """One connection, greeted."""

    def __init__(
        self, address: tuple[str, int], role: str, *, before: bytes = b"", tls: ssl.SSLContext | None = None
    ) -> None:
        """`before` is sent first, as a load balancer does with a PROXY header. `tls`: implicit TLS comes next."""
        self.role = role
        self._socket: socket.socket = socket.create_connection(address, timeout=LIMIT_S)
        self._socket.sendall(before)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
        self._file = self._socket.makefile("rb")
        self.until(b"* OK" if role == "imap" else b"+OK" if role == "pop3" else b"OK")

    def send(self, line: str) -> None:
        """Send one line."""
        self._socket.sendall(f"{line}\r\n".encode())

    def until(self, *begins: bytes) -> str:
        """Read up to a line that begins so, and return it; '' if the connection ended before."""
        while line := self._file.readline():
            if line.startswith(begins):
                return line.decode().strip()
        return ""

    def ask(self, line: str) -> str:
        """Send a command and return the line that ends its answer. IMAP tags are `a` and `s`."""
        self.send(line)
        return self.until(*_ENDS[self.role])

    def starttls(self, context: ssl.SSLContext) -> None:
        """Go on in TLS."""
        self.ask(_STARTTLS[self.role])
        self._file.close()
        self._socket = context.wrap_socket(self._socket, server_hostname="localhost")
        self._file = self._socket.makefile("rb")
        if self.role == "sieve":
            self.until(b"OK")

    def login(self, user: str, password: str = PASSWORD) -> str:
        """Log in; returns the line of the answer."""
        plain = b64encode(f"\0{user}\0{password}".encode()).decode()
        commands = {
            "imap": f"a LOGIN {user} {password}",
            "pop3": f"AUTH PLAIN {plain}",
            "sieve": f'AUTHENTICATE "PLAIN" "{plain}"',
        }
        return self.ask(commands[self.role])

    def answers(self) -> bool:
        """Whether an IMAP session still works."""
        try:
            return self.ask("a NOOP").startswith("a OK")
        except OSError:
            return False

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        pieces = []
        try:
            while piece := self._file.read1():
                pieces.append(piece)
        except ConnectionResetError:
            pass
        return b"".join(pieces)

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()


class Clients:
    """Makes clients of one cluster. A context manager."""

    def __init__(self, cluster: SessionCluster) -> None:
        self._cluster = cluster
        self._made = ExitStack()

    def __enter__(self) -> "Clients":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._made.close()

    def connect(self, role: str, number: int = 0, *, source: str = "") -> SessionClient:
        """A client of the n-th listener with this role; `source`: what a load balancer says about it."""
        before = f"PROXY TCP4 {source} 192.0.2.1 4711 143\r\n".encode() if source else b""
        client = SessionClient(self._cluster.endpoint(role, number), role, before=before)
        self._made.callback(client.close)
        return client

    def log_in(self, role: str, user: str, number: int = 0, *, source: str = "") -> SessionClient:
        """The same, logged in and listed in the register."""
        listed_count = len(self._cluster.sessions(user))
        client = self.connect(role, number, source=source)
        answer = client.login(user)
        assert answer.startswith(OK[role]), answer
        wait_until(lambda: len(self._cluster.sessions(user)) > listed_count, LIMIT_S, f"{user}'s {role} session")
        return client
