"""The plain dialogue over real sockets: the commands, the envelope, DATA, and what becomes of a faulty client."""

import asyncio
import socket
from pathlib import Path

import pytest

from mailfront.mail.reply import reply
from tests.support.edge import FakeIntake, connected, limits, on_both_loops, running_edge


@on_both_loops
async def test_a_message_is_taken(tmp_path: Path) -> None:
    """EHLO, MAIL, RCPT, DATA and QUIT hand one message to intake and answer with its id."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        assert (await client.reply()) == b"220 mx.test ESMTP\r\n"
        hello = await client.ask("EHLO client.test")
        assert hello.startswith(b"250-mx.test\r\n")
        for keyword in (b"PIPELINING", b"SIZE 52428800", b"8BITMIME", b"SMTPUTF8", b"CHUNKING", b"ENHANCEDSTATUSCODES"):
            assert keyword in hello
        for keyword in (b"AUTH", b"STARTTLS", b"DSN", b"XCLIENT", b"XFORWARD", b"HELP", b"BINARYMIME"):
            assert keyword not in hello
        await client.envelope()
        assert (await client.ask("DATA")).startswith(b"354 ")
        assert (await client.ask("Subject: x\r\n\r\n..dot\r\nend\r\n.")).startswith(b"250 2.0.0 ")
        assert (await client.ask("QUIT")).startswith(b"221 2.0.0 ")
        assert await client.rest() == b""
        event = await edge.ended()
    (taken,) = edge.intake.taken
    assert taken.body == b"Subject: x\r\n\r\n.dot\r\nend\r\n"
    assert taken.protocol == "ESMTP"
    assert str(taken.recipients[0][0]) == "b@mx.test"
    assert taken.request.client.ip == "127.0.0.1"
    assert taken.request.client.helo == "client.test"
    assert event["end"] == "quit"
    assert event["stage"] == "idle"
    assert event["messages_count"] == 1
    assert event["commands_count"] == 5
    assert edge.admission.open == {"127.0.0.1": 0}


@on_both_loops
async def test_several_messages_on_one_connection(tmp_path: Path) -> None:
    """Nothing of one message reaches the next."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello("HELO")
        for number in range(3):
            await client.envelope(f"u{number}@mx.test")
            await client.ask("DATA")
            assert (await client.ask(f"{number}\r\n.")).startswith(b"250 ")
    assert [taken.body for taken in edge.intake.taken] == [b"0\r\n", b"1\r\n", b"2\r\n"]
    assert [len(taken.recipients) for taken in edge.intake.taken] == [1, 1, 1]
    assert edge.intake.taken[0].protocol == "SMTP"


@on_both_loops
async def test_the_null_sender_is_none(tmp_path: Path) -> None:
    """`MAIL FROM:<>` is the null reverse-path, not the text `<>`."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope(sender="")
        await client.ask("DATA")
        await client.ask("x\r\n.")
    assert edge.intake.taken[0].request.reverse_path is None


@on_both_loops
async def test_a_pipelined_batch_is_answered_in_one_segment(tmp_path: Path) -> None:
    """All replies to commands that came together leave together."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.send(b"MAIL FROM:<a@b.c>\r\nRCPT TO:<no@mx.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n")
        segment = await client.reader.read(65536)
        assert [line[:3] for line in segment.splitlines()] == [b"250", b"550", b"250", b"354"]
        await client.send(b"x\r\n.\r\nMAIL FROM:<a@b.c>\r\nRSET\r\nQUIT\r\n")
        segment = await client.reader.read(65536)
        assert [line[:3] for line in segment.splitlines()] == [b"250", b"250", b"250", b"221"]
    assert len(edge.intake.taken) == 1
    assert edge.intake.abandoned == 1


