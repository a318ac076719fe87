"""SMTP smuggling over a socket: one message in is one message on, whatever stands in it."""

from pathlib import Path

import pytest

from tests.support.edge import connected, on_both_loops, running_edge

FAKE_ENDS = [
    b"\n.\n",  # CVE-2023-51764 (Postfix), CVE-2023-51766 (Exim), CVE-2024-27305 (aiosmtpd)
    b"\n.\r\n",  # CVE-2023-51764 (Postfix), CVE-2023-51765 (Sendmail)
    b"\r\n.\n",  # CVE-2023-51764 (Postfix)
    b"\r\n.\r",
    b"\r.\r",
    b"\r.\r\n",
    b"\n.\r",
    b"\r\r\n.\r\r\n",
    b"\r\n\x00.\r\n",
    b"\r\n. \r\n",
    b"\r\n.\r\x00\n",
]
FORGED = b"MAIL FROM:<admin@victim.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\nforged\r\n"


@on_both_loops
@pytest.mark.parametrize("fake_end", FAKE_ENDS)
@pytest.mark.parametrize("step", [1, 3, 10_000])
async def test_a_fake_end_smuggles_nothing(tmp_path: Path, fake_end: bytes, step: int) -> None:
    """The text behind a fake end of data stays text, and nothing leaves with a bare CR or LF."""
    wire = b"lure" + fake_end + FORGED + b".\r\nNOOP\r\n"
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.ask("DATA")
        for at in range(0, len(wire), step):
            await client.send(wire[at : at + step])
        assert (await client.reply()).startswith(b"250 2.0.0 ")
        assert await client.reply() == b"250 2.0.0 OK\r\n"
    (taken,) = edge.intake.taken
    assert FORGED in taken.body
    assert b"\r\n.\r\n" not in taken.body
    assert taken.body.count(b"\r") == taken.body.count(b"\n") == taken.body.count(b"\r\n")


@pytest.mark.parametrize("fake_end", FAKE_ENDS[:7])
async def test_a_bare_newline_can_be_refused(tmp_path: Path, fake_end: bytes) -> None:
    """With `bare_newline = "reject"` such a message is refused and the connection closed after its real end."""
    async with running_edge(tmp_path, bare_newline="reject") as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.ask("DATA")
        await client.send(b"lure" + fake_end + FORGED + b".\r\nNOOP\r\n")
        assert await client.rest() == b"521 5.5.2 bare newline received, closing the connection\r\n"
        assert (await edge.ended())["reason"] == "bare_newline"
    assert edge.intake.taken == []
    assert edge.intake.abandoned == 1
