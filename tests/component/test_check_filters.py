"""`config check` says of each scanner whether it can be reached, and what happens to mail meanwhile if not."""

import asyncio
from pathlib import Path

from mailfront.config.check_filters import check_filters
from mailfront.config.findings import Level
from mailfront.config.load import parse
from tests.unit.config.test_load import GOOD


async def test_scanners_are_connected_to(tmp_path: Path) -> None:
    """One that listens over TCP, one over a UNIX socket, one that does not; a warning is all that comes of it."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    over_tcp = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    over_unix = await asyncio.start_unix_server(hang_up, tmp_path / "clamd")
    port = over_tcp.sockets[0].getsockname()[1]
    text = f"""
[[filter]]
name = "spam"
kind = "rspamd"
on_error = "accept"
settings = {{ url = ["http://127.0.0.1:{port}", "http://127.0.0.1:1"] }}

[[filter]]
name = "virus"
kind = "clamd"
after = ["spam"]
settings = {{ address = "unix:{tmp_path}/clamd" }}
"""
    async with over_tcp, over_unix:
        findings = await check_filters(parse(GOOD + text, tmp_path / "mailfront.toml"))
    assert [(each.level, each.where) for each in findings] == [
        (Level.OK, 'filter "spam"'),
        (Level.WARNING, 'filter "spam"'),
        (Level.OK, 'filter "virus"'),
    ]
    assert findings[1].text.startswith("http://127.0.0.1:1 cannot be reached: ")
    assert findings[1].text.endswith("meanwhile on_error = 'accept' applies")
