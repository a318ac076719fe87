"""What one client may take, and what it is told when it takes more."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from mailfront.edge import connection
from mailfront.net.connections import RefusedFor
from tests.support.edge import FakeIntake, connected, limits, on_both_loops, running_edge

SHORT = 0.3


@on_both_loops
@pytest.mark.parametrize(
    ("sent", "stage"),
    [
        (b"", "connect"),
        (b"EHLO", "connect"),
        (b"EHLO x\r\n", "helo"),
        (b"EHLO x\r\nMAIL FROM:<a@b.c>\r\n", "mail"),
        (b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\n", "rcpt"),
        (b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n", "data"),
        (b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\nx\r\n", "data"),
        (b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\nBDAT 10 LAST\r\nx\r\n", "data"),
    ],
)
async def test_a_client_that_stalls_gets_421(tmp_path: Path, sent: bytes, stage: str) -> None:
    """In each phase a client that says nothing is told so and disconnected, and nothing is kept of it."""
    short = limits(command_timeout=SHORT, data_timeout=SHORT)
    async with running_edge(tmp_path, limits=short) as edge, connected(edge) as client:
        await client.send(sent)
        last = (await client.rest()).splitlines()[-1]
        assert last.startswith(b"421 4.4.2 ")
        event = await edge.ended()
    assert event["end"] == "timeout"
    assert event["stage"] == stage
    assert edge.intake.taken == []
    assert edge.budget.memory_used_bytes == 0


@on_both_loops
async def test_a_trickle_is_a_stall(tmp_path: Path) -> None:
    """A command line that comes byte by byte, and an upload that is too slow, do not hold a connection."""
    short = limits(command_timeout=SHORT, data_timeout=SHORT, data_rate=1024)
    for start in (b"EHLO x\r\n", b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n"):
        async with running_edge(tmp_path, limits=short) as edge, connected(edge) as client:
            await client.send(start)

            async def trickle() -> None:
                while True:
                    client.writer.write(b"x")
                    await asyncio.sleep(SHORT / 10)

            task = asyncio.ensure_future(trickle())  # noqa: TID251
            last = (await client.rest()).splitlines()[-1]
            task.cancel()
            assert last.startswith(b"421 4.4.2 ")
            assert (await edge.ended())["end"] == "timeout"


@on_both_loops
async def test_a_slow_upload_that_makes_progress_lives(tmp_path: Path) -> None:
    """An upload may take many times the timeout if it keeps the rate."""
    short = limits(command_timeout=SHORT, data_timeout=SHORT, data_rate=1000)
    async with running_edge(tmp_path, limits=short) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.ask("DATA")
        for _ in range(20):
            await client.send(b"x" * 198 + b"\r\n")
            await asyncio.sleep(SHORT / 5)
        assert (await client.ask(".")).startswith(b"250 ")
    assert len(edge.intake.taken[0].body) == 4000


@on_both_loops
async def test_our_own_slowness_is_not_the_clients(tmp_path: Path) -> None:
    """No timer runs while the client waits for us."""
    release = asyncio.Event()
    short = limits(command_timeout=SHORT, data_timeout=SHORT)
    intake = FakeIntake(before_reply=release.wait)
    async with running_edge(tmp_path, limits=short, intake=intake) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.ask("DATA")
        await client.send(b"x\r\n.\r\n")
        await asyncio.sleep(SHORT * 2)
        release.set()
        assert (await client.reply()).startswith(b"250 ")


@on_both_loops
async def test_a_client_that_reads_nothing_is_disconnected(tmp_path: Path) -> None:
    """Replies that nobody takes stop the dialogue, then end it; memory stays bounded."""
    short = limits(command_timeout=SHORT, bad_commands=10**9, errors=10**9, idle_commands=10**9)
    async with running_edge(tmp_path, limits=short) as edge, connected(edge) as client:
        cast(asyncio.Transport, client.writer.transport).pause_reading()
        async with asyncio.timeout(20):
            while not edge.events:
                client.writer.write(b"NOOP\r\n" * 20000)
                await asyncio.sleep(0.01)
    assert edge.events[0]["end"] == "timeout"


async def test_connections_are_counted_and_refused(tmp_path: Path) -> None:
    """A connection over a limit hears 421 instead of the greeting and is not counted."""
    async with running_edge(tmp_path) as edge:
        edge.admission.refuse = RefusedFor.PER_IP
        async with connected(edge) as client:
            assert await client.rest() == b"421 4.7.0 too many connections, try again later\r\n"
        event = await edge.ended()
        assert (event["end"], event["stage"]) == ("refused", "connect")
        edge.admission.refuse = None
        async with connected(edge) as client:
            await client.reply()
            assert edge.admission.open == {"127.0.0.1": 1}
        await edge.ended(2)
        assert edge.admission.open == {"127.0.0.1": 0}


async def test_too_many_recipients(tmp_path: Path) -> None:
    """452 4.5.3 for each further one; the message goes to those before."""
    async with running_edge(tmp_path, limits=limits(recipients=2)) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope("b@mx.test", "c@mx.test")
        assert (await client.ask("RCPT TO:<d@mx.test>")).startswith(b"452 4.5.3 ")
        await client.ask("DATA")
        assert (await client.ask("x\r\n.")).startswith(b"250 ")
    assert len(edge.intake.taken[0].recipients) == 2


async def test_a_message_that_is_too_large_is_refused_when_it_is(tmp_path: Path) -> None:
    """Without SIZE the rest is read and then refused 552; the dialogue goes on. Far too much closes it."""
    async with running_edge(tmp_path, limits=limits(message_size=100_000)) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask(b"x" * 150_000 + b"\r\n.")).startswith(b"552 5.3.4 ")
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask(b"x" * 99_998 + b"\r\n.")).startswith(b"250 ")
        await client.envelope()
        await client.ask("DATA")
        client.writer.write(b"x" * 1_000_000)
        event = await edge.ended()
        assert (event["end"], event["reason"]) == ("limit", "message_size")
    assert len(edge.intake.taken) == 1
    assert edge.budget.memory_used_bytes == edge.budget.disk_used_bytes == 0


async def test_a_command_line_that_is_too_long(tmp_path: Path) -> None:
    """It is refused and the connection closed, whether its end is seen or not."""
    for sent in (b"NOOP " + b"x" * 5000 + b"\r\n", b"x" * 5000):
        async with running_edge(tmp_path) as edge, connected(edge) as client:
            await client.hello()
            await client.send(sent)
            assert (await client.rest()).startswith(b"500 5.5.2 ")
            assert (await edge.ended())["reason"] == "line_length"


@pytest.mark.parametrize(
    ("name", "command"), [("bad_commands", "FOO"), ("errors", "RCPT TO:<no@mx.test>"), ("idle_commands", "NOOP")]
)
async def test_too_much_nonsense_ends_in_421(tmp_path: Path, name: str, command: str) -> None:
    """Bad commands, refused ones and those that lead nowhere are counted, each with its limit."""
    async with running_edge(tmp_path, limits=limits(**{name: 5})) as edge, connected(edge) as client:
        await client.hello()
        await client.ask("MAIL FROM:<a@b.c>")
        for _ in range(5):
            assert not (await client.ask(command)).startswith(b"421")
        await client.send(command.encode() + b"\r\n")
        assert b"421 4.7.0 " in await client.rest()
        event = await edge.ended()
    assert (event["end"], event["reason"]) == ("limit", "bad_commands")


@pytest.mark.parametrize("commands", [["EHLO x"], ["HELO x"], ["MAIL FROM:<a@b.c>", "RSET"]])
async def test_a_dialogue_that_never_comes_to_a_message_ends(tmp_path: Path, commands: list[str]) -> None:
    """Saying hello again and again, or beginning messages without sending one, is counted like NOOP."""
    async with running_edge(tmp_path, limits=limits(idle_commands=5)) as edge, connected(edge) as client:
        await client.hello()
        await client.send("".join(f"{command}\r\n" for command in commands * 6).encode())
        assert b"421 4.7.0 " in await client.rest()
        assert (await edge.ended())["reason"] == "bad_commands"


async def test_each_message_gives_new_idle_commands(tmp_path: Path) -> None:
    """A client that resets before each of many messages is no nuisance."""
    async with running_edge(tmp_path, limits=limits(idle_commands=3)) as edge, connected(edge) as client:
        await client.hello()
        for _ in range(8):
            assert (await client.ask("RSET")).startswith(b"250 ")
            await client.envelope()
            await client.ask("DATA")
            assert (await client.ask("x\r\n.")).startswith(b"250 ")


async def test_no_room_for_bodies(tmp_path: Path) -> None:
    """452 4.3.1 at MAIL if the announced size does not fit, after the message if it did not say."""
    async with (
        running_edge(tmp_path, memory_bytes=10_000, disk_bytes=300_000) as edge,
        connected(edge) as client,
    ):
        await client.hello()
        assert (await client.ask("MAIL FROM:<a@b.c> SIZE=400000")).startswith(b"452 4.3.1 ")
        assert (await client.ask("MAIL FROM:<a@b.c> SIZE=200000")).startswith(b"250 ")
        async with connected(edge) as other:
            await other.hello()
            assert (await other.ask("MAIL FROM:<a@b.c> SIZE=200000")).startswith(b"452 4.3.1 ")
        await client.ask("RSET")
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask(b"x" * 400_000 + b"\r\n.")).startswith(b"452 4.3.1 ")
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask(b"y" * 250_000 + b"\r\n.")).startswith(b"250 ")
    assert edge.intake.taken[0].body == b"y" * 250_000 + b"\r\n"
    async with asyncio.timeout(10):  # the session's last reference to the body goes with its task
        while edge.budget.memory_used_bytes or edge.budget.disk_used_bytes:
            await asyncio.sleep(0.01)


async def test_a_spool_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """Our disk trouble is 452, and small messages still pass."""
    async with running_edge(tmp_path / "absent") as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask(b"x" * 400_000 + b"\r\n.")).startswith(b"452 4.3.1 ")
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask(b"x\r\n.")).startswith(b"250 ")


async def test_a_newcomer_may_send_its_message_while_we_drain(tmp_path: Path) -> None:
    """A client that has just come is not sent away: its first message is answered, then it hears 421."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        draining = asyncio.ensure_future(edge.server.drain(5.0))  # noqa: TID251
        with pytest.raises((ConnectionRefusedError, ConnectionResetError)):
            await asyncio.open_connection(*edge.address)
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask(b"x\r\n.")).startswith(b"250 ")
        assert (await client.rest()).startswith(b"421 4.3.2 ")
        await draining


