"""BDAT: chunks are always read to their end, and what they make is a message only when all is there."""

from pathlib import Path

import pytest

from tests.support.edge import connected, limits, on_both_loops, running_edge


@on_both_loops
async def test_chunks_make_a_message(tmp_path: Path) -> None:
    """Chunks are put together byte by byte; dots and ends of data in them mean nothing."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.send(b"BDAT 7\r\nab\r\n.\r\nBDAT 6\r\n..\r\n.\rBDAT 1\r\n\nbdat 0 last\r\nNOOP\r\n")
        assert await client.reply() == b"250 2.0.0 7 octets\r\n"
        assert await client.reply() == b"250 2.0.0 6 octets\r\n"
        assert await client.reply() == b"250 2.0.0 1 octets\r\n"
        assert (await client.reply()).startswith(b"250 2.0.0 ")
        assert await client.reply() == b"250 2.0.0 OK\r\n"
    assert edge.intake.taken[0].body == b"ab\r\n.\r\n..\r\n.\r\n"


@on_both_loops
async def test_a_large_message_in_one_chunk(tmp_path: Path) -> None:
    """A chunk may be as large as a message may be."""
    body = b"0123456789abcdef\r\n" * 60_000
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.send(
            b"MAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\nBDAT %d LAST\r\n" % len(body) + body + b"QUIT\r\n"
        )
        answers = await client.rest()
    assert [line[:3] for line in answers.splitlines()] == [b"250", b"250", b"250", b"221"]
    assert edge.intake.taken[0].body == body


async def test_chunks_are_read_even_when_nobody_wants_them(tmp_path: Path) -> None:
    """Without MAIL, or when all RCPT failed, the chunk is read and refused: its bytes are never commands."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        assert (await client.ask(b"BDAT 6\r\nQUIT\r\nNOOP")).startswith(b"503 5.5.1 ")
        assert (await client.reply()).startswith(b"250 ")
        await client.ask("MAIL FROM:<a@b.c>")
        await client.ask("RCPT TO:<no@mx.test>")
        assert (await client.ask(b"BDAT 6 LAST\r\nQUIT\r\nNOOP")).startswith(b"503 5.5.1 ")
        assert (await client.reply()).startswith(b"250 ")
    assert edge.intake.taken == []


async def test_data_and_bdat_do_not_mix(tmp_path: Path) -> None:
    """Once a chunk has come, DATA, RCPT and MAIL are refused until the message is done or reset."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        assert (await client.ask(b"BDAT 4\r\nab\r\nNOOP")).startswith(b"250 2.0.0 4")
        assert (await client.reply()).startswith(b"250 ")
        for command in ("DATA", "RCPT TO:<c@mx.test>", "MAIL FROM:<a@b.c>"):
            assert (await client.ask(command)).startswith(b"503 5.5.1 ")
        await client.ask("RSET")
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask("x\r\n.")).startswith(b"250 ")
    assert [taken.body for taken in edge.intake.taken] == [b"x\r\n"]


async def test_chunks_that_are_too_large_together(tmp_path: Path) -> None:
    """The limit counts all chunks; the message is over then, and later chunks are read and answered 503."""
    async with running_edge(tmp_path, limits=limits(message_size=100_000)) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        chunk = b"BDAT 60000\r\n" + b"x" * 60_000
        await client.send(chunk + chunk + chunk + b"BDAT 5 LAST\r\nQUIT\nNOOP\r\n")
        answers = [(await client.reply())[:9] for _ in range(5)]
    assert answers == [b"250 2.0.0", b"552 5.3.4", b"503 5.5.1", b"503 5.5.1", b"250 2.0.0"]
    assert edge.intake.taken == []
    assert edge.budget.memory_used_bytes == edge.budget.disk_used_bytes == 0


@pytest.mark.parametrize(
    "command",
    [
        b"BDAT",
        b"BDAT x",
        b"BDAT -1",
        b"BDAT 5 FIRST",
        b"BDAT 0x10",
        b"BDAT 5,5",
        b"BDAT " + b"9" * 30,
        b"BDAT 99999999999",
    ],
)
async def test_a_chunk_of_unknown_size_ends_the_connection(tmp_path: Path, command: bytes) -> None:
    """If the size cannot be read, or is absurd, nobody knows where commands go on."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.send(command + b"\r\nQUIT\r\nQUIT\r\n")
        answers = await client.rest()
        assert answers[:4] in (b"501 ", b"552 ")
        assert b"221" not in answers
    assert edge.intake.taken == []


@on_both_loops
async def test_a_client_that_leaves_in_a_chunk_has_sent_nothing(tmp_path: Path) -> None:
    """The end of the connection inside a chunk aborts the message, also if it was the last."""
    async with running_edge(tmp_path) as edge:
        async with connected(edge) as client:
            await client.hello()
            await client.envelope()
            await client.send(b"BDAT 100 LAST\r\nx\r\n")
            client.writer.write_eof()
            assert await client.rest() == b""
        event = await edge.ended()
    assert edge.intake.taken == []
    assert edge.intake.abandoned == 1
    assert (event["end"], event["stage"]) == ("lost", "data")


async def test_bare_newlines_in_chunks(tmp_path: Path) -> None:
    """Mended across chunk borders, or refused and the connection closed."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.send(b"BDAT 3\r\na\n.BDAT 3 LAST\r\n\nb\r")
        await client.reply()
        assert (await client.reply()).startswith(b"250 ")
    assert edge.intake.taken[0].body == b"a\r\n.\r\nb "
    async with running_edge(tmp_path, bare_newline="reject") as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.send(b"BDAT 3\r\na\r\nBDAT 3 LAST\r\na\nbQUIT\r\n")
        assert (await client.reply()).startswith(b"250 ")
        assert (await client.rest()).startswith(b"521 5.5.2 ")
    assert edge.intake.taken == []
