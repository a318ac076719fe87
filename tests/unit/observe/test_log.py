"""The log: canonical lines, loggers, the bridge, and what happens when nobody reads."""

import asyncio
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from mailfront.base.secret import Secret
from mailfront.observe import log
from mailfront.observe.lines import MAX_WAITING_BYTES, LineOutput, StreamOutput


class Collected(LineOutput):
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[bytes] = []

    def _write_waiting(self) -> None:
        self.lines.extend(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe, closed afterwards, with the log reset."""
    reading, writing = os.pipe()
    yield reading, writing
    log.close()
    structlog.reset_defaults()
    logging.getLogger().handlers = [each for each in logging.getLogger().handlers if type(each).__name__ != "_Bridge"]
    os.close(reading)
    os.close(writing)


def read_records(reading: int) -> list[dict[str, Any]]:
    """All lines that are in the pipe now."""
    os.set_blocking(reading, False)
    data = b""
    while True:
        try:
            data += os.read(reading, 1 << 20)
        except BlockingIOError:
            return [json.loads(line) for line in data.splitlines()]


def test_an_event_is_one_json_line_with_the_common_fields_in_front(pipe: tuple[int, int]) -> None:
    """emit() writes time, event and process first, then the fields in the order given."""
    log.configure("worker-0", fd=pipe[1])
    log.emit("delivery", id="0123456789abcdef", node="store1", total_ms=1.5, reply=None)
    (record,) = read_records(pipe[0])
    assert list(record) == ["time", "event", "process", "id", "node", "total_ms", "reply"]
    assert record["event"] == "delivery"
    assert record["process"] == "worker-0"
    assert record["time"].endswith("Z")
    assert len(record["time"]) == 24


def test_an_undeclared_event_raises_until_the_log_is_configured(pipe: tuple[int, int]) -> None:
    """In tests it raises; in a running server it is reported once and the line is written all the same."""
    with pytest.raises(ValueError, match="not declared"):
        log.emit("surprise", x=1)
    log.configure("keeper", fd=pipe[1])
    log.emit("surprise", x=1)
    log.emit("surprise", x=2)
    records = read_records(pipe[0])
    assert [record.get("event") for record in records] == [None, "surprise", "surprise"]
    assert records[0]["level"] == "error"
    assert "surprise" in records[0]["problem"]


def test_what_json_cannot_say_does_not_break_the_line(pipe: tuple[int, int]) -> None:
    """Lone surrogates, huge numbers and foreign objects are shown as text; a secret stays hidden."""
    log.configure("keeper", fd=pipe[1])
    log.emit("delivery", reason="bad \udc80 byte", attempt=10**40, reply=Secret(b"hunter2"))
    log.emit("delivery", reply=Secret(b"hunter2"))
    first, second = read_records(pipe[0])
    assert first["reason"] == "bad ? byte"
    assert first["reply"] == second["reply"] == "Secret(***)"


def test_addresses_are_masked_where_that_is_set(pipe: tuple[int, int]) -> None:
    """With masking, neither the sender nor any recipient's local part is in the line."""
    log.configure("worker-0", fd=pipe[1], mask_addresses=True)
    recipients = [{"address": "bo@example.edu", "node": "store1"}, {"node": "store2"}]
    log.emit("message", reverse_path="ana@example.org", recipients=recipients)
    log.emit("message", recipients=["bo@example.edu"])
    first, second = read_records(pipe[0])
    assert first["reverse_path"] == "a***@example.org"
    assert first["recipients"] == [{"address": "b***@example.edu", "node": "store1"}, {"node": "store2"}]
    assert second["recipients"] == ["b***@example.edu"]
    assert recipients[0]["address"] == "bo@example.edu"


def test_loggers_write_level_name_message_and_traceback(pipe: tuple[int, int]) -> None:
    """A logger's line names the part that speaks; exceptions come with their traceback; the level filters."""
    log.configure("worker-1", fd=pipe[1], level="info")
    logger = log.get("delivery")
    logger.debug("not shown")
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logger.exception("attempt failed", node="store1")
    (record,) = read_records(pipe[0])
    assert record["message"] == "attempt failed"
    assert record["logger"] == "delivery"
    assert record["level"] == "error"
    assert record["node"] == "store1"
    assert "RuntimeError: boom" in record["exception"]
    assert "event" not in record


def test_standard_library_loggers_join_at_warning(pipe: tuple[int, int]) -> None:
    """A library's warning becomes a line of ours, its info does not, and a broken one does not raise."""
    log.configure("worker-0", fd=pipe[1])
    library = logging.getLogger("some.library")
    library.info("chatter %s", 1)
    library.warning("odd %s\r\nforged", "thing")
    library.error("broken %d", "not a number")
    records = read_records(pipe[0])
    assert [record["message"] for record in records] == ["odd thing??forged", "broken %d"]
    assert [record["level"] for record in records] == ["warning", "error"]
    assert records[0]["logger"] == "some.library"


def test_readable_lines_hold_no_control_characters(pipe: tuple[int, int]) -> None:
    """On a terminal the line is text, and an escape sequence in a value cannot reach the terminal."""
    log.configure("keeper", fd=pipe[1], readable=True)
    log.emit("delivery", node="store1", reason="\x1b[31mred\r\nFAKE line")
    log.get("x").warning("hello \x1b[0m", value="a\nb")
    text = os.read(pipe[0], 65536).decode()
    assert "\x1b" not in text
    assert "store1" in text
    assert len(text.splitlines()) == 2


async def test_lines_of_one_turn_are_written_together_at_its_end(pipe: tuple[int, int]) -> None:
    """Inside a loop nothing is written until the turn ends; then every line is there, in order."""
    events = Collected()
    log.configure("worker-0", fd=pipe[1], event_file=events)
    for number in range(5):
        log.emit("delivery", attempt=number)
    assert events.lines == []
    assert read_records(pipe[0]) == []
    await asyncio.sleep(0)
    assert [json.loads(line)["attempt"] for line in events.lines] == list(range(5))
    assert [record["attempt"] for record in read_records(pipe[0])] == list(range(5))


def test_lines_left_by_a_loop_that_ended_are_not_stuck(pipe: tuple[int, int]) -> None:
    """A loop may end before its last turn is written: the next line, or close(), brings everything out."""
    output = Collected()

    async def leave_a_line() -> None:
        asyncio.get_running_loop().call_soon(output.put, b"late\n")

    asyncio.run(leave_a_line())
    output.put(b"a\n")
    asyncio.run(leave_a_line())
    output.close()
    assert b"a\n" in output.lines


def test_a_reader_that_stops_reading_stops_nobody_and_loses_whole_lines_only(pipe: tuple[int, int]) -> None:
    """A full pipe never blocks; what waits is bounded, the rest is counted, and lines stay whole afterwards."""
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    output = StreamOutput(pipe[1])
    line = b"x" * 9999 + b"\n"
    total = MAX_WAITING_BYTES // len(line) + 100
    for _ in range(total):
        output.put(line)
    assert 0 < output.dropped_count <= 100
    assert output._waiting_bytes <= MAX_WAITING_BYTES + len(line)
    os.set_blocking(pipe[0], False)
    received = bytearray()
    while output._waiting_bytes or not received.endswith(b"\n"):
        received += os.read(pipe[0], 1 << 16)
        output.flush()
    try:
        received += os.read(pipe[0], 1 << 16)
    except BlockingIOError:
        pass
    assert bytes(received) == line * (total - output.dropped_count)
    assert os.get_blocking(pipe[1])
    output.close()


def test_a_pipe_that_cannot_be_reopened_is_asked_before_each_write(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After root was dropped the pipe may not be opened again; a full one still does not block."""

    def refuse(*_args: Any, **_kwargs: Any) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    output = StreamOutput(pipe[1])
    for _ in range(10):
        output.put(b"y" * 999 + b"\n")
    received = b""
    while len(received) < 10_000:
        received += os.read(pipe[0], 65536)
        output.flush()
    assert received == (b"y" * 999 + b"\n") * 10
    output.close()


def test_a_socket_as_stderr_is_never_waited_for() -> None:
    """systemd gives a stream socket as stderr: a full one does not block and a closed one does not raise."""
    reading, writing = socket.socketpair()
    output = StreamOutput(writing.fileno())
    for _ in range(2000):
        output.put(b"z" * 999 + b"\n")
    assert output._waiting_bytes > 0
    reading.close()
    output.flush()
    assert output._waiting_bytes == 0
    assert output.dropped_count > 0
    output.close()
    writing.close()


def test_listeners_see_the_events_of_a_block() -> None:
    """listening() hands each event to a callback, configured or not, and stops at the end of the block."""
    seen: list[dict[str, Any]] = []
    with log.listening(seen.append):
        log.emit("node_state", node="store1", state="down")
    log.emit("node_state", node="store1", state="up")
    assert [(record["event"], record["state"]) for record in seen] == [("node_state", "down")]
