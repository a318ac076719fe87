"""What the smarthost's answers, and the lack of them, mean for queued mail: a scripted SMTP server, the real queue."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailfront.delivery.outbound_settings import OutboundSettings
from mailfront.delivery.relay import Relay
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.next_hop import RELAY
from mailfront.queue.rows import RecipientState
from mailfront.transfer.outbound import Smarthost
from tests.support.certificates import Authority, CertificateFiles
from tests.support.hops import HopRig
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer

ANA, BEN, EVA = (f"{name}@out.example" for name in ("ana", "ben", "eva"))
ALL = ("8BITMIME", "SMTPUTF8", "DSN", "SIZE 1000000")


@pytest.fixture
def peer() -> Iterator[ScriptedLmtpPeer]:
    with ScriptedLmtpPeer(smtp=True, extensions=ALL) as running:
        yield running


def relay_to(peer: ScriptedLmtpPeer, **more: object) -> Relay:
    """A relay without TLS to the peer; settings as they are written in the file."""
    settings = {"smarthost": f"127.0.0.1:{peer.port}", "tls": "off", "connect_timeout": "5s", "reply_timeout": "5s"}
    return Relay(OutboundSettings.model_validate({**settings, **more}), client_name="mx1.example.edu")


def rig_for(relay: Relay, folder: Path, *, retry_s: float = 1.0) -> HopRig:
    """A queue and a runner whose smarthost it is, with two connections."""
    return HopRig(folder, {RELAY: (Smarthost(relay), 2)}, retry_s=retry_s)


async def test_each_recipient_has_its_own_result(peer: ScriptedLmtpPeer, tmp_path: Path) -> None:
    """One accepted, one refused, one deferred at RCPT: gone, told, waiting; the others' mail went on."""
    peer.set_script(
        {
            f"RCPT <{BEN}>": Action(replies=("550 5.1.1 nobody",)),
            f"RCPT <{EVA}>": Action(replies=("450 4.2.1 not now",)),
        }
    )
    relay = relay_to(peer)
    async with rig_for(relay, tmp_path, retry_s=60.0) as rig:
        await rig.put(ANA, BEN, EVA, hop=RELAY)
        (row,) = await rig.until(lambda rows: len(rows) == 1 and rows[0].state is RecipientState.WAITING)
        assert (row.address, row.last_reply) == (EVA, "450 4.2.1 not now")
        (notice,) = await rig.until_told(1)
        assert notice.failures == {BEN.encode()}
    await relay.close()
    assert peer.received()[0].accepted == [ANA]
    assert peer.received()[0].body.endswith(b"hello\r\n.a dot\r\n")


