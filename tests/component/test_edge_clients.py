"""Clients that nobody here wrote: smtplib, swaks, openssl s_client, smtp-source."""

import asyncio
import smtplib
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from mailfront.net.settings import TlsSettings
from mailfront.net.tls import ServerTls
from tests.support.certificates import Authority, CertificateFiles
from tests.support.edge import on_both_loops, running_edge


async def run(*command: str, stdin: bytes | None = None) -> tuple[int, str]:
    """Run a program. Returns its exit status and all it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate(stdin)
    return process.returncode or 0, output.decode(errors="replace")


@on_both_loops
async def test_smtplib_over_starttls(
    tmp_path: Path, server_certificate: CertificateFiles, authority: Authority
) -> None:
    """Python's own client sends a message with an attachment over STARTTLS."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@client.test", "b@mx.test", "gr\u00fc\u00dfe"
    message.set_content(".\n..\nbody\n")
    message.add_attachment(bytes(range(256)) * 2000, maintype="application", subtype="octet-stream")

    def talk() -> None:
        with smtplib.SMTP("127.0.0.1", edge.port, timeout=10) as client:
            client.starttls(context=authority.client_context())
            refused = client.send_message(message, to_addrs=["b@mx.test", "no@mx.test"])
            assert list(refused) == ["no@mx.test"]

    tls = ServerTls(TlsSettings(certificate=server_certificate.certificate, key=server_certificate.key))
    async with running_edge(tmp_path, tls=tls, tls_mode="starttls") as edge:
        await asyncio.to_thread(talk)
    body = edge.intake.taken[0].body
    assert b"\r\n.\r\n..\r\nbody\r\n" in body
    assert len(body) > 512_000


async def test_smtplib_over_lmtp(tmp_path: Path) -> None:
    """Python's LMTP client is served."""

    def talk() -> None:
        with smtplib.LMTP("127.0.0.1", edge.port) as client:
            client.sendmail("a@client.test", ["b@mx.test"], b"Subject: x\r\n\r\nx\r\n")

    async with running_edge(tmp_path, role="lmtp") as edge:
        await asyncio.to_thread(talk)
    assert edge.intake.taken[0].protocol == "LMTP"


async def test_swaks(tmp_path: Path) -> None:
    """swaks sends its message one command at a time, pipelined, over LMTP, with XCLIENT and with PROXY headers."""
    kinds: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
        ({}, (), "127.0.0.1"),
        ({}, ("--pipeline",), "127.0.0.1"),
        ({"role": "lmtp"}, ("--protocol", "LMTP"), "127.0.0.1"),
        ({"xclient": ["127.0.0.1/32"]}, ("--xclient-addr", "192.0.2.8"), "192.0.2.8"),
        ({"proxy_protocol": ["127.0.0.1/32"]}, _proxy_options("1"), "192.0.2.8"),
        ({"proxy_protocol": ["127.0.0.1/32"]}, _proxy_options("2"), "192.0.2.8"),
    ]
    for listen, options, client_ip in kinds:
        async with running_edge(tmp_path, **listen) as edge:
            status, output = await run(
                "swaks", "--server", f"127.0.0.1:{edge.port}", "--from", "a@client.test", "--to", "b@mx.test", *options
            )
            assert status == 0, output
        assert [taken.request.client.ip for taken in edge.intake.taken] == [client_ip]


def _proxy_options(version: str) -> tuple[str, ...]:
    return (
        "--proxy-version", version, "--proxy-family", "TCP4" if version == "1" else "AF_INET",
        "--proxy-source", "192.0.2.8", "--proxy-source-port", "4711",
        "--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25",
        *(() if version == "1" else ("--proxy-protocol", "STREAM", "--proxy-command", "PROXY")),
    )  # fmt: skip


async def test_openssl_against_implicit_tls(tmp_path: Path, server_certificate: CertificateFiles) -> None:
    """openssl s_client holds a whole dialogue over implicit TLS."""
    tls = ServerTls(TlsSettings(certificate=server_certificate.certificate, key=server_certificate.key))
    dialogue = b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
    async with running_edge(tmp_path, tls=tls, tls_mode="implicit") as edge:
        # -nocommands: an R or Q at the start of a line is mail here.
        status, output = await run(
            "openssl", "s_client", "-quiet", "-nocommands", "-connect", f"127.0.0.1:{edge.port}", stdin=dialogue
        )
        assert status == 0, output
        await edge.ended()
    assert len(edge.intake.taken) == 1


async def test_smtp_source_from_postfix(tmp_path: Path) -> None:
    """Postfix's load generator delivers 200 messages of 30 KB, 10 at a time."""
    async with running_edge(tmp_path) as edge:
        status, output = await run(
            "smtp-source", "-s", "10", "-l", "30000", "-m", "200", "-f", "a@b.c", "-t", "b@mx.test",
            f"127.0.0.1:{edge.port}",
        )  # fmt: skip
        assert status == 0, output
    assert len(edge.intake.taken) == 200
    assert all(len(taken.body) > 30_000 for taken in edge.intake.taken)
