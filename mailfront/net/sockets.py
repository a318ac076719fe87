"""Listening sockets: read an address, bind it, or say what to do.

One TCP address gives one socket per worker (SO_REUSEPORT): the kernel spreads connections, and a worker that stalls
holds up only its own. One UNIX socket gives one socket that all workers share. A `[::]` socket is IPv6 only, so that
`0.0.0.0` and `[::]` never compete. Nothing is accepted here.

Because SO_REUSEPORT would let two servers of the same user share a port without noticing, a plain bind is tried first.
A socket file that nobody listens on is removed; one that is in use, and any other file, is not.
"""

import errno
import ipaddress
import os
import re
import socket
import stat
from contextlib import ExitStack
from dataclasses import dataclass

from mailfront.base.errors import ConfigError
from mailfront.base.printable import printable

BACKLOG = 1024
MAX_UNIX_PATH_BYTES = 107
_HOST_AND_PORT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<four>[0-9.]+)):(?P<port>\d{1,5})", re.ASCII)
_EXAMPLES = 'write "0.0.0.0:25", "[::]:25" or "unix:/path"'


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A local address: `host` is an IP address, `port` 0 lets the kernel choose."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """IPv4 or IPv6."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


ListenAddress = TcpAddress | UnixAddress


def parse_listen_address(text: str) -> ListenAddress:
    """Read the address of a listener. Raises ValueError with the reason."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f"{text!r}: the path of a UNIX socket must be absolute, such as unix:/run/mailfront/lmtp")
        if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
            raise ValueError(f"{text!r}: the path of a UNIX socket has at most {MAX_UNIX_PATH_BYTES} bytes; shorten it")
        return UnixAddress(path)
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an IP address with a port; {_EXAMPLES}")
    try:
        host = str(ipaddress.IPv6Address(match["six"]) if match["six"] else ipaddress.IPv4Address(match["four"]))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IP address with a port ({error}); {_EXAMPLES}") from error
    if int(match["port"]) > 65535:
        raise ValueError(f"{text!r}: a port is at most 65535")
    return TcpAddress(host, int(match["port"]))


def bind_listener(
    address: ListenAddress, *, sockets_count: int = 1, mode: int = 0o660, backlog: int = BACKLOG
) -> tuple[socket.socket, ...]:
    """Bind and listen. Returns `sockets_count` sockets on one port, or one for a UNIX socket.

    `mode`: permissions of a UNIX socket. The sockets are non-blocking and not inherited unless passed on. Raises
    ConfigError that says what to do; then nothing stays bound.
    """
    try:
        if isinstance(address, UnixAddress):
            return (_bind_unix(address, mode, backlog),)
        return _bind_tcp(address, sockets_count, backlog)
    except OSError as error:
        raise ConfigError((f"{address}: {_advice(address, error)}",)) from error


def _bind_tcp(address: TcpAddress, sockets_count: int, backlog: int) -> tuple[socket.socket, ...]:
    with _tcp_socket(address, shared=False) as probe:
        # Without SO_REUSEPORT this fails if any other server has the port, whatever options that one used.
        probe.bind((address.host, address.port))
        port = probe.getsockname()[1]
    with ExitStack() as undo:
        bound = []
        for _ in range(sockets_count):
            sock = undo.enter_context(_tcp_socket(address, shared=True))
            sock.bind((address.host, port))
            bound.append(sock)
        for sock in bound:
            sock.listen(backlog)
        undo.pop_all()
        return tuple(bound)


def _tcp_socket(address: TcpAddress, *, shared: bool) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(address: UnixAddress, mode: int, backlog: int) -> socket.socket:
    _remove_stale(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Closed to others until the permissions are as configured: nobody may connect in between.
        before = os.umask(0o177)
        try:
            sock.bind(address.path)
        finally:
            os.umask(before)
        os.chmod(address.path, mode)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket file whose server is gone. Raises OSError EADDRINUSE if it is alive, ENOTSOCK if it is none."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.ENOTSOCK, "is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError as error:  # Its backlog is full: it is alive.
            raise OSError(errno.EADDRINUSE, "in use") from error
        else:
            raise OSError(errno.EADDRINUSE, "in use")


def _advice(address: ListenAddress, error: OSError) -> str:
    number = error.errno
    if isinstance(address, UnixAddress):
        folder = os.path.dirname(address.path)
        advice = {
            errno.EADDRINUSE: "another process listens on this socket; stop it or use another path",
            errno.ENOTSOCK: "a file of this name exists and is not a socket; remove it or use another path",
            errno.ENOENT: f"the folder {folder} does not exist; create it",
            errno.EACCES: f"no permission to make a socket in {folder}; check its owner and mode",
        }
    else:
        advice = {
            errno.EADDRINUSE: f"another process has this port; find it with: ss -ltnp 'sport = :{address.port}'",
            errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; start as root and set server.user",
            errno.EADDRNOTAVAIL: "this machine does not have that address; compare with: ip address",
            errno.EAFNOSUPPORT: "the kernel has no IPv6; remove this listener or enable IPv6",
        }
    return advice.get(number or 0, f"cannot listen: {printable(error.strerror or str(error))}")
