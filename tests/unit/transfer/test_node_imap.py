"""The search for a message that an attempt of unknown outcome may have delivered."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import pytest

from mailfront.base.ids import MessageId
from mailfront.mail.names import NodeId
from mailfront.protocol.imap_events import Completed
from mailfront.protocol.imap_text import Status
from mailfront.transfer.imap import ImapFailed, ImapRefused
from mailfront.transfer.node_imap import MasterSearch

REFUSED = ImapRefused("SELECT", Completed(Status.NO, "NOPERM", "permission denied"))
BROKEN = ImapFailed("SELECT: the node closed the connection")


class ScriptedImap:
    """One mailbox: what a search in each folder gives, or raises."""

    master = object()

    def __init__(self, answers: Mapping[str, list[int] | Exception]) -> None:
        self._answers = answers

    @asynccontextmanager
    async def as_user(self, node: NodeId, user: str) -> AsyncIterator["ScriptedImap"]:
        yield self

    async def folders(self) -> list[str]:
        return list(self._answers)

    async def search_header(self, folder: str, name: str, value: str, *, since: date) -> list[int]:
        answer = self._answers[folder]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ({"INBOX": [7]}, True),
        ({"INBOX": [], "Lists": [7]}, True),
        ({"INBOX": [], "Lists": []}, False),
        ({"INBOX": [], "Shared": REFUSED, "Lists": [7]}, True),
        ({"INBOX": [], "Shared": REFUSED}, False),
        ({"INBOX": REFUSED}, None),
        ({"INBOX": [], "Lists": BROKEN}, None),
    ],
)
async def test_what_a_search_tells(answers: dict[str, Any], found: bool | None) -> None:
    """A folder that may not be opened hides nothing; a mailbox that cannot be looked at says nothing."""
    search = MasterSearch(ScriptedImap(answers))  # type: ignore[arg-type]  # the part that a search uses
    assert await search.find(NodeId("a"), "ana", MessageId("0123456789abcdef"), 1_700_000_000.0) is found
