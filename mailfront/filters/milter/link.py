"""One connection to a milter: writes what the core says, reads what the filter answers. The rim around
`mailfront.protocol.milter`.

libmilter writes an answer in two small pieces and does not set TCP_NODELAY. With the kernel's defaults the second piece
waits for our delayed ACK, which costs a message 40 ms per step. So over TCP we set TCP_NODELAY, and TCP_QUICKACK again
before each read, because the kernel forgets it. Macros, silent steps and the step itself are one write.

A link serves one message at a time. After any error, time-out or cancellation it is out of step: `close` it. One that
has ended its message well may be kept for the next client if it `can_be_kept`; most milters end with ACCEPT, which
ends the use of the connection too.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable

from mailfront.base.errors import RemoteProtocolError
from mailfront.filters.addresses import split_tcp
from mailfront.protocol.milter import MilterClient
from mailfront.protocol.milter_packets import Decision, Edit, ReplyWith

READ_BYTES = 64 * 1024
MOST_EDITS_PER_STEP = 20_000


class MilterLink:
    """See the module."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.core = MilterClient()
        self._reader = reader
        self._writer = writer
        connection: socket.socket | None = writer.get_extra_info("socket")
        is_tcp = connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6)
        self._tcp = connection if is_tcp else None
        if self._tcp is not None:
            self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def can_be_kept(self) -> bool:
        """Whether another client's message may follow on this connection, as far as we know."""
        return self.core.can_begin_anew and not self._reader.at_eof()

    async def is_quiet(self) -> bool:
        """Whether a kept connection still is one: not closed, and without a byte that nobody asked for."""
        try:
            async with asyncio.timeout(0):
                await self._reader.read(1)
        except TimeoutError:
            return self.can_be_kept
        except OSError:
            pass
        return False

    async def negotiate(self) -> None:
        """The first thing on a new link. Raises OSError, EOFError, RemoteProtocolError."""
        await self._write(self.core.negotiate())
        await self._answers(lambda _: None)

    async def say(self, data: bytes, edit: Callable[[Edit], None] = lambda _: None) -> Decision | ReplyWith | None:
        """Write what a call of the core returned, and wait for the decision on that step if one is owed.

        `edit` is called for each edit. None: nothing is owed. Raises OSError, EOFError, RemoteProtocolError.
        """
        if data:
            await self._write(data)
        return await self._answers(edit) if self.core.waiting else None

    def close(self) -> None:
        """Say good-bye if that is possible, and close. Never waits."""
        if not self.core.closed and not self.core.waiting:
            with contextlib.suppress(OSError):
                self._writer.write(self.core.quit())
        self._writer.close()

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _answers(self, edit: Callable[[Edit], None]) -> Decision | ReplyWith | None:
        core, count = self.core, 0
        decision: Decision | ReplyWith | None = None
        while True:
            answer = core.next_answer()
            if answer is None:
                if not core.waiting:
                    return decision
                self._quick_ack()
                data = await self._reader.read(READ_BYTES)
                if not data:
                    raise EOFError("the milter closed the connection before it had answered")
                core.receive(data)
            elif isinstance(answer, Decision | ReplyWith):
                decision = answer
                if core.closed:
                    return decision
            elif isinstance(answer, Edit):
                edit(answer)
                count += 1
                if count > MOST_EDITS_PER_STEP:
                    raise RemoteProtocolError(f"more than {MOST_EDITS_PER_STEP} edits")

    def _quick_ack(self) -> None:
        if self._tcp is not None:
            with contextlib.suppress(OSError):
                self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def open_link(address: str) -> MilterLink:
    """Connect to `host:port` or `unix:/path` and negotiate. Raises OSError, EOFError, RemoteProtocolError.

    Cancellation closes what was opened.
    """
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        reader, writer = await asyncio.open_connection(*split_tcp(address))
    link = MilterLink(reader, writer)
    try:
        await link.negotiate()
    except BaseException:
        writer.close()
        raise
    return link
