"""A real Postfix as the smarthost: TLS in each of its levels, AUTH, and what its EHLO offers or does not.

Postfix hands on to a recording server, which shows what arrived. Passwords are checked by Dovecot, as many sites do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mailfront.delivery.outbound_settings import OutboundSettings
from mailfront.delivery.relay import Relay
from mailfront.mail.envelope import BodyType, RecipientOptions
from mailfront.mail.next_hop import RELAY
from mailfront.transfer.outbound import Smarthost
from tests.support.certificates import Authority, CertificateFiles
from tests.support.dovecot import USER_PASSWORD, DovecotNode
from tests.support.hops import HopRig
from tests.support.lmtp_peer import ScriptedLmtpPeer, Transaction
from tests.support.ports import free_port
from tests.support.postfix import PostfixSender
from tests.support.processes import wait_until

ANA, BEN = "ana@out.example", "ben@out.example"
REFUSED = "nobody@out.example"
SIZE_LIMIT = 200_000


@dataclass(frozen=True)
class World:
    """The smarthost with its ports, and what lies behind it."""

    postfix: PostfixSender
    behind: ScriptedLmtpPeer
    plain: int
    implicit: int
    misnamed: int
    login: int
    bare: int

    def arrived(self, text: str) -> Transaction:
        """Wait for the message with this text behind the smarthost."""
        found = wait_until(
            lambda: [each for each in self.behind.received() if text.encode() in each.body],
            60.0,
            f"{text} behind Postfix",
        )
        assert len(found) == 1
        return found[0]


@pytest.fixture(scope="module")
def world(authority: Authority, server_certificate: CertificateFiles) -> Iterator[World]:
    """One Postfix with five doors: STARTTLS, TLS at once, STARTTLS with another host's certificate, STARTTLS with a
    login, and one that offers nothing."""
    auth_port, implicit, misnamed, login, bare = (free_port() for _ in range(5))
    other = authority.issue("relay.example.edu", file_name="relay")
    sasl = (
        f"-o smtpd_sasl_auth_enable=yes -o smtpd_sasl_type=dovecot -o smtpd_sasl_path=inet:127.0.0.1:{auth_port}"
        " -o smtpd_tls_auth_only=yes -o smtpd_client_restrictions=permit_sasl_authenticated,reject"
    )
    service = "inet n - n - - smtpd"
    dovecot = DovecotNode(
        "sasl",
        settings=f"service auth {{\n  inet_listener {{\n    address = 127.0.0.1\n    port = {auth_port}\n  }}\n}}\n",
    )
    nobody = f"inline:{{ {{ {REFUSED} = 550 5.1.1 nobody here }} }}"
    with ScriptedLmtpPeer(smtp=True, extensions=("8BITMIME", "SMTPUTF8")) as behind:
        dovecot.start()
        postfix = PostfixSender(
            behind.host,
            behind.port,
            settings=[
                f"smtpd_tls_cert_file = {server_certificate.certificate}",
                f"smtpd_tls_key_file = {server_certificate.key}",
                "smtpd_tls_security_level = may",
                f"message_size_limit = {SIZE_LIMIT}",
                f"smtpd_recipient_restrictions = check_recipient_access {nobody}",
            ],
            services=[
                f"127.0.0.1:{implicit} {service} -o smtpd_tls_wrappermode=yes",
                f"127.0.0.1:{misnamed} {service} -o smtpd_tls_cert_file={other.certificate}"
                f" -o smtpd_tls_key_file={other.key}",
                f"127.0.0.1:{login} {service} {sasl}",
                f"127.0.0.1:{bare} {service} -o smtpd_tls_security_level=none"
                " -o smtpd_discard_ehlo_keywords=starttls,smtputf8,8bitmime,dsn,size,pipelining,chunking",
            ],
        )
        with postfix:
            yield World(postfix, behind, postfix.port, implicit, misnamed, login, bare)
        dovecot.kill9()


def relay_to(port: int, *, host: str = "127.0.0.1", **more: object) -> Relay:
    """A relay with settings as they are written in the file."""
    settings = {"smarthost": f"{host}:{port}", "tls": "off", "connect_timeout": "10s", "reply_timeout": "10s"}
    return Relay(OutboundSettings.model_validate({**settings, **more}), client_name="mx1.example.edu")


def rig_for(relay: Relay, folder: Path) -> HopRig:
    """A queue whose smarthost it is; what is deferred stays so for the length of a test."""
    return HopRig(folder, {RELAY: (Smarthost(relay), 4)}, retry_s=60.0)


def body_of(token: str, text: str = "hello") -> bytes:
    """A message that can be found again."""
    return f"Subject: {token}\r\nX-Token: {token}\r\n\r\n{text}\r\n".encode()


async def sent(world: World, relay: Relay, folder: Path, token: str) -> bytes:
    """Send one message and return what arrived behind the smarthost."""
    async with rig_for(relay, folder) as rig:
        await rig.put(ANA, hop=RELAY, body=body_of(token))
        await rig.until(lambda rows: not rows)
    await relay.close()
    return world.arrived(token).body


async def waits(relay: Relay, folder: Path) -> str:
    """Try to send one message; return why it waits."""
    async with rig_for(relay, folder) as rig:
        await rig.put(ANA, hop=RELAY)
        (row,) = await rig.until(lambda rows: rows[0].last_reply)
        (alarm,) = rig.health.alarms()
        assert row.last_reply in alarm.text
    await relay.close()
    return row.last_reply


@pytest.mark.parametrize("level", ["starttls", "implicit"])
async def test_tls_with_the_right_certificate(world: World, level: str, authority: Authority, tmp_path: Path) -> None:
    """Postfix notes the encrypted connection in its Received line."""
    port = world.plain if level == "starttls" else world.implicit
    relay = relay_to(port, tls=level, ca=str(authority.ca_file))
    found = await sent(world, relay, tmp_path, f"tls-{level}")
    assert b"with ESMTPS" in found


@pytest.mark.parametrize("level", ["starttls", "implicit"])
async def test_a_certificate_of_strangers_gets_no_mail(world: World, level: str, tmp_path: Path) -> None:
    """Signed by nobody we trust: deferred, with the reason; nothing goes in the clear."""
    port = world.plain if level == "starttls" else world.implicit
    stranger = Authority(tmp_path, "stranger")
    reason = await waits(relay_to(port, tls=level, ca=str(stranger.ca_file)), tmp_path)
    assert "certificate is not accepted" in reason
    assert "issuer" in reason


async def test_a_certificate_for_another_name_gets_no_mail(world: World, authority: Authority, tmp_path: Path) -> None:
    """Signed by whom we trust, for another host: deferred, and the reason names what we asked for."""
    reason = await waits(relay_to(world.misnamed, tls="starttls", ca=str(authority.ca_file)), tmp_path)
    assert "certificate is not accepted" in reason
    assert "127.0.0.1" in reason.partition("not accepted")[2]


async def test_no_starttls_is_no_mail(world: World, authority: Authority, tmp_path: Path) -> None:
    """`starttls` is not `opportunistic`: a server that does not offer it, or whose offer was stripped, gets nothing."""
    reason = await waits(relay_to(world.bare, tls="starttls", ca=str(authority.ca_file)), tmp_path)
    assert "STARTTLS" in reason


async def test_opportunistic_takes_what_there_is(world: World, tmp_path: Path) -> None:
    """With any certificate where TLS is offered, in the clear where it is not."""
    (tmp_path / "a").mkdir()
    found = await sent(world, relay_to(world.plain, tls="opportunistic"), tmp_path / "a", "opportunistic-tls")
    assert b"with ESMTPS" in found
    (tmp_path / "b").mkdir()
    found = await sent(world, relay_to(world.bare, tls="opportunistic"), tmp_path / "b", "opportunistic-clear")
    assert b"with ESMTP " in found


def login_file(folder: Path, password: str) -> Path:
    """The file of `outbound.login_file`."""
    path = folder / "relay.login"
    path.write_text(f"front\n{password}\n")
    return path


async def test_a_login_over_tls(world: World, authority: Authority, tmp_path: Path) -> None:
    """Postfix takes mail at that door from clients that logged in only, and lets Dovecot check the password."""
    relay = relay_to(
        world.login, tls="starttls", ca=str(authority.ca_file), login_file=str(login_file(tmp_path, USER_PASSWORD))
    )
    found = await sent(world, relay, tmp_path, "login")
    assert b"with ESMTPSA" in found


async def test_a_wrong_password_defers(world: World, authority: Authority, tmp_path: Path) -> None:
    """It is between the two servers and never the sender's fault: no bounce, an alarm with the server's word."""
    relay = relay_to(world.login, tls="starttls", ca=str(authority.ca_file), login_file=str(login_file(tmp_path, "no")))
    assert "535 5.7.8" in await waits(relay, tmp_path)


async def test_the_size_is_said_first(world: World, tmp_path: Path) -> None:
    """Too large for Postfix: refused at MAIL with its word, and the message was never sent."""
    relay = relay_to(world.plain)
    async with rig_for(relay, tmp_path) as rig:
        await rig.put(ANA, hop=RELAY, body=body_of("too-large", "x" * 70 + ("\r\n" + "x" * 70) * 4000))
        (notice,) = await rig.until_told(1)
        assert notice.field("Status") == ["5.3.4"]
        assert notice.failures == {ANA.encode()}
        assert len(notice.content) < 10_000
    await relay.close()


async def test_one_refused_one_accepted(world: World, tmp_path: Path) -> None:
    """Postfix refuses one of two at RCPT: the other's mail arrives, and the sender hears of the one."""
    relay = relay_to(world.plain)
    async with rig_for(relay, tmp_path) as rig:
        await rig.put(REFUSED, BEN, hop=RELAY, body=body_of("one-of-two"))
        (notice,) = await rig.until_told(1)
        assert notice.failures == {REFUSED.encode()}
        await rig.until(lambda rows: not rows)
    await relay.close()
    assert world.arrived("one-of-two").recipients == [BEN]


