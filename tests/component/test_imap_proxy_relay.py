"""What happens around a session: TLS on both sides, who speaks for whom, backpressure, nodes that come and go."""

import asyncio
import resource
import socket
import ssl
from pathlib import Path

import pytest

from mailfront.net.settings import NodeTlsSettings, TlsSettings
from mailfront.net.tls import ServerTls, node_context
from tests.support.certificates import Authority, CertificateFiles
from tests.support.edge import on_both_loops
from tests.support.imap_node import ScriptedImapNode
from tests.support.session_front import Client, login_settings, session_front

BULK_BYTES = 40_000_000
ASKED_COUNT = 100_000
TAG = b"a" * 60
"""The answers to so many questions are more than the kernel holds between two sockets."""


def server_tls(files: CertificateFiles, **named: CertificateFiles) -> ServerTls:
    """One certificate for everybody, others by name."""
    certificates: list[dict[str, object]] = [{"certificate": str(files.certificate), "key": str(files.key)}]
    certificates += [
        {"names": [name.replace("_", ".")], "certificate": str(each.certificate), "key": str(each.key)}
        for name, each in named.items()
    ]
    return ServerTls(TlsSettings.model_validate({"certificate": certificates}))


def server_context(files: CertificateFiles) -> ssl.SSLContext:
    """What a node shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


# TLS with clients.


@on_both_loops
async def test_starttls_and_then_a_login(
    tmp_path: Path, authority: Authority, server_certificate: CertificateFiles
) -> None:
    """Before TLS no password is taken; afterwards it is, and the line names the cipher."""
    tls = server_tls(server_certificate)
    login = login_settings(plaintext="never")
    async with (
        await ScriptedImapNode.start() as node,
        session_front(tmp_path, {"store1": node.port}, tls=tls, listen={"tls": "starttls"}, login=login) as front,
    ):
        client = await front.connect()
        assert " LOGINDISABLED" in await client.line()
        assert "[PRIVACYREQUIRED]" in await client.ask("a LOGIN ana secret")
        assert await client.ask("b STARTTLS") == "b OK begin TLS"
        await client.start_tls(authority.client_context())
        assert " AUTH=PLAIN" in await client.ask("c CAPABILITY")
        assert (await client.line()).startswith("c OK")
        assert " OK " in await client.ask("d LOGIN ana secret")
        assert await client.ask("e NOOP") == "e OK noop"
        client.send(b"f LOGOUT\r\n")
        assert (await client.line(), await client.line()) == ("* BYE", "f OK bye")
        await front.until(lambda: front.lines("session"), "its line")
        assert front.lines("session")[0]["tls"].startswith("TLSv1.")
        await client.close()


async def test_a_byte_behind_starttls_ends_the_connection(tmp_path: Path, server_certificate: CertificateFiles) -> None:
    """It would have come before TLS and been obeyed after it."""
    tls = server_tls(server_certificate)
    async with (
        await ScriptedImapNode.start() as node,
        session_front(tmp_path, {"store1": node.port}, tls=tls, listen={"tls": "starttls"}) as front,
    ):
        client = await front.connect()
        client.send(b"a STARTTLS\r\nb LOGIN ana secret\r\n")
        assert (await client.rest()).splitlines()[1:] == [b"* BYE nothing may follow STARTTLS before TLS"]
        assert node.connections_count == 0
        await client.close()


async def test_a_proxy_header_comes_before_implicit_tls_and_is_believed(
    tmp_path: Path, authority: Authority, server_certificate: CertificateFiles
) -> None:
    """The node is told the address that the load balancer named; the certificate follows the name asked for."""
    named = authority.issue("imap.example.edu", file_name="named")
    tls = server_tls(server_certificate, imap_example_edu=named)
    listen = {"tls": "implicit", "proxy_protocol": ["127.0.0.1"]}
    async with (
        await ScriptedImapNode.start() as node,
        session_front(tmp_path, {"store1": node.port}, tls=tls, listen=listen) as front,
    ):
        loop = asyncio.get_running_loop()
        connected = socket.socket()
        connected.setblocking(False)
        await loop.sock_connect(connected, ("127.0.0.1", front.port))
        await loop.sock_sendall(connected, b"PROXY TCP4 192.0.2.77 192.0.2.1 5000 993\r\n")
        streams = await asyncio.open_connection(
            sock=connected, ssl=authority.client_context(), server_hostname="imap.example.edu"
        )
        client = Client(*streams)
        await client.line()
        assert " OK " in await client.ask("a LOGIN ana secret")
        assert b'"x-originating-ip" "192.0.2.77"' in node.lines[0]
        assert b'"x-client-transport" "TLS"' in node.lines[0]
        await client.close()


async def test_without_its_proxy_header_a_connection_is_closed(tmp_path: Path) -> None:
    """Nothing is guessed."""
    async with (
        await ScriptedImapNode.start() as node,
        session_front(tmp_path, {"store1": node.port}, listen={"proxy_protocol": ["127.0.0.1"]}) as front,
    ):
        client = await front.connect()
        client.send(b"a LOGIN ana secret\r\n")
        try:
            assert await client.rest() == b""
        except ConnectionResetError:
            pass
        assert node.connections_count == 0
        await client.close()


# TLS with nodes.


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_nodes_certificate_is_checked_before_a_password_goes_there(
    tmp_path: Path, authority: Authority, server_certificate: CertificateFiles, trusted: bool
) -> None:
    """STARTTLS with the node; one whose certificate is not ours gets nothing but STARTTLS."""
    known_by = authority if trusted else Authority(tmp_path, "other")
    context = node_context(NodeTlsSettings(ca=known_by.ca_file))
    async with (
        await ScriptedImapNode.start(tls=server_context(server_certificate)) as node,
        session_front(tmp_path, {"store1": node.port}, node_tls="starttls", node_context=context) as front,
    ):
        client = await front.connect()
        await client.line()
        answer = await client.ask("a LOGIN ana secret")
        if trusted:
            assert " OK " in answer
        else:
            assert "[UNAVAILABLE]" in answer
            assert node.lines == [b"s STARTTLS"]
            assert "certificate is not accepted" in front.lines("login_failed")[0]["reason"]
            assert front.lines("login_failed")[0]["position"] == "node tls"
        await client.close()


async def test_bytes_of_a_node_between_starttls_and_tls_end_the_login(
    tmp_path: Path, authority: Authority, server_certificate: CertificateFiles
) -> None:
    """Somebody in between could answer in the node's name."""
    context = node_context(NodeTlsSettings(ca=authority.ca_file))
    script = {"starttls": b"%t OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n"}
    async with (
        await ScriptedImapNode.start(script) as node,
        session_front(tmp_path, {"store1": node.port}, node_tls="starttls", node_context=context) as front,
    ):
        client = await front.connect()
        await client.line()
        assert "[UNAVAILABLE]" in await client.ask("a LOGIN ana secret")
        assert node.lines == [b"s STARTTLS"]
        await client.close()


