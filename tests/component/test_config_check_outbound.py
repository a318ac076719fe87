"""`config check` tries the smarthost and the servers of routes, the way that mail goes."""

import ssl
from pathlib import Path

import pytest

from mailfront.config.check_outbound import check_outbound
from mailfront.config.findings import Finding, Level
from mailfront.config.load import parse
from tests.support.certificates import Authority, CertificateFiles
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer
from tests.support.ports import free_port
from tests.unit.config.test_load import GOOD, PATH


async def findings(more: str) -> dict[str, Finding]:
    """What is found with these tables in the file, by what it is about."""
    return {each.where: each for each in await check_outbound(parse(GOOD + more, PATH))}


def smarthost(port: int, more: str = "", tls: str = "off") -> str:
    """The section for a smarthost on this machine."""
    return f'[outbound]\nsmarthost = "127.0.0.1:{port}"\ntls = "{tls}"\nreply_timeout = "5s"\n{more}'


async def test_without_a_smarthost_that_is_said() -> None:
    """No failure: it is one way to run it."""
    found = await findings("")
    assert found["outbound.smarthost"].level is Level.NOTE
    assert "waits in the queue" in found["outbound.smarthost"].text


async def test_a_smarthost_is_greeted_and_left() -> None:
    """It answers: what it offers is shown; nothing of a message was said."""
    with ScriptedLmtpPeer(smtp=True, extensions=("DSN", "8BITMIME")) as peer:
        found = await findings(smarthost(peer.port))
        assert peer.verbs() == ["EHLO", "QUIT"]
    assert found["outbound.smarthost"].level is Level.OK
    assert "without TLS, offers 8BITMIME, DSN" in found["outbound.smarthost"].text


async def test_a_smarthost_that_is_away_or_refuses_us_fails() -> None:
    """The reason is the server's own word where it has one."""
    found = await findings(smarthost(free_port()))
    assert found["outbound.smarthost"].level is Level.FAILED
    with ScriptedLmtpPeer({"connect": Action(replies=("554 5.7.1 not you",))}, smtp=True) as peer:
        found = await findings(smarthost(peer.port))
    assert "554" in found["outbound.smarthost"].text
    assert "not you" in found["outbound.smarthost"].text


@pytest.mark.parametrize("password", ["right", "wrong"])
async def test_tls_and_the_login_are_tried(
    password: str, authority: Authority, server_certificate: CertificateFiles, tmp_path: Path
) -> None:
    """The login goes over verified TLS; a refusal fails the check, and the password is not shown."""
    (tmp_path / "login").write_text(f"front\n{password}-secret\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_certificate.certificate, server_certificate.key)
    script = {} if password == "right" else {"AUTH": Action(replies=("535 5.7.8 wrong password",))}
    with ScriptedLmtpPeer(script, smtp=True, extensions=("DSN", "AUTH PLAIN"), tls="starttls", context=context) as peer:
        more = f'ca = "{authority.ca_file}"\nlogin_file = "{tmp_path}/login"\n'
        (found,) = (await findings(smarthost(peer.port, more, "starttls"))).values()
        assert peer.verbs()[:4] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]
    assert found.level is (Level.OK if password == "right" else Level.FAILED)
    assert ("takes our login" if password == "right" else "535 5.7.8") in found.text
    assert "-secret" not in found.text


async def test_a_login_file_without_a_password_fails(tmp_path: Path) -> None:
    """One line says which file and what it must hold."""
    (tmp_path / "login").write_text("front\n")
    found = await findings(smarthost(1, f'login_file = "{tmp_path}/login"\n', "starttls"))
    assert "the second the password" in found["outbound"].text


async def test_routes_are_greeted() -> None:
    """One that answers is well, one that is away is named."""
    with ScriptedLmtpPeer() as peer:
        found = await findings(
            f'[[route]]\ndomain = "lists.example.edu"\nhost = "127.0.0.1"\nlmtp = {peer.port}\n'
            f'[[route]]\naddress = "help@example.edu"\nhost = "127.0.0.1"\nlmtp = {free_port()}\n'
        )
    assert found['route "lists.example.edu"'].level is Level.OK
    assert found['route "help@example.edu"'].level is Level.FAILED
    assert "cannot connect" in found['route "help@example.edu"'].text
