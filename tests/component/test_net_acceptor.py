"""Two acceptors on one listening socket, as old and new workers have it during a reload."""

import asyncio
import os
import socket
from typing import cast

from mailfront.net.acceptor import Acceptor, Reception

LIMIT_S = 20.0


class _Says(asyncio.Protocol):
    """Says one line, then stays."""

    def __init__(self, line: bytes) -> None:
        self._line = line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        cast(asyncio.Transport, transport).write(self._line)


def _acceptor(listening: socket.socket, line: bytes) -> Acceptor:
    """One of two processes: it has a descriptor of its own."""
    reception = Reception(
        name="test",
        proxy_networks=(),
        proxy_timeout_s=1.0,
        tls_context=lambda: None,
        tls_timeout_s=1.0,
        per_ip_limit=10,
        dropped=lambda _: None,
        shook_hands=lambda _: None,
    )
    own = socket.socket(fileno=os.dup(listening.fileno()))
    own.setblocking(False)
    return Acceptor(reception, own, lambda _: _Says(line))


async def test_one_that_stops_leaves_those_who_wait_to_the_other() -> None:
    """Who was accepted stays, who waits in the socket is not reset; when both have stopped nobody gets in."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        old, new = _acceptor(listening, b"old\n"), _acceptor(listening, b"new\n")
    async with asyncio.timeout(LIMIT_S):
        old.start()
        first, first_writer = await asyncio.open_connection(*address)
        assert await first.readline() == b"old\n"
        old.stop()
        old.stop()
        second, second_writer = await asyncio.open_connection(*address)
        new.start()
        assert await second.readline() == b"new\n"
        await old.until_idle()
        await old.close(0.0)
        first_writer.write(b"still there\n")
        await first_writer.drain()
        assert not first.at_eof()
        await new.close(0.0)
        try:
            await asyncio.open_connection(*address)
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError("somebody still listens")
        for writer in (first_writer, second_writer):
            writer.close()


async def test_a_connection_that_comes_in_the_moment_of_the_stop_is_kept() -> None:
    """It was taken from the socket, so nobody else can have it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        acceptor = _acceptor(listening, b"here\n")
        with socket.create_connection(listening.getsockname()) as client:
            acceptor._accept()
            acceptor.stop()
            async with asyncio.timeout(LIMIT_S):
                await acceptor.close(LIMIT_S)
                client.setblocking(False)
                assert await asyncio.get_running_loop().sock_recv(client, 10) == b"here\n"