async def test_the_wishes_of_the_sender_go_on_and_postfix_answers_them(world: World, tmp_path: Path) -> None:
    """With DSN offered we say nothing ourselves: Postfix tells `relayed` to the sender, with his ENVID and ORCPT."""
    relay = relay_to(world.plain)
    wish = RecipientOptions(notify="SUCCESS", orcpt="rfc822;ana.maria@example.edu")
    async with rig_for(relay, tmp_path) as rig:
        sender = "wisher@out.example"
        await rig.put(ANA, hop=RELAY, options=wish, body=body_of("wish"), sender=sender, ret="HDRS", envid="order+2D9")
        await rig.until(lambda rows: not rows)
        assert not rig.notices
    await relay.close()
    told = world.arrived("Action: relayed")
    assert told.recipients == ["wisher@out.example"]
    assert b"Original-Envelope-Id: order-9" in told.body
    assert b"Original-Recipient: rfc822;ana.maria@example.edu" in told.body


async def test_eight_bits_and_international_addresses(world: World, tmp_path: Path) -> None:
    """Both arrive as they were where Postfix offers SMTPUTF8 and 8BITMIME."""
    relay = relay_to(world.plain)
    async with rig_for(relay, tmp_path) as rig:
        await rig.put(
            "josé@out.example",
            hop=RELAY,
            body=body_of("international", "¡Adiós!"),
            sender="señora@out.example",
            body_type=BodyType.EIGHTBITMIME,
            smtputf8=True,
        )
        await rig.until(lambda rows: not rows)
        assert not rig.notices
    await relay.close()
    found = world.arrived("international")
    assert "¡Adiós!".encode() in found.body
    assert (found.recipients, "señora@out.example" in found.mail) == (["josé@out.example"], True)