# The relay.


@on_both_loops
async def test_a_client_that_does_not_read_stops_the_node_and_gets_every_byte(tmp_path: Path) -> None:
    """Backpressure: what waits is in the kernel and in bounded buffers, not with us."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        client = await front.logged_in()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        (writer,) = node.open
        for _ in range(BULK_BYTES // 1_000_000):
            writer.write(b"x" * 1_000_000)
        seen: list[int] = []

        def stands_still() -> bool:
            seen.append(writer.transport.get_write_buffer_size())
            return len(seen) > 50 and len(set(seen[-50:])) == 1

        await front.until(stands_still, "the node to be stopped")
        assert seen[-1] > BULK_BYTES // 2
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            got = await client.reader.readexactly(BULK_BYTES)
        assert got == b"x" * BULK_BYTES
        await client.close()


async def test_the_other_direction_is_stopped_too(tmp_path: Path) -> None:
    """A node that does not read stops the client; nothing is lost."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        client = await front.logged_in()
        (session,) = front.table
        line = b"b " + b"x" * 998 + b"\r\n"
        before = len(node.lines)
        for _ in range(2000):
            client.send(line)
        await front.until(lambda: session.from_client_bytes == 2000 * len(line), "all bytes")
        await front.until(lambda: len(node.lines) - before == 2000, "all lines")
        await client.close()