@on_both_loops
async def test_commands_out_of_order_are_refused(tmp_path: Path) -> None:
    """503 for each command that comes too early or twice; the dialogue goes on."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.reply()
        assert (await client.ask("MAIL FROM:<a@b.c>")).startswith(b"503 5.5.1")
        await client.ask("EHLO x")
        for early in ("RCPT TO:<b@mx.test>", "DATA", "BDAT 0 LAST"):
            assert (await client.ask(early)).startswith(b"503 5.5.1")
        assert (await client.ask("MAIL FROM:<a@b.c>")).startswith(b"250 2.1.0")
        assert (await client.ask("MAIL FROM:<a@b.c>")).startswith(b"503 5.5.1")
        assert (await client.ask("RCPT TO:<no@mx.test>")).startswith(b"550 5.1.1")
        assert (await client.ask("DATA")).startswith(b"503 5.5.1")
        assert (await client.ask("EHLO y")).startswith(b"250-")
        assert (await client.ask("RCPT TO:<b@mx.test>")).startswith(b"503 5.5.1")
    assert edge.intake.abandoned == 1


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("NOOP", b"250 2.0.0"),
        ("RSET", b"250 2.0.0"),
        ("VRFY ana", b"252 2.5.2"),
        ("VRFY", b"501 5.5.4"),
        ("VRFY <", b"252 2.5.2"),
        ("EXPN list", b"502 5.5.1"),
        ("HELP", b"214 2.0.0"),
        ("AUTH PLAIN AGEAYg==", b"502 5.5.1"),
        ("STARTTLS", b"502 5.5.1"),
        ("XCLIENT ADDR=1.2.3.4", b"550 5.7.1"),
        ("XFORWARD ADDR=1.2.3.4", b"550 5.7.1"),
        ("LHLO x", b"500 5.5.2"),
        ("EHLO", b"501 5.5.4"),
        ("MAIL FROM:<", b"501 5.5.4"),
        ("MAIL FROM:<u@h", b"501 5.5.4"),
        ("MAIL FROM:<a b@c>", b"553 5.1.7"),
        ("MAIL FROM:<a@b.c> SIZE=x", b"501 5.5.4"),
        ("MAIL FROM:<a@b.c> FOO=1", b"555 5.5.4"),
        ("MAIL FROM:<a@b.c> BODY=BINARYMIME", b"501 5.5.4"),
        ("MAIL FROM:<a@b.c> RET=FULL", b"555 5.5.4"),
        ("MAIL FROM:<\u00e4@b.c>", b"553 5.6.7"),
        ("MAIL FROM:<a@b.c> SIZE=99999999999", b"552 5.3.4"),
        ("", b"500 5.5.2"),
        ("\u00e4", b"500 5.5.2"),
        ("FOO", b"500 5.5.2"),
    ],
)
@on_both_loops
async def test_one_command(tmp_path: Path, command: str, answer: bytes) -> None:
    """Each command has its reply, with an enhanced code, and the dialogue goes on."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        assert (await client.ask(command)).startswith(answer)
        assert (await client.ask("NOOP")).startswith(b"250 ")


@on_both_loops
async def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    """An address that is not UTF-8 is a syntax error of the client, not a fault of ours."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        assert (await client.ask(b"MAIL FROM:<a\xff@b.c> SMTPUTF8")).startswith(b"501 5.5.2")
        assert (await client.ask(b"MAIL FROM:<a@b.c> FOO=\xff")).startswith(b"501 5.5.2")


@on_both_loops
async def test_smtputf8_names_the_protocol(tmp_path: Path) -> None:
    """With SMTPUTF8 an address may be UTF-8, and the protocol is called UTF8SMTP."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        assert (await client.ask("MAIL FROM:<\u00e4@b.c> SMTPUTF8 BODY=8BITMIME SIZE=9")).startswith(b"250")
        assert (await client.ask("RCPT TO:<\u00f6@mx.test>")).startswith(b"250")
        await client.ask("DATA")
        await client.ask("x\r\n.")
    (taken,) = edge.intake.taken
    assert taken.protocol == "UTF8SMTP"
    assert str(taken.request.reverse_path) == "\u00e4@b.c"
    assert taken.request.size_bytes == 9


