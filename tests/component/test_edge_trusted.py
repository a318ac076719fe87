"""Clients that speak for others: the PROXY header, XCLIENT, XFORWARD; and DSN, which is offered to trusted ones."""

import asyncio
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest

from mailfront.net.settings import TlsSettings
from mailfront.net.tls import ServerTls
from tests.support.certificates import Authority, CertificateFiles
from tests.support.edge import connected, limits, on_both_loops, running_edge

V1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 25\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
    + socket.inet_aton("192.0.2.7")
    + socket.inet_aton("192.0.2.1")
    + struct.pack(">HH", 4711, 25)
)


@on_both_loops
@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("step", [1, 1000])
async def test_the_client_is_whom_the_proxy_names(tmp_path: Path, header: bytes, step: int) -> None:
    """The address in the header is the client's, for limits, trust, intake and the log, however the bytes are cut."""
    async with running_edge(tmp_path, proxy_protocol=["127.0.0.0/8"]) as edge, connected(edge) as client:
        data = header + b"EHLO client.test\r\n"
        for at in range(0, len(data), step):
            await client.send(data[at : at + step])
            await asyncio.sleep(0)
        assert (await client.reply()).startswith(b"220 ")
        assert (await client.reply()).startswith(b"250-")
        assert edge.admission.open == {"192.0.2.7": 1}
        await client.envelope()
        await client.ask("DATA")
        await client.ask("x\r\n.")
        await client.ask("QUIT")
        event = await edge.ended()
    info = edge.intake.taken[0].request.client
    assert (info.ip, info.port, info.proxy_ip) == ("192.0.2.7", 4711, "127.0.0.1")
    assert (event["client_ip"], event["proxy_ip"]) == ("192.0.2.7", "127.0.0.1")
    assert edge.admission.open == {"192.0.2.7": 0}


async def test_a_proxy_that_speaks_for_itself(tmp_path: Path) -> None:
    """A health check of the load balancer is a client with the load balancer's own address."""
    async with running_edge(tmp_path, proxy_protocol=["127.0.0.1/32"]) as edge, connected(edge) as client:
        await client.send(b"PROXY UNKNOWN\r\nQUIT\r\n")
        assert b"221 " in await client.rest()
        assert (await edge.ended())["client_ip"] == "127.0.0.1"


@on_both_loops
@pytest.mark.parametrize("sent", [b"EHLO x\r\n", b"PROXY TCP4 nonsense\r\n", b"PROXY TCP4"])
async def test_a_listed_network_must_send_a_header(tmp_path: Path, sent: bytes) -> None:
    """Without a good header in time the connection is closed without a word."""
    short = limits(proxy_timeout=0.3)
    async with running_edge(tmp_path, proxy_protocol=["127.0.0.1/32"], limits=short) as edge:
        async with connected(edge) as client:
            await client.send(sent)
            try:
                assert await client.rest() == b""
            except ConnectionResetError:
                pass
        assert edge.server.sessions_count == 0
    assert edge.intake.begun == 0


async def test_nobody_else_may_send_a_header(tmp_path: Path) -> None:
    """Where none is expected, a PROXY header is refused and the connection closed."""
    kinds: tuple[dict[str, Any], ...] = ({}, {"proxy_protocol": ["10.0.0.0/8"]})
    for listen in kinds:
        async with running_edge(tmp_path, **listen) as edge, connected(edge) as client:
            await client.reply()
            await client.send(V1 + b"EHLO x\r\n")
            answers = await client.rest()
            assert answers.startswith(b"550 5.7.1 ")
            assert b"250" not in answers
            assert (await edge.ended())["client_ip"] == "127.0.0.1"


