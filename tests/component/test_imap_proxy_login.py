"""Logins through the proxy, with nodes that do what they should and nodes that do what they must not."""

import asyncio
from base64 import b64decode
from pathlib import Path

import pytest

from mailfront.base.secret import Secret
from mailfront.sessions.flow import Master
from mailfront.sessions.slowing import MOST_WAITING
from tests.support.edge import on_both_loops
from tests.support.imap_node import GREETING, ScriptedImapNode
from tests.support.session_front import login_settings, session_front


def sasl(line: bytes) -> list[bytes]:
    """The three parts of a PLAIN response in a line."""
    return b64decode(line.rpartition(b" ")[2]).split(b"\0")


@on_both_loops
async def test_what_follows_a_login_reaches_the_node_after_its_ok_and_not_before(tmp_path: Path) -> None:
    """Pipelined commands wait; the node gets our own login, never the client's bytes."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        node.hold = asyncio.Event()
        client = await front.connect()
        assert "LITERAL+" not in await client.line()  # nothing is known of the nodes yet
        client.send(b'a ID ("name" "x" "x-originating-ip" "10.9.9.9")\r\n')
        assert [await client.line(), await client.line()][1] == "a OK done"
        client.send(b'b LOGIN "ana" {6+}\r\nsecret\r\nc SELECT INBOX\r\nd NOOP\r\n')
        await front.until(lambda: len(node.lines) >= 2, "the login at the node")
        identification, login = node.lines
        assert b'"name" "x"' in identification
        assert b'"x-originating-ip" "127.0.0.1"' in identification
        assert b"10.9.9.9" not in identification
        assert sasl(login) == [b"", b"ana", b"secret"]
        node.hold.set()
        assert await client.line() == "b OK [CAPABILITY IMAP4rev1 IDLE MOVE] logged in"
        assert [await client.line(), await client.line()] == ["c OK select", "d OK noop"]
        assert node.lines[2:] == [b"c SELECT INBOX", b"d NOOP"]
        await client.close()
        await front.until(lambda: front.lines("session"), "its line")
        assert front.lines("session")[0]["end"] == "client"
        later = await front.connect()
        assert " LITERAL+ " in await later.line()  # the only node has it
        await later.close()


@pytest.mark.parametrize(
    ("script", "position"),
    [
        ({"greeting": b"* PREAUTH welcome, root\r\n"}, "node greeting"),
        ({"greeting": b"* BYE too many\r\n"}, "node greeting"),
        ({"greeting": b"+OK POP3 here\r\n"}, "node greeting"),
        ({"greeting": b"* OK\r\n", "capability": b"x OK\r\n"}, "node capability"),
        ({"login": b"x OK another tag\r\n"}, "node login"),
        ({"login": b"%t NO [REFERRAL imap://eve@evil.example/] there\r\n"}, "node login"),
        ({"login": b"* PREAUTH\r\n"}, "node login"),
        ({"login": b"%t NO [UNAVAILABLE] busy\r\n"}, "node login"),
        ({"login": b"%t NO [AUTHENTICATIONFAILED] who?\r\n"}, "node login"),
        ({"login": b"%t BAD what?\r\n"}, "node login"),
        ({"login": b"Y" * 9000}, "node login"),
    ],
)
async def test_a_nodes_trouble_is_temporary_and_says_where_it_was(
    tmp_path: Path, script: dict[str, bytes], position: str
) -> None:
    """UNAVAILABLE, never the node's text; the line names the position. The directory had accepted the password, so
    even the node's "wrong password" is not the user's fault."""
    async with await ScriptedImapNode.start(script) as node, session_front(tmp_path, {"store1": node.port}) as front:
        client = await front.connect()
        await client.line()
        assert await client.ask("a LOGIN ana secret") == "a NO [UNAVAILABLE] temporary trouble, try again later"
        assert [line["position"] for line in front.lines("login_failed")] == [position]
        assert await client.ask("b NOOP") == "b OK done"
        await client.close()
        await front.until(lambda: not node.open, "the end of the connection to the node")


async def test_directory_and_node_that_disagree_raise_an_alarm(tmp_path: Path) -> None:
    """An administrator has to make the account, or mend a password."""
    script = {"login": b"%t NO [AUTHENTICATIONFAILED] who?\r\n"}
    async with await ScriptedImapNode.start(script) as node, session_front(tmp_path, {"store1": node.port}) as front:
        client = await front.connect()
        await client.line()
        await client.ask("a LOGIN ana secret")
        assert front.nodes.alarms == ["login.refused_by.store1"]
        await client.close()


async def test_where_the_node_judges_its_no_is_the_users(tmp_path: Path) -> None:
    """auth = "node": wrong password is AUTHENTICATIONFAILED; a name that nobody has too, and no node is asked."""
    script = {"login": b"%t NO [AUTHENTICATIONFAILED] who?\r\n"}
    async with (
        await ScriptedImapNode.start(script) as node,
        session_front(tmp_path, {"store1": node.port}, login=login_settings(auth="node")) as front,
    ):
        client = await front.connect()
        await client.line()
        assert "AUTHENTICATIONFAILED" in await client.ask("a LOGIN nobody secret")
        assert node.connections_count == 0
        assert "AUTHENTICATIONFAILED" in await client.ask("b LOGIN ana wrong")
        assert node.connections_count == 1
        assert front.nodes.alarms == []
        await client.close()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("LOGIN ana wrong", "AUTHENTICATIONFAILED"),
        ('LOGIN ana ""', "AUTHENTICATIONFAILED"),
        ("LOGIN nobody secret", "AUTHENTICATIONFAILED"),
        ("LOGIN ana*mailfront secret", "AUTHENTICATIONFAILED"),
        ("LOGIN sue secret", "CONTACTADMIN"),
        ("LOGIN handoff secret", "CONTACTADMIN"),
        ("AUTHENTICATE PLAIN YmVuAGFuYQBzZWNyZXQ=", "AUTHENTICATIONFAILED"),  # ana wants to be ben
    ],
)
async def test_who_may_not_log_in_never_reaches_a_node(tmp_path: Path, command: str, code: str) -> None:
    """Wrong, empty, unknown, suspended, the handoff account, somebody for somebody else."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        client = await front.connect()
        await client.line()
        assert f"[{code}]" in await client.ask(f"a {command}")
        assert node.connections_count == 0
        await client.close()


