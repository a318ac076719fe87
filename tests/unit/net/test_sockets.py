"""Listening sockets."""

import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from mailfront.base.errors import ConfigError
from mailfront.net.sockets import ListenAddress, TcpAddress, UnixAddress, bind_listener, parse_listen_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:25", TcpAddress("0.0.0.0", 25)),
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("[::]:25", TcpAddress("::", 25)),
        ("[2001:DB8::1]:2525", TcpAddress("2001:db8::1", 2525)),
        ("unix:/run/mailfront/lmtp", UnixAddress("/run/mailfront/lmtp")),
    ],
)
def test_addresses_are_read_and_shown(text: str, address: ListenAddress) -> None:
    """What is read can be written again."""
    assert parse_listen_address(text) == address
    assert parse_listen_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "25", ":25", "0.0.0.0", "::1:25", "[::1]", "1.2.3:25", "1.2.3.4:65536", "[1.2.3.4]:25", "localhost:25",
     "1.2.3.4:-1", "1.2.3.4:٢٥", "unix:relative", "unix:", "unix:/" + "x" * 120, "1.2.3.4:25 "],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    """Nothing is guessed and no name is resolved."""
    with pytest.raises(ValueError, match=r"unix|port|write"):
        parse_listen_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_one_socket_per_worker_on_one_port(host: str) -> None:
    """All sockets listen on the same port, and each of them gets connections."""
    with ExitStack() as stack:
        bound = [stack.enter_context(sock) for sock in bind_listener(TcpAddress(host, 0), sockets_count=3)]
        port = bound[0].getsockname()[1]
        assert {sock.getsockname()[1] for sock in bound} == {port}
        for _ in range(60):
            stack.enter_context(socket.create_connection((host, port)))
        taken = []
        for sock in bound:
            count = 0
            try:
                while True:
                    stack.enter_context(sock.accept()[0])
                    count += 1
            except BlockingIOError:
                taken.append(count)
        assert sum(taken) == 60
        assert sum(count > 0 for count in taken) >= 2


def test_a_port_of_another_server_is_refused_even_if_it_shares() -> None:
    """A second mailfront does not quietly take half of the connections of the first."""
    with ExitStack() as stack:
        (first,) = bind_listener(TcpAddress("127.0.0.1", 0))
        stack.enter_context(first)
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: another process has this port"):
            bind_listener(TcpAddress("127.0.0.1", port))


def test_an_address_of_another_machine_is_named() -> None:
    """The reason says that the address is not ours."""
    with pytest.raises(ConfigError, match="does not have that address"):
        bind_listener(TcpAddress("192.0.2.1", 0))


def test_a_unix_socket_has_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    """Permissions are set before anybody can be told of the socket."""
    path = tmp_path / "lmtp"
    (sock,) = bind_listener(UnixAddress(str(path)), sockets_count=4, mode=0o620)
    with sock:
        assert stat.S_IMODE(path.stat().st_mode) == 0o620


def test_a_stale_socket_file_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    """After a crash the file is left behind: the next start takes it over. A running server keeps its socket."""
    address = UnixAddress(str(tmp_path / "lmtp"))
    (dead,) = bind_listener(address)
    dead.close()
    (alive,) = bind_listener(address)
    with alive:
        with pytest.raises(ConfigError, match="another process listens on this socket"):
            bind_listener(address)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address.path)


def test_other_files_are_never_removed(tmp_path: Path) -> None:
    """A path that is a plain file is refused and the file is kept; a missing folder is named."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="is not a socket"):
        bind_listener(UnixAddress(str(path)))
    assert path.read_text() == "data"
    with pytest.raises(ConfigError, match="does not exist; create it"):
        bind_listener(UnixAddress(str(tmp_path / "absent" / "lmtp")))