async def test_draining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle sessions hear 421 at once, one with a message may end it, and a commit is awaited whatever the grace."""
    monkeypatch.setattr(connection, "NEWCOMER_S", 0.0)
    release = asyncio.Event()
    intake = FakeIntake(before_reply=release.wait)
    async with (
        running_edge(tmp_path, intake=intake) as edge,
        connected(edge) as idle,
        connected(edge) as sending,
        connected(edge) as stuck,
    ):
        for client in (idle, sending, stuck):
            await client.hello()
        await sending.envelope()
        await stuck.envelope()
        await sending.ask("DATA")
        draining = asyncio.ensure_future(edge.server.drain(0.3))  # noqa: TID251
        assert (await idle.rest()).startswith(b"421 4.3.2 ")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*edge.address)
        await sending.send(b"x\r\n.\r\n")
        assert (await stuck.rest()).startswith(b"421 4.3.2 ")
        await edge.ended(2)
        assert not draining.done()
        assert edge.server.sessions_count == 1
        release.set()
        assert (await sending.reply()).startswith(b"250 ")
        assert (await sending.rest()).startswith(b"421 4.3.2 ")
        await draining
    assert len(intake.taken) == 1
    assert intake.abandoned == 1
    assert {event["end"] for event in edge.events} == {"shutdown"}
