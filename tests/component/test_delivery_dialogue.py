"""What is said to a node, by what it offers; the `delivery` event; probes."""

from typing import Any

import pytest

from mailfront.mail.address import Address
from mailfront.mail.envelope import BodyType, RecipientOptions
from mailfront.mail.outcome import Deferred, Delivered, Failed
from mailfront.observe import log
from tests.support.delivery import (
    MESSAGE_ID,
    NODE,
    RecordingSink,
    delivery_to,
    endpoint_of,
    message,
    on_each_loop,
    quick,
)
from tests.support.lmtp_peer import GOOD_EXTENSIONS, Action, ScriptedLmtpPeer

EVERYTHING = (*GOOD_EXTENSIONS, "SIZE 1000000", "SMTPUTF8", "DSN")


async def commands(extensions: tuple[str, ...], **of_message: Any) -> list[str]:
    """What a peer with these extensions is told for one message that is delivered."""
    with ScriptedLmtpPeer(extensions=extensions) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        (outcome,) = await delivery.start(NODE, message(**of_message), slot_wait_s=1.0).result()
        assert isinstance(outcome, Delivered), outcome
        await delivery.close()
        return [line for _, line in peer.commands if line != "QUIT"]


@on_each_loop
async def test_all_parameters_where_they_are_offered() -> None:
    """SIZE, BODY, RET, ENVID, NOTIFY and ORCPT go to a node that offers them, as the client wrote them."""
    options = RecipientOptions(notify="SUCCESS,FAILURE", orcpt="rfc822;Ana+40example.edu")
    said = await commands(
        EVERYTHING, body=b"12345\r\n", body_type=BodyType.EIGHTBITMIME, options=options, dsn=("HDRS", "QQ+2B1")
    )
    assert said == [
        "LHLO mx.example.edu",
        "MAIL FROM:<sender@example.org> SIZE=7 BODY=8BITMIME RET=HDRS ENVID=QQ+2B1",
        "RCPT TO:<ana> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Ana+40example.edu",
        "DATA",
    ]


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)])
@on_each_loop
async def test_no_parameter_where_nothing_is_offered(extensions: tuple[str, ...]) -> None:
    """A bare node is told the bare envelope, one command at a time or all at once."""
    options = RecipientOptions(notify="NEVER", orcpt="rfc822;ana")
    said = await commands(
        extensions,
        body_type=BodyType.EIGHTBITMIME,
        options=options,
        dsn=("FULL", "x"),
        smtputf8=True,
        reverse_path=None,
    )
    assert said == ["LHLO mx.example.edu", "MAIL FROM:<>", "RCPT TO:<ana>", "DATA"]


@on_each_loop
async def test_internationalized_addresses() -> None:
    """With SMTPUTF8 they go out; without it only the mailboxes that need it fail, for good and by name."""
    with ScriptedLmtpPeer(extensions=EVERYTHING) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        (outcome,) = await delivery.start(NODE, message("änne", smtputf8=True), slot_wait_s=1.0).result()
        assert isinstance(outcome, Delivered)
        await delivery.close()
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        outcomes = await delivery.start(NODE, message("änne", "bo", smtputf8=True), slot_wait_s=1.0).result()
        assert isinstance(outcomes[0], Failed)
        assert (outcomes[0].reply.code, outcomes[0].reply.enhanced) == (550, "5.6.7")
        assert isinstance(outcomes[1], Delivered)
        sender = Address("jürgen", "example.org")
        (outcome,) = await delivery.start(NODE, message(reverse_path=sender), slot_wait_s=1.0).result()
        assert isinstance(outcome, Failed)
        assert len(peer.transactions) == 1
        await delivery.close()


@on_each_loop
async def test_strict_8bit() -> None:
    """8-bit mail to a node without 8BITMIME: sent as it is, or refused if the administrator is strict."""
    for settings, kind in ((quick(), Delivered), (quick(strict_8bit=True), Failed)):
        with ScriptedLmtpPeer(extensions=("PIPELINING",)) as peer:
            delivery = delivery_to(endpoint_of(peer.endpoint), settings=settings)
            attempt = delivery.start(NODE, message(body_type=BodyType.EIGHTBITMIME), slot_wait_s=1.0)
            assert isinstance((await attempt.result())[0], kind)
            await delivery.close()


@on_each_loop
async def test_a_node_user_that_cannot_be_written() -> None:
    """A name that would break the line is never sent: deferred with an alarm, and the connection stays in use."""
    with ScriptedLmtpPeer() as peer:
        sink = RecordingSink()
        delivery = delivery_to(endpoint_of(peer.endpoint), sink)
        await delivery.start(NODE, message(), slot_wait_s=1.0).result()
        (outcome,) = await delivery.start(NODE, message("x>\r\nRCPT TO:<root"), slot_wait_s=1.0).result()
        assert isinstance(outcome, Deferred)
        assert outcome.alarm
        assert sink.kinds == ["succeeded", "alarm"]
        assert "root" not in str(peer.commands)
        await delivery.close()