@on_both_loops
async def test_a_proxy_header_in_front_of_implicit_tls(
    tmp_path: Path, server_certificate: CertificateFiles, authority: Authority
) -> None:
    """The header is read in plain text, then TLS begins, also if both come in one segment."""
    tls = ServerTls(TlsSettings(certificate=server_certificate.certificate, key=server_certificate.key))

    def talk() -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = authority.client_context()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        plain = socket.create_connection(edge.address, timeout=10)
        first = V2
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(first + outgoing.read())
                first = b""
                incoming.write(plain.recv(65536))
        client.write(b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
        plain.sendall(outgoing.read())
        answers = b""
        while b"221 " not in answers:
            try:
                answers += client.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(plain.recv(65536))
        plain.close()

    async with running_edge(tmp_path, tls=tls, tls_mode="implicit", proxy_protocol=["127.0.0.1/32"]) as edge:
        await asyncio.to_thread(talk)
        event = await edge.ended()
    assert event["client_ip"] == "192.0.2.7"
    assert event["tls"].startswith("TLSv1.3")
    assert len(edge.intake.taken) == 1


async def test_xclient_says_who_the_client_is(tmp_path: Path) -> None:
    """From a listed network XCLIENT replaces the client and starts the dialogue anew."""
    async with running_edge(tmp_path, xclient=["127.0.0.1/32"]) as edge, connected(edge) as client:
        hello = await client.hello()
        assert b"XCLIENT NAME ADDR PORT PROTO HELO\r\n" in hello
        assert (await client.ask("XCLIENT ADDR=192.0.2.9 PORT=99 NAME=[UNAVAILABLE] LOGIN=x")).startswith(b"501 ")
        assert (await client.ask("XCLIENT ADDR=nonsense")).startswith(b"501 ")
        assert (await client.ask("XCLIENT ADDR=192.0.2.9 PORT=99 NAME=[UNAVAILABLE]")).startswith(b"220 ")
        assert (await client.ask("MAIL FROM:<a@b.c>")).startswith(b"503 ")
        await client.ask("EHLO real.test")
        await client.envelope()
        assert (await client.ask("XCLIENT ADDR=192.0.2.1")).startswith(b"503 ")
        await client.ask("DATA")
        await client.ask("x\r\n.")
        await client.ask("QUIT")
        await edge.ended()
        assert edge.admission.open == {"127.0.0.1": 0}
    info = edge.intake.taken[0].request.client
    assert (info.ip, info.port, info.helo, info.proxy_ip) == ("192.0.2.9", 99, "real.test", "127.0.0.1")


async def test_xforward_counts_for_one_message(tmp_path: Path) -> None:
    """From a listed network XFORWARD names the client of the next message, and of that one only."""
    async with running_edge(tmp_path, xclient=["127.0.0.1/32"]) as edge, connected(edge) as client:
        await client.hello()
        assert (await client.ask("XFORWARD ADDR=IPV6:2001:db8:0::1 HELO=far+2Etest")).startswith(b"250 ")
        assert (await client.ask("XFORWARD PORT=77 SOURCE=REMOTE IDENT=abc")).startswith(b"250 ")
        for _ in range(2):
            await client.envelope()
            await client.ask("DATA")
            await client.ask("x\r\n.")
    first, second = (taken.request.client for taken in edge.intake.taken)
    assert (first.ip, first.port, first.helo, first.proxy_ip) == ("2001:db8::1", 77, "far.test", "127.0.0.1")
    assert (second.ip, second.helo, second.proxy_ip) == ("127.0.0.1", "client.test", "")


@pytest.mark.parametrize("listen", [{"dsn": True}, {"xclient": ["127.0.0.1/32"]}])
async def test_dsn_parameters_keep_their_case(tmp_path: Path, listen: dict[str, Any]) -> None:
    """Offered where it is configured or to listed networks; values are handed on as written."""
    async with running_edge(tmp_path, **listen) as edge, connected(edge) as client:
        assert b"DSN" in await client.hello()
        assert (await client.ask("MAIL FROM:<a@b.c> RET=hdrs ENVID=QQ+2Bx")).startswith(b"250 ")
        assert (await client.ask("RCPT TO:<b@mx.test> NOTIFY=Success,DELAY ORCPT=rfc822;Ana+2BX@b.c")).startswith(
            b"250 "
        )
        for bad in ("NOTIFY=NEVER,DELAY", "NOTIFY=x", "ORCPT=rfc822", "ORCPT=rfc822;a+2b", "NOTIFY=DELAY NOTIFY=DELAY"):
            assert (await client.ask(f"RCPT TO:<c@mx.test> {bad}")).startswith(b"501 5.5.4 ")
        await client.ask("DATA")
        await client.ask("x\r\n.")
    (taken,) = edge.intake.taken
    assert (taken.request.ret, taken.request.envid) == ("hdrs", "QQ+2Bx")
    ((_, options),) = taken.recipients
    assert (options.notify, options.orcpt) == ("Success,DELAY", "rfc822;Ana+2BX@b.c")
