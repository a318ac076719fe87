"""`config check` looks at the nodes' ports that people log in to."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from mailfront.config.check_sessions import check_sessions
from mailfront.config.findings import Finding, Level
from mailfront.config.load import parse
from tests.support.ports import free_port
from tests.unit.config.test_load import GOOD, PATH

POP3_LISTENER = '[[listen]]\nrole = "pop3"\naddress = "127.0.0.1:2110"\n'


@contextlib.asynccontextmanager
async def pop3_server(greeting: bytes) -> AsyncIterator[int]:
    """A node's POP3 port that greets so and knows CAPA."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        if await reader.readline() == b"CAPA\r\n":
            writer.write(b"+OK\r\nSASL PLAIN\r\n.\r\n")
            await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def findings(more: str, port: int) -> list[Finding]:
    """What is found when the nodes' POP3 is at this port."""
    text = re.sub(r'host = "10[^"]*"', f'host = "127.0.0.1"\npop3 = {port}', GOOD) + more
    return await check_sessions(parse(text, PATH))


async def test_without_listeners_for_logins_nothing_is_asked() -> None:
    """No node needs POP3 where nobody logs in."""
    assert await findings("", free_port()) == []


async def test_a_node_that_serves_is_seen() -> None:
    """Greeting and capabilities are enough; nobody is logged in."""
    async with pop3_server(b"+OK ready\r\n") as port:
        found = await findings(POP3_LISTENER, port)
    assert {each.level for each in found} == {Level.OK}


@pytest.mark.parametrize("greeting", [b"-ERR [SYS/TEMP] full\r\n", b"220 smtp\r\n", None])
async def test_a_node_that_does_not_serve_fails_with_the_reason(greeting: bytes | None) -> None:
    """Its own word, another protocol, nobody at the port."""
    async with pop3_server(greeting or b"") as port:
        found = await findings(POP3_LISTENER, port if greeting is not None else free_port())
    assert {each.level for each in found} == {Level.FAILED}
    assert all("a listener needs it: " in each.text for each in found)