def test_a_transaction_names_each_mailbox_once() -> None:
    """Dovecot merges equal RCPTs silently: the replies would not add up."""
    for users in (("ana", "ana"), ("ana", "bo", "ana")):
        with pytest.raises(ValueError, match="each of them once"):
            message(*users)


class TestEvent:
    """The one `delivery` line of an attempt."""

    @on_each_loop
    async def test_delivered(self) -> None:
        """It carries node, recipients, outcome, reply, phase and the times of the stages."""
        lines: list[dict[str, Any]] = []
        with ScriptedLmtpPeer() as peer, log.listening(lines.append):
            delivery = delivery_to(endpoint_of(peer.endpoint))
            for _ in range(2):
                await delivery.start(NODE, message(), slot_wait_s=1.0, source="queue", attempt=3).result()
            await delivery.close()
        first, second = (line for line in lines if line["event"] == "delivery")
        assert (first["id"], first["node"], first["source"], first["attempt"]) == (MESSAGE_ID, NODE, "queue", 3)
        assert (first["outcome"], first["phase"], first["reused"]) == ("delivered", "dotted", False)
        assert first["recipients"] == [{"address": "ana", "outcome": "delivered", "reply": "250 2.0.0 <ana> stored"}]
        assert first["reverse_path"] == "sender@example.org"
        for name in ("slot_ms", "connect_ms", "envelope_ms", "body_ms", "final_ms", "total_ms"):
            assert first[name] >= 0
        assert second["reused"]

    @on_each_loop
    async def test_other_endings(self) -> None:
        """A mixture is called mixed, a stopped attempt aborted, and a deferral says whose trouble it is."""
        lines: list[dict[str, Any]] = []
        script = {"RCPT <bo>": Action(replies=("550 5.7.1 no",)), "RCPT <cy>": Action(replies=("452 4.2.2 full",))}
        with ScriptedLmtpPeer(script) as peer, log.listening(lines.append):
            delivery = delivery_to(endpoint_of(peer.endpoint))
            await delivery.start(NODE, message("ana", "bo"), slot_wait_s=1.0).result()
            await delivery.start(NODE, message("cy"), slot_wait_s=1.0).result()
            stopped = delivery.start(NODE, message("ana"), slot_wait_s=1.0)
            stopped.abort("the deadline")
            await stopped.result()
            await delivery.close()
        said = [(line["outcome"], line.get("blame")) for line in lines if line["event"] == "delivery"]
        assert said == [("mixed", None), ("deferred", "mailbox"), ("aborted", "node")]


class TestProbe:
    """Asking a node whether it is well."""

    @on_each_loop
    async def test_all_is_well(self) -> None:
        """Greeting, LHLO, MAIL and RCPT for the handoff account, then QUIT; no message, no slot."""
        with ScriptedLmtpPeer(extensions=EVERYTHING) as peer:
            delivery = delivery_to(endpoint_of(peer.endpoint))
            result = await delivery.probe(NODE, "handoff@example.edu")
            assert (result.lmtp_ok, result.handoff_ok, result.text) == (True, True, "")
            assert result.extensions.size_limit_bytes == 1_000_000
            assert [line for _, line in peer.commands][1:3] == ["MAIL FROM:<>", "RCPT TO:<handoff@example.edu>"]
            assert (await delivery.probe(NODE)).handoff_ok is None
            await delivery.close()

    @pytest.mark.parametrize(
        ("script", "lmtp_ok", "handoff_ok", "text"),
        [
            ({"RCPT": Action(replies=("550 5.1.1 who",))}, True, False, "550 5.1.1 who"),
            ({"MAIL": Action(replies=("451 4.3.0 no",))}, False, None, "451 4.3.0 no"),
            ({"connect": Action(then="stall")}, False, None, "no answer at greeting: nothing for 0.3 s"),
            ({"LHLO": Action(then="close")}, False, None, "connection lost at LHLO: closed by the node"),
            ({"RCPT": Action(then="stall")}, False, None, "no answer at RCPT: nothing for 0.3 s"),
        ],
    )
    @on_each_loop
    async def test_trouble(self, script: dict[str, Action], lmtp_ok: bool, handoff_ok: bool | None, text: str) -> None:
        """The result says what does not work, and where."""
        with ScriptedLmtpPeer(script) as peer:
            delivery = delivery_to(endpoint_of(peer.endpoint))
            result = await delivery.probe(NODE, "handoff@example.edu")
            assert (result.lmtp_ok, result.handoff_ok, result.text) == (lmtp_ok, handoff_ok, text)
            await delivery.close()
