"""Mail for a `[[route]]`: from the queue to LMTP servers that are no storage nodes and keep the rules more or less."""

import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP

from mailfront.delivery.endpoint import NodeEndpoint
from mailfront.delivery.settings import DeliverySettings
from mailfront.delivery.transaction import Delivery
from mailfront.delivery.trouble import Authority
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import NodeId
from mailfront.mail.next_hop import route_hop
from mailfront.queue.operations import Order, QueueOperations, Verb
from mailfront.queue.rows import QueuedRecipient, RecipientState
from mailfront.queue.views import QueueViews
from mailfront.store.queue_queries import Selector
from mailfront.transfer.outbound import Route
from tests.support.certificates import Authority as CertificateAuthority
from tests.support.certificates import CertificateFiles
from tests.support.delivery import RecordingSink, quick
from tests.support.hops import HopRig
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer
from tests.support.ports import free_port

HOP = route_hop("lists.example.edu")
ANA, BEN, EVA = (f"{name}@lists.example.edu" for name in ("ana", "ben", "eva"))
PATIENT = quick(connect_timeout="5s", reply_timeout="5s", body_timeout="5s", final_timeout="5s")


def route_to(
    port: int,
    *,
    settings: DeliverySettings = PATIENT,
    tls_context: ssl.SSLContext | None = None,
    server_name: str = "",
    hop: NodeId = HOP,
) -> tuple[Route, Delivery]:
    """The hop of a route to this port, as the keeper makes it."""
    endpoint = NodeEndpoint(
        host="127.0.0.1",
        port=port,
        tls="off" if tls_context is None else "starttls",
        server_name=server_name,
        lmtp_connections=2,
        authority=Authority.ELSEWHERE,
    )
    delivery = Delivery(
        {hop: endpoint},
        client_name="mx1.example.edu",
        settings=settings,
        tls_context=tls_context,
        evidence=RecordingSink(),
    )
    return Route(hop, delivery), delivery


async def test_each_answer_settles_its_own_row(tmp_path: Path) -> None:
    """Accepted: gone. Refused, also with 5.1.1: gone, and the sender has the server's own word. 4xx: it waits."""
    script = {
        f"RCPT <{BEN}>": Action(replies=("550 5.1.1 there is no such list",)),
        f"dot <{EVA}>": Action(replies=("450 4.2.0 not now",)),
    }
    with ScriptedLmtpPeer(script) as peer:
        route, delivery = route_to(peer.port)
        async with HopRig(tmp_path, {HOP: (route, 2)}, retry_s=60.0) as rig:
            await rig.put(ANA, BEN, EVA, hop=HOP)
            (row,) = await rig.until(lambda rows: len(rows) == 1 and rows[0].state is RecipientState.WAITING)
            assert (row.address, row.last_reply, row.blame) == (EVA, "450 4.2.0 not now", "mailbox")
            (notice,) = await rig.until_told(1)
            assert notice.failures == {BEN.encode()}
            assert notice.field("Diagnostic-Code") == ["smtp; 550 5.1.1 there is no such list"]
            assert not rig.health.alarms()
        await delivery.close()
        assert peer.received()[0].body.endswith(b"hello\r\n.a dot\r\n")


async def test_a_server_that_gives_too_few_replies_costs_each_recipient_one_repetition(tmp_path: Path) -> None:
    """One reply for three: the other two are unknown at that hop, and are sent again there one by one, each once."""
    with ScriptedLmtpPeer({"dot": [Action(replies=("250 2.0.0 stored, all of you",), then="close")]}) as peer:
        route, delivery = route_to(peer.port)
        async with HopRig(tmp_path, {HOP: (route, 2)}) as rig:
            await rig.put(ANA, BEN, EVA, hop=HOP)
            unknown = await rig.until(lambda rows: {row.state for row in rows} == {RecipientState.UNKNOWN})
            assert {(row.address, row.node) for row in unknown} == {(BEN, HOP), (EVA, HOP)}
            await rig.until(lambda rows: not rows)
            assert not rig.notices
        await delivery.close()
        together, *one_by_one = [each.recipients for each in peer.received()]
        assert (together, sorted(one_by_one)) == ([ANA, BEN, EVA], [[BEN], [EVA]])


