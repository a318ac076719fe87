"""The admin socket with a real client and server: limits, identities, broken peers."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mailfront.admin import socket as admin_socket
from mailfront.admin.client import AdminClient
from mailfront.admin.errors import AdminError, Kind, NotRunning
from mailfront.admin.socket import AdminServer, Call
from mailfront.admin.wire import MAX_REQUEST_BYTES, Progress
from mailfront.base.errors import Unavailable


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """A served socket with a few verbs."""
    address = tmp_path / "admin.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(address))
    listening.listen()
    server = AdminServer(
        {"echo": echo, "who": who, "slow": slow, "away": away, "broken": broken, "large": large, "for ever": for_ever}
    )
    server.start(listening)
    yield address
    await server.close()


cancelled = asyncio.Event()


async def echo(call: Call) -> Any:
    return call.arguments


async def who(call: Call) -> Any:
    return {"uid": call.uid, "pid": call.pid}


async def slow(call: Call) -> Any:
    for done in range(3):
        call.progress(Progress(done, 3, "steps"))
        await asyncio.sleep(0.3)
    return "done"


async def away(_call: Call) -> Any:
    raise Unavailable("the database does not answer")


async def broken(_call: Call) -> Any:
    raise ZeroDivisionError("secret of the program")


async def large(_call: Call) -> Any:
    return "x" * 2000


async def for_ever(_call: Call) -> Any:
    try:
        await asyncio.sleep(3600)
    finally:
        cancelled.set()


async def call(path: Path, verb: str, arguments: dict[str, Any] | None = None, **more: Any) -> Any:
    """One call on a connection of its own, off the event loop."""

    def run() -> Any:
        with AdminClient(path) as client:
            return client.call(verb, arguments, **more)

    return await asyncio.to_thread(run)


async def test_values_arrive_as_they_were(path: Path) -> None:
    """Text of any kind survives the way there and back."""
    value = {"text": "line\nend ünï \u2028 \x00", "number": 1, "list": [None, True]}
    assert await call(path, "echo", value) == value


async def test_the_kernel_says_who_asks(path: Path) -> None:
    """The uid for the audit is not the client's own word."""
    assert await call(path, "who") == {"uid": os.getuid(), "pid": os.getpid()}


async def test_one_connection_serves_several_requests(path: Path) -> None:
    """Paging does not connect anew."""

    def run() -> list[Any]:
        with AdminClient(path) as client:
            return [client.call("echo", {"number": number}) for number in range(20)]

    assert await asyncio.to_thread(run) == [{"number": number} for number in range(20)]


async def test_progress_is_told_while_it_works(path: Path) -> None:
    """The newest state of the work is passed on, never after the result."""
    notes: list[Progress] = []
    assert await call(path, "slow", progress=notes.append) == "done"
    assert notes
    assert [note.done for note in notes] == sorted(note.done for note in notes)


@pytest.mark.parametrize(
    ("verb", "kind", "text"),
    [
        ("away", Kind.LATER, "the database does not answer"),
        ("broken", Kind.FAILED, "failed inside the server, its log says more: ZeroDivisionError"),
        ("nonsense", Kind.FAILED, "this server has no verb 'nonsense'; is it another version?"),
    ],
)
async def test_failures_keep_their_kind(path: Path, verb: str, kind: Kind, text: str) -> None:
    """Our own exception text never reaches the caller."""
    with pytest.raises(AdminError) as caught:
        await call(path, verb)
    assert (caught.value.kind, str(caught.value)) == (kind, text)


async def test_too_large_an_answer_is_refused_not_sent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says to ask for less."""
    monkeypatch.setattr(admin_socket, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(AdminError, match="ask for less"):
        await call(path, "large")


async def test_too_long_a_request_ends_the_connection(path: Path) -> None:
    """A bound on what the server keeps for one client."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"x" * (MAX_REQUEST_BYTES + 10))
    answer = await reader.readline()
    assert b"a request is at most" in answer
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("line", [b"garbage\n", b"[1]\n", b'{"verb": 1}\n'])
async def test_garbage_is_answered_and_the_connection_closed(path: Path, line: bytes) -> None:
    """Nobody is left waiting."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line)
    assert b'"kind":"usage"' in await reader.readline()
    assert await reader.read() == b""
    writer.close()


async def test_work_stops_when_its_client_is_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that was interrupted does not go on in the server."""
    monkeypatch.setattr(admin_socket, "ALIVE_EVERY_S", 0.1)
    cancelled.clear()
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"verb": "for ever", "arguments": {}}\n')
    await writer.drain()
    writer.close()
    async with asyncio.timeout(10):
        await cancelled.wait()


async def test_silent_clients_do_not_keep_others_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections on which nothing is asked are closed; those who wait are then served."""
    monkeypatch.setattr(admin_socket, "IDLE_S", 0.3)
    idle = [await asyncio.open_unix_connection(path) for _ in range(admin_socket.MAX_CONNECTIONS + 4)]
    assert await call(path, "echo", {"late": 1}) == {"late": 1}
    for _, writer in idle:
        writer.close()


async def test_no_server_is_said_plainly(tmp_path: Path) -> None:
    """Neither a missing nor an orphaned socket file gives a traceback."""
    with pytest.raises(NotRunning):
        await call(tmp_path / "none.sock", "echo")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left.sock"))
    left.close()
    with pytest.raises(NotRunning):
        await call(tmp_path / "left.sock", "echo")


async def test_a_server_that_dies_before_its_answer_is_told(tmp_path: Path) -> None:
    """The command may have been carried out: the text says so, and the exit code means later."""
    address = tmp_path / "admin.sock"

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    server = await asyncio.start_unix_server(hang_up, address)
    with pytest.raises(AdminError, match="may have been carried out") as caught:
        await call(address, "queue.delete")
    assert caught.value.kind is Kind.LATER
    server.close()
