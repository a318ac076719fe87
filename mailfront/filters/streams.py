"""Short dialogues with a scanner over TCP or a UNIX socket. The time is limited by whoever calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mailfront.filters.addresses import split_tcp

LIMIT_BYTES = 64 * 1024


@asynccontextmanager
async def scanner_stream(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to `host:port` or `unix:/path`, dropped at the end. Raises OSError."""
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"), limit=LIMIT_BYTES)
    else:
        reader, writer = await asyncio.open_connection(*split_tcp(address), limit=LIMIT_BYTES)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_to_end(reader: asyncio.StreamReader, limit_bytes: int) -> bytes:
    """Everything up to the end of the stream. Raises ValueError if it is more than that."""
    data = b""
    while piece := await reader.read(LIMIT_BYTES):
        data += piece
        if len(data) > limit_bytes:
            raise ValueError(f"the answer is longer than {limit_bytes} bytes")
    return data