async def test_a_server_that_gives_too_many_replies_is_left(tmp_path: Path) -> None:
    """The replies that were due count; the connection, which is out of step, is not used again."""
    extra = Action(replies=("250 2.0.0 one", "250 2.0.0 and one more"))
    with ScriptedLmtpPeer({"dot": [extra]}) as peer:
        route, delivery = route_to(peer.port)
        async with HopRig(tmp_path, {HOP: (route, 2)}) as rig:
            await rig.put(ANA, hop=HOP)
            await rig.until(lambda rows: not rows)
            await rig.put(BEN, hop=HOP)
            await rig.until(lambda rows: not rows)
        await delivery.close()
        assert [(each.connection, each.recipients) for each in peer.received()] == [(1, [ANA]), (2, [BEN])]


async def test_a_route_that_is_away_is_paused_with_an_alarm_that_ends_with_it(tmp_path: Path) -> None:
    """Nobody listens: the mail waits, the alarm says why; when the server is there all of it goes, and the alarm."""
    peer = ScriptedLmtpPeer()
    route, delivery = route_to(peer.port)
    async with HopRig(tmp_path, {HOP: (route, 2)}) as rig:
        await rig.put(ANA, hop=HOP)
        await rig.put(BEN, hop=HOP)
        await rig.until(lambda rows: any(row.last_reply for row in rows))
        (alarm,) = rig.health.alarms()
        assert alarm.name == f"queue.hop_fails.{HOP}"
        assert "cannot connect" in alarm.text
        with peer:
            await rig.until(lambda rows: not rows)
        assert not rig.health.alarms()
    await delivery.close()


async def test_a_destination_that_hangs_has_its_own_connections_only(tmp_path: Path) -> None:
    """Five messages for a route that stopped answering: two are under way there, as many as it may have, and mail for
    another route goes past all of them."""
    other_hop = route_hop("desk.example.edu")
    with ScriptedLmtpPeer({"MAIL": Action(then="stall")}) as hanging, ScriptedLmtpPeer() as well:
        (slow, slow_delivery), (quick_one, quick_delivery) = route_to(hanging.port), route_to(well.port, hop=other_hop)
        async with HopRig(tmp_path, {HOP: (slow, 2), other_hop: (quick_one, 2)}) as rig:
            for number in range(5):
                await rig.put(f"u{number}@lists.example.edu", hop=HOP)
            await rig.until(lambda rows: hanging.stalls == 2)
            await rig.put("ana@desk.example.edu", hop=other_hop)
            rows = await rig.until(lambda rows: "ana@desk.example.edu" not in {row.address for row in rows})
            assert [row.state.value for row in rows].count("active") == 2
            assert (hanging.connections, hanging.stalls, len(well.received())) == (2, 2, 1)
            hanging.set_script({})
            hanging.release()
            await rig.until(lambda rows: not rows)
        assert len(hanging.received()) == 5
        for delivery in (slow_delivery, quick_delivery):
            await delivery.close()