async def test_what_is_not_offered_is_not_used(world: World, tmp_path: Path) -> None:
    """A bare ESMTP server: 8-bit text goes as it is, a UTF-8 address fails, and SUCCESS is answered by us."""
    relay = relay_to(world.bare)
    async with rig_for(relay, tmp_path) as rig:
        body = body_of("bare", "¡Adiós!")
        wishes = [RecipientOptions(notify="SUCCESS"), RecipientOptions()]
        await rig.put(ANA, "josé@out.example", hop=RELAY, body=body, options=wishes, body_type=BodyType.EIGHTBITMIME)
        notices = await rig.until_told(2)
        assert sorted(each.field("Action")[0] for each in notices) == ["failed", "relayed"]
        await rig.until(lambda rows: not rows)
    await relay.close()
    assert "¡Adiós!".encode() in world.arrived("X-Token: bare").body


async def test_one_connection_for_many_messages(world: World, tmp_path: Path) -> None:
    """Postfix counts five messages on one connection, which ends with QUIT."""
    relay = relay_to(world.plain)
    async with rig_for(relay, tmp_path) as rig:
        for number in range(5):
            await rig.put(ANA, hop=RELAY, body=body_of(f"many-{number}"))
            await rig.until(lambda rows: not rows)
    await relay.close()
    wait_until(lambda: "mail=5 rcpt=5 data=5 quit=1" in world.postfix.log_text(), 60.0, "the end of the connection")