@on_both_loops
async def test_before_its_login_a_client_that_does_not_read_is_read_no_more(tmp_path: Path) -> None:
    """Whoever asks and asks and takes no answer fills no memory here; once it reads, every question is answered."""
    async with session_front(tmp_path, {"store1": 9}) as front:
        client = await front.connect()
        await client.line()
        client.send((TAG + b" CAPABILITY\r\n") * ASKED_COUNT + b"b LOGOUT\r\n")
        (connection,) = front.listener.waiting
        transport = connection._transport
        await front.until(lambda: not transport.is_reading(), "the end of reading")
        assert transport.get_write_buffer_size() < 1_000_000
        assert (await client.rest()).count(TAG + b" OK done\r\n") == ASKED_COUNT
        await client.close()


async def test_a_client_that_reads_nothing_does_not_outstay_its_time(tmp_path: Path) -> None:
    """Its connection is cut when the time for a login is over, although not all is sent."""
    async with session_front(tmp_path, {"store1": 9}) as front:
        client = await front.connect()
        await client.line()
        client.send((TAG + b" CAPABILITY\r\n") * ASKED_COUNT)
        (connection,) = front.listener.waiting
        await front.until(lambda: not connection._transport.is_reading(), "the end of reading")
        for later_s in (100.0, 110.0):
            connection.check_time(front.listener.loop.time() + later_s)
        await front.until(lambda: front.lines("session"), "the end of the connection")
        assert front.lines("session")[0]["end"] == "timeout"
        await client.close()


# Nodes that come and go.


@on_both_loops
async def test_a_login_waits_for_a_home_that_comes_back(tmp_path: Path) -> None:
    """Held, then logged in; the other node is never asked."""
    async with await ScriptedImapNode.start() as other:
        home = await ScriptedImapNode.start()
        port = home.port
        await home.stop()
        login = login_settings(hold=20.0)
        nodes = {"store1": port, "store2": other.port}
        async with session_front(tmp_path, nodes, login=login) as front:
            client = await front.connect()
            await client.line()
            client.send(b"a LOGIN ana secret\r\n")
            await front.until(lambda: front.doors.held_count == 1, "the login to be held")
            async with await ScriptedImapNode.start(port=port):
                front.nodes.succeeded(front.node("store1"), front.service)
                front.doors.returned(front.node("store1"))
                assert " OK " in await client.line()
                assert other.connections_count == 0
                await client.close()
                await front.until(lambda: not len(front.table), "the end")


async def test_a_login_that_waits_follows_its_mailbox(tmp_path: Path) -> None:
    """The mailbox moves while its login waits for a home that is down: it opens at the new home, at once, and the old
    one, which comes back, is not asked."""
    async with await ScriptedImapNode.start() as other:
        home = await ScriptedImapNode.start()
        port = home.port
        await home.stop()
        nodes = {"store1": port, "store2": other.port}
        async with session_front(tmp_path, nodes, login=login_settings(hold=60.0)) as front:
            client = await front.connect()
            await client.line()
            client.send(b"a LOGIN ana secret\r\n")
            await front.until(lambda: front.doors.held_count == 1, "the login to be held")
            front.nodes.homes = {"ana": "store2"}
            async with await ScriptedImapNode.start(port=port) as back:
                front.nodes.succeeded(front.node("store1"), front.service)
                front.doors.returned(front.node("store1"))
                assert " OK " in await client.line()
                assert [session.node for session in front.table] == ["store2"]
                assert front.doors.held_count == 0
                assert back.connections_count == 0
                await client.close()
                await front.until(lambda: not len(front.table), "the end")


@on_both_loops
async def test_a_mailbox_that_moves_during_its_login_opens_at_its_new_home(tmp_path: Path) -> None:
    """The old home has not answered yet. What it says afterwards, yes or no, does not count."""
    for answer in (b"%t OK in\r\n", b"%t NO [AUTHENTICATIONFAILED] no\r\n"):
        async with (
            await ScriptedImapNode.start({"login": answer}) as old,
            await ScriptedImapNode.start() as new,
            session_front(tmp_path, {"store1": old.port, "store2": new.port}) as front,
        ):
            old.hold = asyncio.Event()
            client = await front.connect()
            await client.line()
            client.send(b"a LOGIN ana secret\r\n")
            await front.until(lambda: old.connections_count == 1, "the login at the old home")
            front.nodes.homes = {"ana": "store2"}
            old.hold.set()
            assert " OK " in await client.line()
            assert [session.node for session in front.table] == ["store2"]
            await front.until(lambda: not old.open, "the end at the old home")
            assert front.nodes.alarms == []
            await client.close()
            await front.until(lambda: not len(front.table), "the end")


