"""Filters before the greeting: what a refused client hears, and what becomes of findings about one that may stay."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mailfront.filters.chain import Chain
from mailfront.filters.contract import Answer, Connection, Filter, Stage
from mailfront.filters.settings import FilterSettings
from mailfront.filters.step import Step
from mailfront.intake.filtering import Screening
from mailfront.mail.verdict import CONTINUE, Verdict
from tests.support.edge import FakeIntake, connected, on_both_loops, running_edge


class AtConnect(Filter):
    """Answers as the test says, and notes who came."""

    def __init__(self, answer: Callable[[Connection], Answer]) -> None:
        self.answer = answer
        self.seen: list[str] = []

    def connect(self, connection: Connection) -> Answer:
        self.seen.append(connection.client.ip)
        return self.answer(connection)


def intake_with(answer: Callable[[Connection], Answer]) -> tuple[FakeIntake, AtConnect]:
    asked = AtConnect(answer)
    step = Step(0, FilterSettings(name="door", kind="test", on_error="accept"), frozenset({Stage.CONNECT}), asked)
    return FakeIntake(screening=Screening(Chain([step], {}), "mx.test")), asked


@on_both_loops
@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (Verdict.reject("you are listed", code=554), b"521 5.7.1 you are listed\r\n"),
        (Verdict.tempfail("come back", enhanced="4.7.0"), b"421 4.7.0 come back\r\n"),
    ],
)
async def test_a_refused_client_hears_one_line_instead_of_the_greeting(
    tmp_path: Path, verdict: Verdict, line: bytes
) -> None:
    """521 or 421, the codes that end a connection; nothing that it says is read, no transaction begins."""
    intake, _ = intake_with(lambda _: verdict)
    async with running_edge(tmp_path, intake=intake) as edge, connected(edge) as client:
        assert await client.reply() == line
        assert await client.rest() == b""
        event = await edge.ended()
    assert (event["end"], event["stage"], event["reply"]) == ("refused", "connect", line.decode().strip())
    assert intake.begun == 0
    assert edge.admission.open == {"127.0.0.1": 0}


@on_both_loops
async def test_a_client_that_is_known_to_be_unwanted_is_not_waited_for(tmp_path: Path) -> None:
    """The connection is over for us at once, whatever the client does; it still hears why when it reads at last."""
    intake, _ = intake_with(lambda _: Verdict.reject("you are listed"))
    async with running_edge(tmp_path, intake=intake) as edge:
        with socket.create_connection(("127.0.0.1", edge.port)) as client:
            client.settimeout(10.0)
            event = await edge.ended()
            assert edge.server.sessions_count == 0
            heard = await asyncio.to_thread(client.makefile("rb").read)
    assert heard == b"521 5.7.1 you are listed\r\n"
    assert (event["end"], event["rejected_count"]) == ("refused", 1)
    assert edge.admission.open == {"127.0.0.1": 0}


@on_both_loops
async def test_what_was_found_at_connect_goes_along_with_each_message(tmp_path: Path) -> None:
    """Every message of the connection knows it; the filter is asked once."""
    intake, asked = intake_with(lambda _: Verdict(score=3.5, reason="suspicious"))
    async with running_edge(tmp_path, intake=intake) as edge, connected(edge) as client:
        await client.hello()
        for _ in range(2):
            await client.envelope()
            await client.ask("DATA")
            assert (await client.ask("x\r\n.")).startswith(b"250 ")
    assert asked.seen == ["127.0.0.1"]
    assert [[each.verdict.score for each in earlier] for earlier in intake.earlier] == [[3.5], [3.5]]


async def _talks_early(connection: Connection) -> Verdict:
    assert connection.early is not None
    return Verdict.reject("wait for the greeting") if await connection.early.talks_within(5.0) else CONTINUE


@on_both_loops
async def test_a_filter_can_see_a_client_talk_before_its_greeting(tmp_path: Path) -> None:
    """It hears of it at once and may refuse; what the client said is not taken for commands."""
    intake, _ = intake_with(_talks_early)
    async with running_edge(tmp_path, intake=intake) as edge, connected(edge) as client:
        await client.send(b"EHLO bot\r\nMAIL FROM:<>\r\n")
        assert await client.reply() == b"521 5.7.1 wait for the greeting\r\n"
        assert await client.rest() == b""
    assert intake.begun == 0


@on_both_loops
async def test_a_client_that_leaves_before_its_greeting_has_not_talked(tmp_path: Path) -> None:
    """Nobody waits the whole time for somebody who is gone."""
    intake, _ = intake_with(_talks_early)
    async with running_edge(tmp_path, intake=intake) as edge:
        socket.create_connection(("127.0.0.1", edge.port)).close()
        event = await edge.ended()
    assert event["end"] == "lost"


@on_both_loops
async def test_a_trusted_peer_is_asked_about_the_client_that_it_names(tmp_path: Path) -> None:
    """Not about itself; a refusal answers its XCLIENT."""
    answers = {"192.0.2.66": Verdict.reject("you are listed")}
    intake, asked = intake_with(lambda connection: answers.get(connection.client.ip, CONTINUE))
    async with (
        running_edge(tmp_path, intake=intake, xclient=["127.0.0.0/8"]) as edge,
        connected(edge) as client,
    ):
        await client.hello()
        assert (await client.ask("XCLIENT ADDR=192.0.2.1")).startswith(b"220 ")
        await client.ask("EHLO client.test")
        assert (await client.ask("XCLIENT ADDR=192.0.2.66")).startswith(b"521 5.7.1 you are listed")
        assert await client.rest() == b""
    assert asked.seen == ["192.0.2.1", "192.0.2.66"]