def have_failed(attempts: int, rows: list[QueuedRecipient]) -> bool:
    """Whether the hop failed each of them for so many times."""
    return {(row.attempts, row.blame) for row in rows} == {(attempts, "node")}


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.RELEASE])
async def test_a_retry_does_not_wait_for_the_end_of_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: Verb
) -> None:
    """The server was away, and would not be tried for ten minutes; the administrator, who has mended it, has his mail
    tried at once, and all other mail follows. While it is still away each retry is one attempt."""
    monkeypatch.setattr("mailfront.transfer.runner.LONGEST_SLEEP_S", 600.0)
    peer = ScriptedLmtpPeer()
    route, delivery = route_to(peer.port)
    async with HopRig(tmp_path, {HOP: (route, 2)}, retry_s=600.0, pause_s=600.0) as rig:
        operations = QueueOperations(rig.queue, QueueViews(rig.store, rig.homes))

        async def order(what: Verb, *addresses: str) -> None:
            await operations.run(Order(verb=what, selector=Selector(recipients=addresses), uid=0))

        await rig.put(ANA, BEN, hop=HOP)
        for attempts in (1, 2, 3):
            await rig.until(partial(have_failed, attempts))
            if verb is Verb.RELEASE:
                await order(Verb.HOLD, ANA, BEN)
            if attempts < 3:
                await order(verb, ANA, BEN)
        with peer:
            if verb is Verb.RELEASE:
                await order(Verb.RELEASE, BEN)
            await order(verb, ANA)
            await rig.until(lambda rows: not rows)
    await delivery.close()


async def test_success_is_told_when_the_server_took_it(tmp_path: Path) -> None:
    """An LMTP server that has no DSN delivers for good: the sender who asked hears `delivered`, and only he."""
    with ScriptedLmtpPeer() as peer:
        route, delivery = route_to(peer.port)
        async with HopRig(tmp_path, {HOP: (route, 2)}) as rig:
            await rig.put(ANA, BEN, hop=HOP, options=[RecipientOptions(notify="SUCCESS"), RecipientOptions()])
            (notice,) = await rig.until_told(1)
            assert notice.field("Action") == ["delivered"]
            assert notice.field("Final-Recipient") == [f"rfc822; {ANA}"]
        await delivery.close()


@pytest.mark.parametrize("good", [True, False])
async def test_tls_to_a_route_is_verified(
    good: bool, tmp_path: Path, authority: CertificateAuthority, server_certificate: CertificateFiles
) -> None:
    """A certificate for another name: nothing is sent, and the row says why."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_certificate.certificate, server_certificate.key)
    with ScriptedLmtpPeer(tls="starttls", context=context) as peer:
        name = "localhost" if good else "lists.example.edu"
        route, delivery = route_to(peer.port, tls_context=authority.client_context(), server_name=name)
        async with HopRig(tmp_path, {HOP: (route, 2)}) as rig:
            await rig.put(ANA, hop=HOP)
            if good:
                await rig.until(lambda rows: not rows)
            else:
                (row,) = await rig.until(lambda rows: rows[0].last_reply)
                assert "certificate is not accepted" in row.last_reply
        await delivery.close()
        assert len(peer.transactions) == good


class _AnswersOnce:
    """aiosmtpd's LMTP server answers once after the dot, however many recipients it accepted."""

    def __init__(self) -> None:
        self.recipients: list[list[str]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep it."""
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 2.0.0 kept"


class _LmtpController(Controller):
    def factory(self) -> LMTP:
        """The server that aiosmtpd has for LMTP."""
        return LMTP(self.handler)


@pytest.fixture
def answers_once() -> Iterator[tuple[_AnswersOnce, int]]:
    handler = _AnswersOnce()
    controller = _LmtpController(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield handler, controller.port
    controller.stop()


async def test_aiosmtpd_as_the_server_of_a_route(answers_once: tuple[_AnswersOnce, int], tmp_path: Path) -> None:
    """A real server with that fault, which then says no more: after `final_timeout` the rest is sent one by one."""
    handler, port = answers_once
    route, delivery = route_to(port, settings=quick(final_timeout="1s", reply_timeout="5s"))
    async with HopRig(tmp_path, {HOP: (route, 2)}) as rig:
        await rig.put(ANA, BEN, EVA, hop=HOP)
        await rig.until(lambda rows: not rows)
    await delivery.close()
    together, *one_by_one = handler.recipients
    assert (together, sorted(one_by_one)) == ([ANA, BEN, EVA], [[BEN], [EVA]])