@on_both_loops
async def test_our_own_fault_is_451_without_python_text(tmp_path: Path) -> None:
    """An exception in a command is answered 451 with an id; the client learns nothing of the cause and may go on."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.ask("MAIL FROM:<a@b.c>")
        answer = await client.ask("RCPT TO:<crash@mx.test>")
        assert answer.startswith(b"451 4.3.0 ")
        assert b"secret" not in answer
        assert b"Error" not in answer
        assert (await client.ask("RCPT TO:<b@mx.test>")).startswith(b"250")


@on_both_loops
async def test_a_commit_that_raises_is_451(tmp_path: Path) -> None:
    """A fault after end of data is a temporary answer, and the connection lives."""

    def fail() -> tuple[object, ...]:
        raise RuntimeError("secret internals")

    async with running_edge(tmp_path, intake=FakeIntake(answer=fail)) as edge, connected(edge) as client:  # type: ignore[arg-type]
        await client.hello()
        await client.envelope()
        await client.ask("DATA")
        answer = await client.ask("x\r\n.")
        assert answer.startswith(b"451 4.3.0 ")
        assert b"secret" not in answer
        assert (await client.ask("NOOP")).startswith(b"250")


@on_both_loops
async def test_a_refusal_at_mail(tmp_path: Path) -> None:
    """What intake says at MAIL goes to the client, and there is no message then."""
    intake = FakeIntake(at_mail=reply(451, "4.7.1", "not now"))
    async with running_edge(tmp_path, intake=intake) as edge, connected(edge) as client:
        await client.hello()
        assert await client.ask("MAIL FROM:<a@b.c> SIZE=1000") == b"451 4.7.1 not now\r\n"
        assert (await client.ask("RCPT TO:<b@mx.test>")).startswith(b"503")
        assert edge.budget.memory_used_bytes == 0


@on_both_loops
async def test_a_line_of_a_megabyte_passes(tmp_path: Path) -> None:
    """Long lines are mail too."""
    line = b"x" * 1_000_000
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask(line + b"\r\n.")).startswith(b"250")
    assert edge.intake.taken[0].body == line + b"\r\n"
    assert edge.budget.disk_used_bytes == edge.budget.memory_used_bytes == 0


@on_both_loops
async def test_a_client_that_half_closes_after_the_dot_gets_its_reply(tmp_path: Path) -> None:
    """Closing one direction after the message does not stop the commit, nor its answer."""
    release = asyncio.Event()
    intake = FakeIntake(before_reply=release.wait)
    async with running_edge(tmp_path, intake=intake) as edge, connected(edge) as client:
        await client.hello()
        await client.envelope()
        await client.ask("DATA")
        await client.send(b"x\r\n.\r\n")
        client.writer.write_eof()
        await asyncio.sleep(0.05)
        release.set()
        assert (await client.rest()).startswith(b"250 2.0.0 ")
        event = await edge.ended()
    assert len(edge.intake.taken) == 1
    assert event["end"] == "lost"


@on_both_loops
async def test_a_client_that_vanishes_after_the_dot_stops_nothing(tmp_path: Path) -> None:
    """A connection that is reset during the commit does not cancel the commit."""
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await release.wait()

    async with running_edge(tmp_path, intake=FakeIntake(before_reply=wait)) as edge:
        async with connected(edge) as client:
            await client.hello()
            await client.envelope()
            await client.ask("DATA")
            await client.send(b"x\r\n.\r\nQUIT\r\n")
            await begun.wait()
            client.writer.transport.abort()
        await asyncio.sleep(0.05)
        assert edge.server.sessions_count == 1
        release.set()
        event = await edge.ended()
    assert len(edge.intake.taken) == 1
    assert edge.intake.abandoned == 0
    assert event["messages_count"] == 1


@on_both_loops
async def test_everything_sent_at_once_and_half_closed(tmp_path: Path) -> None:
    """A client that sends its whole dialogue and closes its side is served to the end."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.send(b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
        client.writer.write_eof()
        answers = await client.rest()
        event = await edge.ended()
    assert answers.splitlines()[-1].startswith(b"221")
    assert len(edge.intake.taken) == 1
    assert event["end"] == "quit"


@pytest.mark.parametrize("sent", [b"x", b"x\r\n", b"x\r\n.", b"x\r\n.\r", b"x\r\n.\n"])
@on_both_loops
async def test_a_message_without_its_end_is_no_message(tmp_path: Path, sent: bytes) -> None:
    """A client that goes in the middle of DATA has sent nothing, however near it was to the end."""
    async with running_edge(tmp_path) as edge:
        async with connected(edge) as client:
            await client.hello()
            await client.envelope()
            await client.ask("DATA")
            await client.send(sent)
        event = await edge.ended()
    assert edge.intake.taken == []
    assert edge.intake.abandoned == 1
    assert (event["end"], event["stage"]) == ("lost", "data")
    assert edge.budget.memory_used_bytes == 0