async def test_a_directory_that_cannot_answer_is_never_a_wrong_password(tmp_path: Path) -> None:
    """UNAVAILABLE, and an alarm."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        front.accounts.is_away = True
        client = await front.connect()
        await client.line()
        assert "[UNAVAILABLE]" in await client.ask("a LOGIN ana secret")
        assert front.nodes.alarms == ["directory.unreachable"]
        await client.close()


async def test_the_master_user_logs_in_for_the_user(tmp_path: Path) -> None:
    """By SASL authorization identity; the user's password does not leave us."""
    master = Master("mailfront", Secret(b"master"))
    async with (
        await ScriptedImapNode.start() as node,
        session_front(tmp_path, {"store1": node.port}, master=master) as front,
    ):
        client = await front.logged_in()
        assert sasl(node.lines[1]) == [b"ana", b"mailfront", b"master"]
        await client.close()


async def test_names_are_found_whatever_their_case_and_by_address(tmp_path: Path) -> None:
    """The node is told the directory's spelling: two spellings never are two mailboxes."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        for name in ("ANA", "Ana@Example.EDU"):
            client = await front.logged_in(name)
            await client.close()
        logins = [line for line in node.lines if line.startswith(b"l ")]
        assert [sasl(line)[1] for line in logins] == [b"ana", b"ana"]


@on_both_loops
async def test_failed_logins_per_connection_are_limited(tmp_path: Path) -> None:
    """After the last attempt the connection ends with BYE."""
    login = login_settings(attempts=2)
    async with (
        await ScriptedImapNode.start() as node,
        session_front(tmp_path, {"store1": node.port}, login=login) as front,
    ):
        client = await front.connect()
        await client.line()
        client.send(b"a LOGIN ana x\r\nb LOGIN ana y\r\nc LOGIN ana secret\r\n")
        assert (await client.rest()).splitlines()[-1] == b"* BYE too many failed logins"
        await client.close()


async def test_guesses_side_by_side_are_turned_away(tmp_path: Path) -> None:
    """After many failures some logins of an address wait; further ones are told to try later, and no password of
    theirs is looked at."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        for _ in range(40):
            front.listener.slowing.failed("127.0.0.1", "nobody")
        clients = [await front.connect() for _ in range(MOST_WAITING + 2)]
        for client in clients:
            await client.line()
        for client in clients[:MOST_WAITING]:
            client.send(b"a LOGIN ana secret\r\n")
        await front.until(
            lambda: sum(each._login is not None for each in front.listener.waiting) == MOST_WAITING, "logins that wait"
        )
        for client in clients[MOST_WAITING:]:
            assert (await client.ask("a LOGIN ana secret")).startswith("a NO [LIMIT] ")
        assert [line["result"] for line in front.lines("login_failed")] == ["too_many"] * 2
        assert node.connections_count == 0
        for client in clients:
            await client.close()