async def test_what_a_result_makes_due_is_done_in_time(
    peer: ScriptedLmtpPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notice of a failure goes at once and the next attempt when it is due, and not when the runner looks again
    because it has not for long."""
    monkeypatch.setattr("mailfront.transfer.runner.LONGEST_SLEEP_S", 600.0)
    for number, refusal in enumerate(("550 5.1.1 nobody", "450 4.2.1 not now") * 4):
        peer.set_script({"RCPT": [Action(replies=(refusal,))]})
        relay = relay_to(peer)
        (tmp_path / str(number)).mkdir()
        async with rig_for(relay, tmp_path / str(number), retry_s=0.2) as rig:
            await rig.put(ANA, hop=RELAY)
            await (rig.until_told(1) if refusal.startswith("5") else rig.until(lambda rows: not rows))
        await relay.close()


@pytest.mark.parametrize("step", ["MAIL", "DATA", "dot"])
async def test_a_refusal_of_the_message_fails_all_its_recipients(
    peer: ScriptedLmtpPeer, step: str, tmp_path: Path
) -> None:
    """5xx to MAIL, to DATA or after the dot: one notice names all, with the server's word."""
    peer.set_script({step: Action(replies=("554 5.7.1 we do not like it",))})
    relay = relay_to(peer)
    async with rig_for(relay, tmp_path) as rig:
        await rig.put(ANA, BEN, hop=RELAY)
        (notice,) = await rig.until_told(1)
        assert notice.failures == {ANA.encode(), BEN.encode()}
        assert notice.field("Diagnostic-Code")[0] == "smtp; 554 5.7.1 we do not like it"
        assert not await rig.rows()
    await relay.close()


@pytest.mark.parametrize("last", [Action(then="close"), Action(replies=("421 4.3.2 closing",), then="close")])
async def test_no_answer_after_the_dot_is_unknown_and_sent_again(
    peer: ScriptedLmtpPeer, last: Action, tmp_path: Path
) -> None:
    """The server may have stored it: the row says so until an attempt there is answered."""
    peer.set_script({"dot": [last]})
    relay = relay_to(peer)
    async with rig_for(relay, tmp_path) as rig:
        await rig.put(ANA, hop=RELAY)
        (row,) = await rig.until(lambda rows: rows[0].state is RecipientState.UNKNOWN)
        assert row.node == RELAY
        await rig.until(lambda rows: not rows)
        assert not rig.notices
    await relay.close()
    assert len(peer.received()) == 2


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
async def test_a_connection_lost_before_the_data_loses_and_repeats_nothing(
    peer: ScriptedLmtpPeer, step: str, tmp_path: Path
) -> None:
    """A fresh connection that breaks: deferred, with an alarm; nothing was sent, so nothing is unknown."""
    peer.set_script({step: [Action(then="close")]})
    relay = relay_to(peer)
    async with rig_for(relay, tmp_path) as rig:
        await rig.put(ANA, hop=RELAY)
        (row,) = await rig.until(lambda rows: rows[0].last_reply)
        assert (row.state, row.blame) == (RecipientState.WAITING, "node")
        assert [alarm.name for alarm in rig.health.alarms()] == ["queue.hop_fails.@relay"]
        await rig.until(lambda rows: not rows)
        assert not rig.health.alarms()
    await relay.close()
    assert len(peer.received()) == 1


@pytest.mark.parametrize("parting", [Action(then="close"), Action(replies=("421 4.4.2 idle too long",), then="close")])
async def test_a_kept_connection_that_ended_costs_nothing(
    peer: ScriptedLmtpPeer, parting: Action, tmp_path: Path
) -> None:
    """The server closes after the first message, or says 421 to the second: it goes at once over a new connection."""
    relay = relay_to(peer)
    peer.set_script({"MAIL": [Action(), parting]})
    async with rig_for(relay, tmp_path, retry_s=60.0) as rig:
        for address in (ANA, BEN):
            await rig.put(address, hop=RELAY)
            await rig.until(lambda rows: not rows)
        assert not rig.health.alarms()
    await relay.close()
    assert [each.connection for each in peer.received()] == [1, 2]


@pytest.mark.parametrize("answer", [Action(replies=("502 5.5.1 not implemented",)), Action(then="stall")])
async def test_a_transaction_that_is_not_ended_takes_its_connection_with_it(
    peer: ScriptedLmtpPeer, answer: Action, tmp_path: Path
) -> None:
    """RSET is refused or never answered: the next message goes over a new connection, and fails by no fault of its
    own."""
    peer.set_script({f"RCPT <{BEN}>": Action(replies=("550 5.1.1 nobody",)), "RSET": [answer]})
    relay = relay_to(peer, reply_timeout="1s")
    async with rig_for(relay, tmp_path, retry_s=60.0) as rig:
        for address in (BEN, ANA):
            await rig.put(address, hop=RELAY)
            await rig.until(lambda rows: not rows)
        assert [notice.failures for notice in rig.notices] == [{BEN.encode()}]
    await asyncio.wait_for(relay.close(), 10.0)
    assert [each.connection for each in peer.received()] == [2]


async def test_connections_are_kept_and_never_more_than_the_setting(peer: ScriptedLmtpPeer, tmp_path: Path) -> None:
    """Twelve messages, each answered slowly: two connections carry them all, and say QUIT at the end."""
    peer.set_script({"dot": Action(delay_s=0.05, replies=("250 2.0.0 stored",))})
    relay = relay_to(peer, connections=2)
    async with rig_for(relay, tmp_path) as rig:
        for number in range(12):
            await rig.put(f"u{number}@out.example", hop=RELAY)
        await rig.until(lambda rows: not rows)
    await relay.close()
    assert len(peer.received()) == 12
    assert peer.connections == 2
    assert peer.verbs().count("QUIT") == 2


async def test_what_is_offered_is_used(peer: ScriptedLmtpPeer, tmp_path: Path) -> None:
    """SIZE, BODY, RET, ENVID, NOTIFY and ORCPT go on; who passed the sender's wishes on tells him nothing himself."""
    relay = relay_to(peer)
    wish = RecipientOptions(notify="SUCCESS,FAILURE", orcpt="rfc822;ana+40out.example")
    async with rig_for(relay, tmp_path) as rig:
        await rig.put(ANA, hop=RELAY, options=wish, ret="HDRS", envid="e+2B1")
        await rig.until(lambda rows: not rows)
        assert not rig.notices
    await relay.close()
    lines = [line for _, line in peer.commands]
    assert any(
        line.startswith("MAIL FROM:<sender@out.example> SIZE=") and "RET=HDRS ENVID=e+2B1" in line for line in lines
    )
    assert f"RCPT TO:<{ANA}> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;ana+40out.example" in lines


async def test_the_null_sender_and_an_international_recipient(peer: ScriptedLmtpPeer, tmp_path: Path) -> None:
    """`MAIL FROM:<>` stays null; a non-ASCII address is said in UTF-8 with SMTPUTF8."""
    relay = relay_to(peer)
    async with rig_for(relay, tmp_path) as rig:
        await rig.put("josé@out.example", hop=RELAY, sender=None)
        await rig.until(lambda rows: not rows)
    await relay.close()
    mail = next(line for _, line in peer.commands if line.startswith("MAIL"))
    assert mail.startswith("MAIL FROM:<> ")
    assert mail.endswith("BODY=8BITMIME SMTPUTF8")
    assert peer.received()[0].recipients == ["josé@out.example"]


async def test_without_smtputf8_only_those_who_need_it_fail(tmp_path: Path) -> None:
    """5.6.7 for the address in UTF-8, in a notice that names it by RFC 6533; the ASCII one gets the message."""
    with ScriptedLmtpPeer(smtp=True, extensions=()) as peer:
        relay = relay_to(peer)
        async with rig_for(relay, tmp_path) as rig:
            await rig.put("josé@out.example", ANA, hop=RELAY, smtputf8=True)
            (notice,) = await rig.until_told(1)
            await rig.until(lambda rows: not rows)
            assert notice.field("Status") == ["5.6.7"]
            assert notice.field("Final-Recipient") == ["utf-8; josé@out.example"]
        await relay.close()
        assert peer.received()[0].recipients == [ANA]
        assert peer.received()[0].mail == "MAIL FROM:<sender@out.example>"


async def test_without_dsn_the_sender_hears_that_it_was_relayed(tmp_path: Path) -> None:
    """RFC 3461 section 5.2.2: SUCCESS was asked for and the next server cannot be told: `relayed`, at once."""
    with ScriptedLmtpPeer(smtp=True, extensions=()) as peer:
        relay = relay_to(peer)
        async with rig_for(relay, tmp_path) as rig:
            wishes = [RecipientOptions(notify="SUCCESS"), RecipientOptions(notify="FAILURE")]
            await rig.put(ANA, BEN, hop=RELAY, options=wishes, envid="order-7")
            (notice,) = await rig.until_told(1)
            assert notice.field("Action") == ["relayed"]
            assert notice.field("Final-Recipient") == [f"rfc822; {ANA}"]
            assert notice.field("Original-Envelope-Id") == ["order-7"]
            assert notice.message.reverse_path is None
        await relay.close()
        assert {line for _, line in peer.commands if line.startswith("RCPT")} == {
            f"RCPT TO:<{ANA}>",
            f"RCPT TO:<{BEN}>",
        }


async def test_what_was_said_before_tls_is_not_believed(
    tmp_path: Path, authority: Authority, server_certificate: CertificateFiles
) -> None:
    """Somebody on the way adds an answer to the one to STARTTLS, which would be taken for that to the next EHLO: DSN is
    not offered for that, and the sender's wish is answered here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_certificate.certificate, server_certificate.key)
    injected = {"STARTTLS": Action(replies=("220 2.0.0 go", "250-peer.example.edu", "250 DSN"))}
    with ScriptedLmtpPeer(injected, smtp=True, extensions=("8BITMIME",), tls="starttls", context=context) as peer:
        relay = relay_to(peer, tls="starttls", ca=str(authority.ca_file))
        async with rig_for(relay, tmp_path) as rig:
            await rig.put(ANA, hop=RELAY, options=RecipientOptions(notify="SUCCESS"))
            (notice,) = await rig.until_told(1)
            assert notice.field("Action") == ["relayed"]
        await relay.close()
        assert peer.verbs(1)[:4] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]
        assert f"RCPT TO:<{ANA}>" in [line for _, line in peer.commands]


async def test_a_server_that_hangs_holds_its_connections_only(peer: ScriptedLmtpPeer, tmp_path: Path) -> None:
    """No answer to RCPT within `reply_timeout`: deferred with the reason; the connection is not used again."""
    peer.set_script({"RCPT": [Action(then="stall")]})
    relay = relay_to(peer, reply_timeout="1s")
    async with rig_for(relay, tmp_path) as rig:
        await rig.put(ANA, hop=RELAY)
        (row,) = await rig.until(lambda rows: rows[0].last_reply)
        assert "Timed out" in row.last_reply
        await rig.until(lambda rows: not rows)
    await asyncio.wait_for(relay.close(), 10.0)
    assert [each.connection for each in peer.received()] == [2]
