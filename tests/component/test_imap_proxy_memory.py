"""What an idle session holds: two transports and a few small objects, and nothing of its login."""

import asyncio
import gc
from pathlib import Path

from mailfront.protocol.imap_login import ImapLogin
from mailfront.protocol.imap_node_login import ImapNodeLogin
from mailfront.sessions.client import ClientConnection
from mailfront.sessions.node import NodeWire
from tests.support.imap_node import ScriptedImapNode
from tests.support.session_front import session_front

SESSIONS_COUNT = 20


async def test_an_idle_session_keeps_nothing_of_its_login(tmp_path: Path) -> None:
    """No core, no wire, no connection object, no task: what served the login is gone when the relay has begun."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        tasks_count = len(asyncio.all_tasks())
        clients = [await front.logged_in() for _ in range(SESSIONS_COUNT)]
        await front.until(
            lambda: not any("login" in task.get_name() for task in asyncio.all_tasks()), "the logins' end"
        )
        gc.collect()
        left = [
            each
            for each in gc.get_objects()
            if isinstance(each, ImapLogin | ImapNodeLogin | ClientConnection | NodeWire)
        ]
        assert left == []
        # The node in this loop has a task per connection of its own; we have none.
        assert len(asyncio.all_tasks()) <= tasks_count + SESSIONS_COUNT
        assert len(front.table) == SESSIONS_COUNT
        for client in clients:
            await client.close()
