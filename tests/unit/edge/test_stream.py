"""What one connection's buffers may hold."""

import asyncio

from mailfront.edge.settings import LimitsSettings
from mailfront.edge.stream import HIGH_WATER_BYTES, DialogueStream


class _Transport(asyncio.Transport):
    """Notes whether reading is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass


async def test_a_client_that_takes_no_replies_is_not_read() -> None:
    """While replies pile up unread, what the client goes on sending stays with the client, not in our memory."""
    transport = _Transport()
    stream = DialogueStream(asyncio.get_running_loop(), LimitsSettings(), refuse_bare=False)
    stream.transport = transport
    stream.set_write_paused(True)
    reader = asyncio.ensure_future(stream.command_line())  # noqa: TID251
    await asyncio.sleep(0)
    sent_bytes = 0
    while transport.reading and sent_bytes < 100 * HIGH_WATER_BYTES:
        stream.feed(b"EHLO x\r\n" * 1024)
        sent_bytes += 8 * 1024
        await asyncio.sleep(0)
    assert sent_bytes <= HIGH_WATER_BYTES + 8 * 1024

    stream.set_write_paused(False)
    assert await reader == b"EHLO x\r\n"
    while stream.has_input:
        assert await stream.command_line() == b"EHLO x\r\n"
    assert transport.reading
