"""Scanners that answer nonsense, too much, too little or nothing: `on_error` applies, and nobody is believed."""

import asyncio
from collections.abc import Mapping

import pytest

from mailfront.mail.verdict import Action
from tests.support.filters import finding_of, view

DATA = b"Subject: x\r\n\r\nhello\r\n"
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
CLEAN = b'{"action": "no action", "score": 0, "required_score": 15}'


async def found(kind: str, answer: bytes) -> tuple[Action, str]:
    """What a filter finds whose scanner answers exactly this, whatever it is sent, and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(10)
            writer.write(answer)
            writer.write_eof()
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    address: Mapping[str, str] = {"url": f"http://127.0.0.1:{port}"} if kind == "rspamd" else {
        "address": f"127.0.0.1:{port}"
    }  # fmt: skip
    async with server:
        finding = await finding_of(view(DATA), kind=kind, timeout="20s", on_error="tempfail", settings=address)
    return finding.verdict.action, finding.error


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Length: 500\r\n\r\n" + CLEAN,
        OK + b"\r\n" + CLEAN + b"x",
        OK + b"\r\n" + b" " * 3_000_000 + CLEAN,
        OK + b"Content-Encoding: gzip\r\n\r\n" + CLEAN[:-1],
        OK + b"\r\n[]",
        OK + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n" + CLEAN,
    ],
)
async def test_a_broken_rspamd_is_not_believed(answer: bytes) -> None:
    """No answer, no HTTP, an error, a redirection, less or more than announced, another shape: all are failures."""
    action, error = await found("rspamd", answer)
    assert action is Action.TEMPFAIL
    assert error


async def test_a_sound_answer_from_the_same_server_is_believed() -> None:
    """So the failures above are those of the answers."""
    assert await found("rspamd", OK + b"\r\n" + CLEAN) == (Action.CONTINUE, "")


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("clamd", b""),
        ("clamd", b"x" * 300_000),
        ("clamd", b"UNKNOWN COMMAND\0"),
        ("spamd", b""),
        ("spamd", b"SPAMD/1.1 0 EX_OK\r\n\r\n"),
        ("spamd", b"x" * 300_000),
        ("milter", b""),
        ("milter", b"\xff\xff\xff\xff"),
        ("milter", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ],
)
async def test_other_broken_scanners_are_not_believed_either(kind: str, answer: bytes) -> None:
    """An answer that is none never means clean."""
    action, error = await found(kind, answer)
    assert action is Action.TEMPFAIL
    assert error