@on_both_loops
async def test_a_bare_lf_ends_a_command_or_the_dialogue(tmp_path: Path) -> None:
    """As configured: mended, or refused and the connection closed."""
    async with running_edge(tmp_path) as edge, connected(edge) as client:
        await client.hello()
        await client.send(b"NOOP\nNOOP\r\n")
        assert (await client.reply()).startswith(b"250")
        assert (await client.reply()).startswith(b"250")
    async with running_edge(tmp_path, bare_newline="reject") as edge, connected(edge) as client:
        await client.hello()
        await client.send(b"NOOP\n")
        assert (await client.rest()).startswith(b"521 5.5.2 ")


@on_both_loops
async def test_ipv6_and_unix_sockets(tmp_path: Path) -> None:
    """Both are listeners like any other; a client on a UNIX socket has no address."""
    listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    async with running_edge(tmp_path, listening=listening) as edge, connected(edge) as client:
        await client.hello()
        await client.ask("QUIT")
        assert (await edge.ended())["client_ip"] == "::1"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "lmtp"))
    async with running_edge(tmp_path, listening=listening, role="lmtp") as edge, connected(edge) as client:
        await client.hello("LHLO")
        await client.envelope()
        await client.ask("DATA")
        assert (await client.ask("x\r\n.")).startswith(b"250")
        await client.ask("QUIT")
        assert (await edge.ended())["client_ip"] == ""
    assert edge.intake.taken[0].protocol == "LMTP"


@on_both_loops
async def test_lmtp_answers_each_accepted_recipient(tmp_path: Path) -> None:
    """One reply per accepted RCPT in order, none for a refused one; and 503 if there was none."""
    answers = (reply(250, "2.0.0", "one"), reply(452, "4.2.2", "two"))
    intake = FakeIntake(answer=lambda: answers)
    async with running_edge(tmp_path, role="lmtp", intake=intake) as edge, connected(edge) as client:
        assert (await client.reply()).startswith(b"220 mx.test LMTP")
        assert (await client.ask("EHLO x")).startswith(b"500 ")
        await client.ask("LHLO x")
        await client.ask("MAIL FROM:<a@b.c>")
        assert (await client.ask("RCPT TO:<no@mx.test>")).startswith(b"550")
        assert (await client.ask("DATA")).startswith(b"503 ")
        await client.ask("RCPT TO:<b@mx.test>")
        await client.ask("RCPT TO:<c@mx.test>")
        await client.ask("DATA")
        assert await client.ask("x\r\n.") == b"250 2.0.0 one\r\n"
        assert await client.reply() == b"452 4.2.2 two\r\n"
        await client.envelope("b@mx.test", "c@mx.test")
        await client.send(b"BDAT 3 LAST\r\nx\r\n")
        assert await client.reply() == b"250 2.0.0 one\r\n"
        assert await client.reply() == b"452 4.2.2 two\r\n"
        assert (await client.ask("NOOP")).startswith(b"250 ")
    assert all(taken.per_recipient for taken in edge.intake.taken)


@on_both_loops
async def test_a_wrong_number_of_lmtp_replies_is_mended(tmp_path: Path) -> None:
    """Whatever intake does, the client reads one reply per accepted RCPT."""
    intake = FakeIntake(answer=lambda: (reply(250, "2.0.0", "one"),))
    async with running_edge(tmp_path, role="lmtp", intake=intake) as edge, connected(edge) as client:
        await client.hello("LHLO")
        await client.envelope("b@mx.test", "c@mx.test")
        await client.ask("DATA")
        assert (await client.ask("x\r\n.")).startswith(b"451 4.3.0 ")
        assert (await client.reply()).startswith(b"451 4.3.0 ")
        assert (await client.ask("NOOP")).startswith(b"250 ")


@on_both_loops
async def test_too_large_over_lmtp_is_said_to_each(tmp_path: Path) -> None:
    """A refusal after end of data is also one reply per accepted RCPT."""
    async with (
        running_edge(tmp_path, role="lmtp", limits=limits(message_size=65536)) as edge,
        connected(edge) as client,
    ):
        await client.hello("LHLO")
        await client.envelope("b@mx.test", "c@mx.test")
        await client.ask("DATA")
        assert (await client.ask(b"x" * 70000 + b"\r\n.")).startswith(b"552 5.3.4 ")
        assert (await client.reply()).startswith(b"552 5.3.4 ")
        assert (await client.ask("NOOP")).startswith(b"250 ")
    assert edge.intake.taken == []
