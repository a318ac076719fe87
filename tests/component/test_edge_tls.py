"""STARTTLS and implicit TLS: nothing said before TLS counts after it, and nothing is taken from half a TLS stream."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from mailfront.net.settings import TlsSettings
from mailfront.net.tls import ServerTls
from tests.support.certificates import Authority, CertificateFiles
from tests.support.edge import Edge, FakeIntake, connected, limits, on_both_loops, running_edge


@pytest.fixture
def server_tls(server_certificate: CertificateFiles) -> ServerTls:
    """The certificate of the listener under test."""
    return ServerTls(TlsSettings(certificate=server_certificate.certificate, key=server_certificate.key))


class BlockingClient:
    """A client on a plain socket and a TLS object of the standard library, run in a thread."""

    def __init__(self, edge: Edge) -> None:
        self.socket: socket.socket = socket.create_connection(edge.address, timeout=10)

    def read(self) -> bytes:
        """One whole reply."""
        data = b""
        while not data.endswith(b"\r\n") or data.splitlines()[-1][3:4] == b"-":
            piece = self.socket.recv(65536)
            if not piece:
                break
            data += piece
        return data

    def ask(self, line: bytes) -> bytes:
        """Send and read one reply."""
        self.socket.sendall(line + b"\r\n")
        return self.read()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Shake hands."""
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")


@on_both_loops
async def test_starttls(tmp_path: Path, server_tls: ServerTls, authority: Authority) -> None:
    """After STARTTLS the dialogue begins anew, encrypted, and the event tells with what."""

    def talk() -> None:
        client = BlockingClient(edge)
        client.read()
        assert b"STARTTLS" in client.ask(b"EHLO before")
        client.ask(b"MAIL FROM:<before@b.c>")
        assert client.ask(b"STARTTLS now").startswith(b"501 ")
        assert client.ask(b"STARTTLS").startswith(b"220 ")
        client.start_tls(authority.client_context())
        assert client.ask(b"MAIL FROM:<a@b.c>").startswith(b"503 ")
        assert b"STARTTLS" not in client.ask(b"EHLO after")
        assert client.ask(b"STARTTLS").startswith(b"503 ")
        client.ask(b"MAIL FROM:<after@b.c>")
        client.ask(b"RCPT TO:<b@mx.test>")
        client.ask(b"DATA")
        assert client.ask(b"x" * 300_000 + b"\r\n.").startswith(b"250 ")
        assert client.ask(b"QUIT").startswith(b"221 ")
        client.socket.close()

    async with running_edge(tmp_path, tls=server_tls, tls_mode="starttls") as edge:
        await asyncio.to_thread(talk)
        event = await edge.ended()
    (taken,) = edge.intake.taken
    assert str(taken.request.reverse_path) == "after@b.c"
    assert taken.request.client.helo == "after"
    assert taken.request.client.tls.startswith("TLSv1.3 ")
    assert taken.protocol == "ESMTPS"
    assert edge.intake.abandoned == 1
    assert event["tls"].startswith("TLSv1.3 ")


@on_both_loops
@pytest.mark.parametrize("injected", [b"MAIL FROM:<evil@b.c>\r\n", b"x", b"\x16\x03\x01"])
async def test_a_byte_behind_starttls_ends_the_connection(
    tmp_path: Path, server_tls: ServerTls, injected: bytes
) -> None:
    """What an attacker puts behind STARTTLS in plain text is never read as if it came over TLS."""
    async with running_edge(tmp_path, tls=server_tls, tls_mode="starttls") as edge, connected(edge) as client:
        await client.hello()
        await client.send(b"STARTTLS\r\n" + injected)
        answers = await client.rest()
        assert not answers.startswith(b"220")
        assert answers.startswith(b"503 5.5.1 ")
        event = await edge.ended()
    assert (event["end"], event["reason"]) == ("protocol", "tls_residue")
    assert edge.intake.begun == 0


@on_both_loops
async def test_plain_text_instead_of_a_handshake(tmp_path: Path, server_tls: ServerTls) -> None:
    """Commands in plain text after 220 fail the handshake; they are not executed, and nothing falls back."""
    async with running_edge(tmp_path, tls=server_tls, tls_mode="starttls") as edge, connected(edge) as client:
        await client.hello()
        assert (await client.ask("STARTTLS")).startswith(b"220 ")
        await client.send(b"EHLO x\r\nMAIL FROM:<evil@b.c>\r\n")
        assert b"250" not in await client.rest()
        event = await edge.ended()
    assert event["end"] == "failed"
    assert edge.intake.begun == 0


@on_both_loops
async def test_a_handshake_that_stalls_ends(tmp_path: Path, server_tls: ServerTls) -> None:
    """A client that asks for TLS and then says nothing is disconnected."""
    short = limits(tls_timeout=0.3)
    async with running_edge(tmp_path, tls=server_tls, tls_mode="starttls", limits=short) as edge:
        async with connected(edge) as client:
            await client.hello()
            await client.ask("STARTTLS")
            assert await client.rest() == b""
        assert (await edge.ended())["end"] == "failed"


