"""Bodies on the wire: exact bytes, flat memory, slow readers."""

import asyncio
import hashlib
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from mailfront.mail.body import MemoryBody, PrefixedBody
from mailfront.mail.outcome import Delivered
from tests.support.delivery import NODE, delivery_to, endpoint_of, message, on_each_loop, quick
from tests.support.lmtp_peer import ScriptedLmtpPeer

PIECE = (b"." + b"x" * 74 + b"\r\n") * 3000


class GeneratedBody:
    """A large body that exists only piece by piece, as from a file."""

    def __init__(self, count: int) -> None:
        self.size_bytes = count * len(PIECE)
        self._count = count

    def pieces(self) -> Iterator[bytes]:
        """See `BodyRef`."""
        for _ in range(self._count):
            yield bytes(bytearray(PIECE))

    def head(self, limit_bytes: int) -> bytes:
        """See `BodyRef`."""
        return PIECE[:limit_bytes]


class SlowReader:
    """An LMTP server that reads a body slowly and keeps only its hash, as it is after un-stuffing."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self.digest = ""
        self.finished = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection with one message."""
        writer.write(b"220 slow\r\n")
        await reader.readline()
        writer.write(b"250-slow\r\n250 PIPELINING\r\n")
        for _ in range(3):
            await reader.readline()
        writer.write(b"250 a\r\n250 b\r\n354 go\r\n")
        digest, rest = hashlib.sha256(), b"\r\n"
        while not rest.endswith(b"\r\n.\r\n"):
            data = rest + await reader.read(65_536)
            cut = data.rfind(b"\r\n") if not data.endswith(b"\r\n.\r\n") else len(data) - 5
            ready, rest = data[: max(cut, 0)], data[max(cut, 0) :]
            digest.update(ready.replace(b"\r\n..", b"\r\n."))
            await asyncio.sleep(self._delay_s)
        digest.update(b"\r\n")
        self.digest = digest.hexdigest()
        writer.write(b"250 kept\r\n")
        await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        self.finished.set()


@on_each_loop
async def test_50_megabytes_to_a_slow_reader_in_flat_memory() -> None:
    """The memory of a delivery does not grow with the body, and a slow node that makes progress gets all of it."""
    body, peer = GeneratedBody(50_000_000 // len(PIECE)), SlowReader(0.0005)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, limit=65_536)
    delivery = delivery_to(endpoint_of(server.sockets[0].getsockname()[:2]), settings=quick(final_timeout="5s"))
    tracemalloc.start()
    try:
        (outcome,) = await delivery.start(NODE, message(body=body), slot_wait_s=1.0).result()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, Delivered)
    assert peak_bytes < 4_000_000
    await delivery.close()
    await asyncio.wait_for(peer.finished.wait(), 5.0)
    server.close()
    expected = hashlib.sha256(b"\r\n")
    for piece in body.pieces():
        expected.update(piece)
    assert peer.digest == expected.hexdigest()


def _bodies() -> list[bytes]:
    chooser = random.Random(7)
    words = [b"\r\n", b".", b"\r\n.", b"\r\n.\r\n", b"word ", b"x" * 70]
    made = [b"".join(chooser.choices(words, k=count)) for count in (1, 5, 50, 500, 5000, 40_000)]
    return [b"", b".", b".\r\n", b"\r\n", b"a", b"a\r\n.", b"\r\n.\r\n.\r\n", *made]


@pytest.mark.parametrize("through", ["memory", "prefixed"])
@on_each_loop
async def test_the_node_gets_the_exact_bytes(through: str) -> None:
    """What the node stores is what we were given, with a final CRLF if it had none."""
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=quick(reply_timeout="5s", final_timeout="5s"))
        bodies = _bodies()
        for body in bodies:
            given = MemoryBody(body) if through == "memory" else PrefixedBody(body[:7], MemoryBody(body[7:]))
            (outcome,) = await delivery.start(NODE, message(body=given), slot_wait_s=1.0).result()
            assert isinstance(outcome, Delivered)
        stored = [transaction.body for transaction in peer.received()]
        assert stored == [body if body.endswith(b"\r\n") or not body else body + b"\r\n" for body in bodies]
        assert peer.connections == 1
        await delivery.close()
