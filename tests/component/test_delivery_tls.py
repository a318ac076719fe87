"""Ways to reach a node: IPv4, IPv6, UNIX socket, STARTTLS, TLS from the start; and what must not be trusted."""

import socket
import ssl
from pathlib import Path
from typing import Literal

import pytest

from mailfront.delivery.transaction import Delivery
from mailfront.mail.outcome import Deferred, Delivered, Outcome
from tests.support.certificates import Authority, CertificateFiles
from tests.support.delivery import NODE, RecordingSink, delivery_to, endpoint_of, message, on_each_loop, quick
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer

Tls = Literal["starttls", "implicit"]
PATIENT = quick(connect_timeout="5s", reply_timeout="5s", final_timeout="5s", body_timeout="5s")


def server_context(files: CertificateFiles) -> ssl.SSLContext:
    """A server's context with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


async def deliver(delivery: Delivery, body: bytes = b"x\r\n") -> Outcome:
    """Deliver one message and close."""
    (outcome,) = await delivery.start(NODE, message(body=body), slot_wait_s=1.0).result()
    return outcome


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@on_each_loop
async def test_over_tls(tls: Tls, authority: Authority, server_certificate: CertificateFiles) -> None:
    """Two messages, one of them large, over one encrypted connection to a node with a good certificate."""
    with ScriptedLmtpPeer(tls=tls, context=server_context(server_certificate)) as peer:
        delivery = delivery_to(
            endpoint_of(peer.endpoint, tls=tls, server_name="localhost"),
            settings=PATIENT,
            tls_context=authority.client_context(),
        )
        assert isinstance(await deliver(delivery), Delivered)
        assert isinstance(await deliver(delivery, b"y" * 1_000_000 + b"\r\n"), Delivered)
        await delivery.close()
        assert peer.connections == 1
        assert peer.verbs()[:2] == (["LHLO", "STARTTLS"] if tls == "starttls" else ["LHLO", "MAIL"])


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("wrong", ["authority", "name"])
@on_each_loop
async def test_a_certificate_that_is_not_the_nodes(
    tls: Tls, wrong: str, authority: Authority, server_certificate: CertificateFiles, tmp_path: Path
) -> None:
    """Another authority's certificate, or one for another name: no mail, and it counts as no connection."""
    trusted = Authority(tmp_path) if wrong == "authority" else authority
    name = "localhost" if wrong == "authority" else "store1.example.edu"
    with ScriptedLmtpPeer(tls=tls, context=server_context(server_certificate)) as peer:
        sink = RecordingSink()
        delivery = delivery_to(
            endpoint_of(peer.endpoint, tls=tls, server_name=name),
            sink,
            settings=PATIENT,
            tls_context=trusted.client_context(),
        )
        outcome = await deliver(delivery)
        assert isinstance(outcome, Deferred)
        assert "certificate" in outcome.reply.text
        assert sink.kinds == ["connect_failed"]
        assert "MAIL" not in peer.verbs()
        await delivery.close()


@on_each_loop
async def test_starttls_is_not_optional(authority: Authority) -> None:
    """A node that stops offering STARTTLS gets nothing in the clear."""
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint, tls="starttls"), tls_context=authority.client_context())
        outcome = await deliver(delivery)
        assert isinstance(outcome, Deferred)
        assert "does not offer STARTTLS" in outcome.reply.text
        assert peer.verbs() == ["LHLO"]
        await delivery.close()


@on_each_loop
async def test_bytes_behind_the_starttls_reply(authority: Authority, server_certificate: CertificateFiles) -> None:
    """Replies that were injected before TLS close the connection."""
    script = {"STARTTLS": Action(replies=("220 2.0.0 go", "250-injected", "250 PIPELINING"))}
    with ScriptedLmtpPeer(script, tls="starttls", context=server_context(server_certificate)) as peer:
        delivery = delivery_to(
            endpoint_of(peer.endpoint, tls="starttls", server_name="localhost"), tls_context=authority.client_context()
        )
        outcome = await deliver(delivery)
        assert isinstance(outcome, Deferred)
        assert "before TLS" in outcome.reply.text
        await delivery.close()


@on_each_loop
async def test_a_clear_text_server_behind_an_implicit_port(authority: Authority) -> None:
    """A greeting in the clear where TLS should be: nothing is said to it."""
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint, tls="implicit"), tls_context=authority.client_context())
        assert isinstance(await deliver(delivery), Deferred)
        assert "LHLO" not in peer.verbs()
        await delivery.close()


@on_each_loop
async def test_a_node_that_hangs_in_the_tls_handshake(authority: Authority) -> None:
    """The TLS handshake has its own time-out."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # nobody accepts; the kernel alone answers
        delivery = delivery_to(
            endpoint_of(listening.getsockname(), tls="implicit"), tls_context=authority.client_context()
        )
        outcome = await deliver(delivery)
        assert isinstance(outcome, Deferred)
        assert "TLS handshake" in outcome.reply.text
        await delivery.close()


@on_each_loop
async def test_over_a_unix_socket(tmp_path: Path) -> None:
    """A node on the same machine is reached by its socket file."""
    with ScriptedLmtpPeer(path=tmp_path / "lmtp") as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        assert isinstance(await deliver(delivery), Delivered)
        await delivery.close()


@on_each_loop
async def test_a_socket_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing socket is a node that cannot be reached."""
    delivery = delivery_to(endpoint_of(tmp_path / "nothing"))
    outcome = await deliver(delivery)
    assert isinstance(outcome, Deferred)
    assert "cannot connect" in outcome.reply.text
    await delivery.close()


@on_each_loop
async def test_over_ipv6() -> None:
    """::1 is as good as 127.0.0.1."""
    with ScriptedLmtpPeer(host="::1") as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        assert isinstance(await deliver(delivery), Delivered)
        await delivery.close()


@on_each_loop
async def test_a_name_that_does_not_resolve() -> None:
    """A host name without an address is a node that cannot be reached, not an exception."""
    delivery = delivery_to(endpoint_of(("no-such-host.invalid", 24)), settings=PATIENT)
    assert isinstance(await deliver(delivery), Deferred)
    await delivery.close()


def test_tls_without_a_context() -> None:
    """A node that wants TLS cannot be configured without what verifies it."""
    with pytest.raises(ValueError, match="no TLS context"):
        delivery_to(endpoint_of(("127.0.0.1", 24), tls="starttls"))