@on_both_loops
async def test_a_home_that_stays_away_is_a_temporary_error(tmp_path: Path) -> None:
    """UNAVAILABLE after the hold; for further ones at once, when enough wait already. Never another node."""
    async with await ScriptedImapNode.start() as other:
        home = await ScriptedImapNode.start()
        await home.stop()
        login = login_settings(hold=0.3, held=1)
        nodes = {"store1": home.port, "store2": other.port}
        async with session_front(tmp_path, nodes, login=login) as front:
            clients = [await front.connect() for _ in range(3)]
            for client in clients:
                await client.line()
                client.send(b"a LOGIN ana secret\r\n")
            for client in clients:
                assert "[UNAVAILABLE]" in await client.line()
            assert other.connections_count == 0
            ben = await front.connect()
            await ben.line()
            front.nodes.homes = {"ben": "store2"}
            assert " OK " in await ben.ask("a LOGIN ben secret")
            for client in (*clients, ben):
                await client.close()


@on_both_loops
async def test_maintenance_ends_sessions_and_takes_no_logins(tmp_path: Path) -> None:
    """The clients are told; new logins get the temporary error."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        client = await front.logged_in()
        front.maintain("store1")
        front.table.leave_node("store1", "maintenance")
        assert (await client.rest()).startswith(b"* BYE ")
        await front.until(lambda: front.lines("session"), "its line")
        assert front.lines("session")[0]["end"] == "maintenance"
        late = await front.connect()
        await late.line()
        assert "[UNAVAILABLE]" in await late.ask("a LOGIN ana secret")
        await client.close()
        await late.close()


@on_both_loops
async def test_the_clients_of_a_node_that_dies_are_let_go(tmp_path: Path) -> None:
    """Each connection ends, and each line says why."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        clients = [await front.logged_in() for _ in range(15)]
        for writer in tuple(node.open):
            writer.transport.abort()
        for client in clients:
            assert await client.rest() == b""
            await client.close()
        await front.until(lambda: len(front.lines("session")) == 15, "their lines")
        assert {line["end"] for line in front.lines("session")} <= {"node", "node lost"}


async def test_clients_of_a_dead_node_do_not_all_come_back_at_once(tmp_path: Path) -> None:
    """A few are told at once; the others are kept for a while, though their node is gone, and go in their turn."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        clients = [await front.logged_in() for _ in range(25)]
        for writer in tuple(node.open):
            writer.transport.abort()
        await front.until(lambda: all(each.node_side.is_lost for each in front.table), "the loss of every connection")
        assert not all(front.table.is_lingering(each) for each in front.table)
        for client in clients:
            assert await client.rest() == b""
            await client.close()
        await front.until(lambda: not len(front.table), "the end of all sessions")


async def test_a_node_that_has_returned_gets_its_logins_slowly(tmp_path: Path) -> None:
    """Although it is up, most of a crowd has to wait for its turn; everybody gets in."""
    async with (
        await ScriptedImapNode.start() as node,
        session_front(tmp_path, {"store1": node.port}, login=login_settings(hold=20.0)) as front,
    ):
        clients = [await front.connect() for _ in range(30)]
        for client in clients:
            await client.line()
        front.doors.returned(front.node("store1"))
        for client in clients:
            client.send(b"a LOGIN ana secret\r\n")
        await front.until(lambda: front.doors.held_count >= 15, "a crowd that waits")
        for client in clients:
            assert " OK " in await client.line()
            await client.close()


@on_both_loops
async def test_our_own_want_of_descriptors_is_not_blamed_on_the_node(tmp_path: Path) -> None:
    """The login gets a temporary error and an alarm is raised; the node stays up, and the next login goes there."""
    async with await ScriptedImapNode.start() as node, session_front(tmp_path, {"store1": node.port}) as front:
        client = await front.connect()
        await client.line()
        before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with Path("/dev/null").open() as probe:
            smallest_free = probe.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (smallest_free, most))
        try:
            assert "[UNAVAILABLE]" in await client.ask("a LOGIN ana secret")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
        assert front.nodes.alarms == ["login.no_resources"]
        assert " OK " in await client.ask("b LOGIN ana secret")
        await client.close()