async def test_who_does_not_log_in_in_time_is_let_go(tmp_path: Path) -> None:
    """BYE, and a line that says so."""
    login = login_settings(timeout=0.05)
    async with (
        await ScriptedImapNode.start() as node,
        session_front(tmp_path, {"store1": node.port}, login=login) as front,
    ):
        client = await front.connect()
        assert (await client.rest()).splitlines()[-1].startswith(b"* BYE timeout")
        await front.until(lambda: front.lines("session"), "its line")
        assert front.lines("session")[0]["end"] == "timeout"
        await client.close()


async def test_too_many_connections_are_refused_in_words(tmp_path: Path) -> None:
    """BYE in place of the greeting; the place is free again when one ends."""
    async with (
        await ScriptedImapNode.start() as node,
        session_front(tmp_path, {"store1": node.port}, sessions_per_ip=1) as front,
    ):
        first = await front.logged_in()
        second = await front.connect()
        assert (await second.line()).startswith("* BYE [UNAVAILABLE]")
        await first.close()
        await front.until(lambda: not len(front.table), "the end of the first")
        third = await front.logged_in()
        await second.close()
        await third.close()


@on_both_loops
async def test_a_client_that_leaves_in_its_login_takes_the_nodes_connection_with_it(tmp_path: Path) -> None:
    """Nothing is left open, nothing is logged in."""
    async with (
        await ScriptedImapNode.start({"login": None}) as node,
        session_front(tmp_path, {"store1": node.port}) as front,
    ):
        client = await front.connect()
        await client.line()
        client.send(b"a LOGIN ana secret\r\n")
        await front.until(lambda: len(node.lines) >= 2, "the login at the node")
        client.writer.transport.abort()
        await front.until(lambda: not node.open, "the end of the node's connection")
        await front.until(lambda: front.lines("session"), "its line")
        assert front.lines("session")[0]["position"] == "node login"


@on_both_loops
async def test_a_client_may_send_all_and_close_its_side(tmp_path: Path) -> None:
    """A script that pipes its commands in gets every answer."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        client = await front.connect()
        client.send(b"a LOGIN ana secret\r\nb NOOP\r\nc LOGOUT\r\n")
        client.writer.write_eof()
        assert (await client.rest()).splitlines()[2:] == [b"b OK noop", b"* BYE", b"c OK bye"]
        await client.close()


@pytest.mark.parametrize("greeting", [GREETING])
async def test_a_node_that_does_not_like_our_id_still_logs_people_in(tmp_path: Path, greeting: bytes) -> None:
    """ID is a courtesy."""
    script = {"greeting": greeting, "id": b"%t BAD no\r\n"}
    async with await ScriptedImapNode.start(script) as node, session_front(tmp_path, {"store1": node.port}) as front:
        client = await front.logged_in()
        await client.close()