@on_both_loops
async def test_handshakes_of_one_address_are_limited(tmp_path: Path, server_tls: ServerTls) -> None:
    """With implicit TLS a client that opens connections and says nothing has no more of them than others may have."""
    few = limits(connections_per_ip=3, tls_timeout=30.0)
    async with running_edge(tmp_path, tls=server_tls, tls_mode="implicit", limits=few) as edge:
        silent = [await asyncio.open_connection(*edge.address) for _ in range(3)]
        async with connected(edge) as client:
            assert await client.rest() == b""
        silent.pop()[1].close()
        async with asyncio.timeout(10):
            while True:
                async with connected(edge) as client:
                    try:
                        async with asyncio.timeout(0.3):
                            await client.reader.read(1)
                    except TimeoutError:
                        break
        for _, writer in silent:
            writer.close()


@on_both_loops
async def test_commands_right_behind_the_handshake(tmp_path: Path, server_tls: ServerTls, authority: Authority) -> None:
    """What comes over TLS with the end of the handshake is read after it, nothing is lost."""

    def talk() -> bytes:
        client = BlockingClient(edge)
        client.read()
        client.ask(b"EHLO x")
        client.ask(b"STARTTLS")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = authority.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.socket.sendall(outgoing.read())
                incoming.write(client.socket.recv(65536))
        # The client's last handshake record and its first commands leave in one segment.
        tls.write(b"EHLO again\r\nNOOP\r\nQUIT\r\n")
        client.socket.sendall(outgoing.read())
        answers = b""
        while b"221 " not in answers:
            try:
                answers += tls.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(client.socket.recv(65536))
        client.socket.close()
        return answers

    async with running_edge(tmp_path, tls=server_tls, tls_mode="starttls") as edge:
        answers = await asyncio.to_thread(talk)
        await edge.ended()
    assert [line[:4] for line in answers.splitlines() if line[3:4] == b" "] == [b"250 ", b"250 ", b"221 "]


@on_both_loops
async def test_close_notify_inside_a_chunk_aborts(tmp_path: Path, server_tls: ServerTls, authority: Authority) -> None:
    """The end of TLS inside a BDAT chunk ends the connection; plain text behind it is not the rest of the chunk."""

    def talk() -> None:
        client = BlockingClient(edge)
        client.read()
        client.ask(b"EHLO x")
        client.ask(b"STARTTLS")
        raw = socket.socket(fileno=socket.dup(client.socket.fileno()))
        client.start_tls(authority.client_context())
        client.ask(b"EHLO x")
        client.ask(b"MAIL FROM:<a@b.c>")
        client.ask(b"RCPT TO:<b@mx.test>")
        assert isinstance(client.socket, ssl.SSLSocket)
        client.socket.sendall(b"BDAT 20 LAST\r\n0123456789")
        client.socket.settimeout(0.5)
        try:
            client.socket.unwrap()
        except OSError:
            pass
        try:
            raw.sendall(b"0123456789\r\n")
        except OSError:
            pass
        raw.close()
        client.socket.close()

    async with running_edge(tmp_path, tls=server_tls, tls_mode="starttls") as edge:
        await asyncio.to_thread(talk)
        event = await edge.ended()
    assert edge.intake.taken == []
    assert edge.intake.abandoned == 1
    assert (event["end"], event["stage"]) == ("lost", "data")


@on_both_loops
async def test_a_tls_client_that_leaves_after_the_dot_stops_nothing(
    tmp_path: Path, server_tls: ServerTls, authority: Authority
) -> None:
    """Also over TLS the commit is not cancelled by its client."""
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await release.wait()

    def talk() -> BlockingClient:
        client = BlockingClient(edge)
        client.start_tls(authority.client_context())
        client.read()
        for line in (b"EHLO x", b"MAIL FROM:<a@b.c>", b"RCPT TO:<b@mx.test>", b"DATA"):
            client.ask(line)
        client.socket.sendall(b"x\r\n.\r\n")
        return client

    intake = FakeIntake(before_reply=wait)
    async with running_edge(tmp_path, tls=server_tls, tls_mode="implicit", intake=intake) as edge:
        client = await asyncio.to_thread(talk)
        await begun.wait()
        client.socket.close()
        await asyncio.sleep(0.05)
        release.set()
        await edge.ended()
    assert len(intake.taken) == 1
    assert intake.taken[0].request.client.tls.startswith("TLSv1.3 ")


@on_both_loops
async def test_a_new_certificate_is_used_for_new_handshakes(tmp_path: Path, authority: Authority) -> None:
    """After a reload new connections see the new certificate, with STARTTLS and with implicit TLS."""
    files = authority.issue(file_name="reloaded")
    tls = ServerTls(TlsSettings(certificate=files.certificate, key=files.key))

    def serial(mode: str) -> str:
        client = BlockingClient(edge)
        if mode == "starttls":
            client.read()
            client.ask(b"STARTTLS")
        client.start_tls(authority.client_context())
        assert isinstance(client.socket, ssl.SSLSocket)
        certificate = client.socket.getpeercert()
        client.socket.close()
        assert certificate is not None
        return str(certificate["serialNumber"])

    for mode in ("starttls", "implicit"):
        async with running_edge(tmp_path, tls=tls, tls_mode=mode) as edge:
            before = await asyncio.to_thread(serial, mode)
            assert await asyncio.to_thread(serial, mode) == before
            authority.issue(file_name="reloaded")
            tls.reload()
            assert await asyncio.to_thread(serial, mode) != before
