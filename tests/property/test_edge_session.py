"""Whatever a client sends and however it is cut, the edge stays in step and never fails."""

import asyncio
import re
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mailfront.edge.listener import EdgeListener
from mailfront.edge.session import EdgeSession
from mailfront.net.body import BodyBudget
from mailfront.net.settings import ListenSettings
from tests.support.edge import FakeAdmission, FakeIntake, limits

LINES = st.sampled_from(
    [
        b"EHLO x\r\n", b"HELO x\r\n", b"MAIL FROM:<a@b.c>\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<b@mx.test>\r\n",
        b"RCPT TO:<no@mx.test>\r\n", b"DATA\r\n", b"x\r\n.\r\n", b".\r\n", b"a\nb\r\n", b"\n.\n", b"\r\n.\r",
        b"RSET\r\n", b"BDAT 5\r\n", b"BDAT 3 LAST\r\n", b"BDAT x\r\n", b"12345", b"abc", b"NOOP\r\n", b"QUIT\r\n",
        b"STARTTLS\r\n", b"\xff\xfe\r\n", b"MAIL FROM:<\xff>\r\n", b"\r\n", b"VRFY <\r\n", b"PROXY TCP4\r\n",
        b"\x16\x03\x01",
    ]
)  # fmt: skip
DIALOGUES = st.lists(LINES, max_size=25).map(b"".join)
TAKEN = st.just(b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\n")
CUTS = st.lists(st.integers(min_value=1, max_value=30), max_size=40)


class Pipe:
    """A transport that only remembers."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else default

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def dialogue(wire: bytes, sizes: list[int]) -> tuple[bytes, list[tuple[bytes, str]], dict[str, Any]]:
    """Send bytes in pieces, then hang up. Returns the replies, the messages, and how it ended."""
    events: list[dict[str, Any]] = []
    intake = FakeIntake()
    listener = EdgeListener(
        settings=ListenSettings(role="smtp", address="127.0.0.1:2525"),
        hostname="mx.test",
        limits=limits(),
        intake=intake,
        admission=FakeAdmission(),
        budget=BodyBudget(memory_bytes=2**20, disk_bytes=2**20, spool_dir=Path("/nonexistent")),
        emit=lambda event, **fields: events.append(fields),
        loop=asyncio.get_running_loop(),
    )
    pipe = Pipe()
    session = EdgeSession(listener)
    session.connection_made(pipe)  # type: ignore[arg-type]
    at = 0
    for size in [*sizes, len(wire)]:
        if at < len(wire):
            session.data_received(wire[at : at + size])
            at += size
            for _ in range(3):
                await asyncio.sleep(0)
    session.eof_received()
    async with asyncio.timeout(5):
        while not events:
            await asyncio.sleep(0)
    assert intake.begun == len(intake.taken) + intake.abandoned
    assert listener.budget.memory_used_bytes == 0
    assert pipe.closed
    messages = [(taken.body, str(taken.request.reverse_path)) for taken in intake.taken]
    return b"".join(pipe.written), messages, events[0]


@settings(deadline=None, max_examples=150)
@given(TAKEN | st.just(b""), DIALOGUES, CUTS)
def test_any_cutting_gives_the_same_dialogue(start: bytes, wire: bytes, sizes: list[int]) -> None:
    """Replies, messages and the way it ends depend on the bytes only, not on how they arrive."""
    whole = asyncio.run(dialogue(start + wire, []))
    cut = asyncio.run(dialogue(start + wire, sizes))
    for (replies, messages, event), label in ((whole, "whole"), (cut, "cut")):
        assert b"4.3.0" not in replies, label
        assert all(re.match(rb"[2-5]\d\d[ -]", line) for line in replies.splitlines())
        assert event["end"] in ("quit", "lost", "protocol", "limit")
        assert len(messages) == event["messages_count"]
    same_id = re.compile(rb"[0-9a-z]{16} delivered")
    assert same_id.sub(b"ID", whole[0]) == same_id.sub(b"ID", cut[0])
    assert whole[1] == cut[1]
    assert whole[2]["end"] == cut[2]["end"]


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300), CUTS)
def test_garbage_is_answered_or_ended(garbage: bytes, sizes: list[int]) -> None:
    """Random bytes never cause a fault of ours."""
    replies, messages, event = asyncio.run(dialogue(garbage, sizes))
    assert replies.startswith(b"220 ")
    assert b"4.3.0" not in replies
    assert messages == []
    assert event["end"] in ("quit", "lost", "protocol", "limit")
