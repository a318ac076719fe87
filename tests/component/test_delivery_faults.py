"""Every way in which a node can go wrong, at every stage, against a scripted peer."""

from pathlib import Path

import pytest

from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Outcome, Unknown
from mailfront.observe import log, metrics
from tests.support.delivery import BODY, NODE, RecordingSink, delivery_to, endpoint_of, message, on_each_loop, quick
from tests.support.lmtp_peer import Action, Script, ScriptedLmtpPeer

BEFORE_DOT = ("connect", "LHLO", "MAIL", "RCPT", "DATA")
LARGE_BODY = (b"x" * 76 + b"\r\n") * 200_000  # 15 MB: more than any socket buffer takes


async def outcomes_of(
    script: Script, *users: str, body: bytes = BODY, sink: RecordingSink | None = None
) -> list[Outcome]:
    """Deliver one message to a peer that follows the script."""
    with ScriptedLmtpPeer(script) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), sink)
        outcomes = await delivery.start(NODE, message(*users, body=body), slot_wait_s=0.1).result()
        await delivery.close()
        return list(outcomes)


def is_node_trouble(outcome: Outcome) -> bool:
    """Deferred by the node, told as 451."""
    return isinstance(outcome, Deferred) and outcome.blame is Blame.NODE and outcome.reply.code == 451


@pytest.mark.parametrize("then", ["stall", "close", "reset"])
@pytest.mark.parametrize("stage", BEFORE_DOT)
@on_each_loop
async def test_silence_or_loss_before_the_dot(stage: str, then: str) -> None:
    """Before the final dot a stall or a loss is the node's trouble, and evidence against it."""
    sink = RecordingSink()
    (outcome,) = await outcomes_of({stage: Action(then=then)}, sink=sink)  # type: ignore[arg-type]
    assert is_node_trouble(outcome)
    assert sink.kinds == ["connect_failed" if stage == "connect" else "message_failed"]


@pytest.mark.parametrize("then", ["stall", "close", "reset"])
@on_each_loop
async def test_silence_or_loss_in_the_body(then: str) -> None:
    """A node that stops taking the body is given up before the final dot: deferred, not unknown."""
    (outcome,) = await outcomes_of({"body": Action(then=then)}, body=LARGE_BODY)  # type: ignore[arg-type]
    assert is_node_trouble(outcome)


@pytest.mark.parametrize("then", ["stall", "close", "reset"])
@on_each_loop
async def test_silence_or_loss_after_the_dot(then: str) -> None:
    """After the final dot a stall or a loss leaves the outcome unknown."""
    sink = RecordingSink()
    (outcome,) = await outcomes_of({"dot": Action(then=then)}, sink=sink)  # type: ignore[arg-type]
    assert isinstance(outcome, Unknown)
    assert outcome.node == NODE
    assert sink.kinds == ["message_failed"]


@pytest.mark.parametrize("stage", ["connect", "LHLO", "MAIL", "DATA"])
@on_each_loop
async def test_4xx_from_the_node(stage: str) -> None:
    """4xx that is not about a mailbox is the node's trouble."""
    (outcome,) = await outcomes_of({stage: Action(replies=("451 4.3.0 not now",))})
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.NODE
    assert not outcome.alarm


@pytest.mark.parametrize("stage", ["LHLO", "MAIL", "DATA"])
@on_each_loop
async def test_5xx_from_the_node(stage: str) -> None:
    """5xx to what we say is our trouble: deferred, with an alarm, told as 4xx."""
    sink = RecordingSink()
    (outcome,) = await outcomes_of({stage: Action(replies=("555 5.5.4 what?",))}, sink=sink)
    assert is_node_trouble(outcome)
    assert isinstance(outcome, Deferred)
    assert outcome.alarm
    assert "alarm" in sink.kinds


@pytest.mark.parametrize("stage", ["RCPT", "dot"])
@on_each_loop
async def test_4xx_about_the_mailbox(stage: str) -> None:
    """4xx to RCPT or after the dot is the mailbox's trouble, in the node's own words, and no evidence."""
    sink = RecordingSink()
    (outcome,) = await outcomes_of({stage: Action(replies=("452 4.2.2 full",))}, sink=sink)
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.MAILBOX
    assert str(outcome.reply) == "452 4.2.2 full"
    assert sink.kinds == []


@pytest.mark.parametrize("stage", ["RCPT", "dot"])
@on_each_loop
async def test_5xx_about_the_mailbox(stage: str) -> None:
    """5xx to RCPT or after the dot is final, in the node's own words."""
    (outcome,) = await outcomes_of({stage: Action(replies=("550 5.7.1 not wanted",))})
    assert isinstance(outcome, Failed)
    assert str(outcome.reply) == "550 5.7.1 not wanted"


@pytest.mark.parametrize("stage", ["RCPT", "dot"])
@on_each_loop
async def test_unknown_at_the_node(stage: str) -> None:
    """5.1.1 for a mailbox that the directory knows is deferred and told to the judge of nodes."""
    sink = RecordingSink()
    (outcome,) = await outcomes_of({stage: Action(replies=("550 5.1.1 who",))}, sink=sink)
    assert isinstance(outcome, Deferred)
    assert "disagree" in outcome.alarm
    assert sink.seen == [("unknown_user", "ana")]


@pytest.mark.parametrize("stage", BEFORE_DOT)
@on_each_loop
async def test_421_before_the_dot(stage: str) -> None:
    """421 at any stage before the dot is the node's trouble."""
    (outcome,) = await outcomes_of({stage: Action(replies=("421 4.3.2 going down",), then="close")})
    assert is_node_trouble(outcome)


@on_each_loop
async def test_421_after_the_dot() -> None:
    """421 after the dot says nothing about the message, and what is not answered before the end is unknown too."""
    outcomes = await outcomes_of({"dot": Action(replies=("421 4.3.2 going down",), then="close")}, "ana", "bo")
    assert [type(outcome) for outcome in outcomes] == [Unknown, Unknown]


@pytest.mark.parametrize("then", ["close", "stall"])
@on_each_loop
async def test_too_few_replies(then: str) -> None:
    """Recipients without a reply are unknown; the ones that have one keep it."""
    script = {"dot": Action(replies=("250 2.0.0 one", "452 4.2.2 two"), then=then)}  # type: ignore[arg-type]
    outcomes = await outcomes_of(script, "ana", "bo", "cy", "di")
    assert [type(outcome) for outcome in outcomes] == [Delivered, Deferred, Unknown, Unknown]


@on_each_loop
async def test_too_many_replies() -> None:
    """The first replies count, and the connection is not used again."""
    script = {"dot": [Action(replies=("250 2.0.0 one", "250 2.0.0 two"))]}
    with ScriptedLmtpPeer(script) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        for _ in range(2):
            (outcome,) = await delivery.start(NODE, message(), slot_wait_s=0.1).result()
            assert isinstance(outcome, Delivered)
        await delivery.close()
        assert peer.connections == 2


@on_each_loop
async def test_each_recipient_has_its_own_outcome() -> None:
    """Refused at RCPT, full after the dot, delivered: each mailbox keeps what was said about it."""
    script = {"RCPT <bo>": Action(replies=("550 5.7.1 no",)), "dot <cy>": Action(replies=("452 4.2.2 full",))}
    outcomes = await outcomes_of(script, "ana", "bo", "cy", "di")
    assert [type(outcome) for outcome in outcomes] == [Delivered, Failed, Deferred, Delivered]


@on_each_loop
async def test_354_without_a_recipient() -> None:
    """A peer that wants a body for nobody gets a lone dot, never the message."""
    script = {"RCPT": Action(replies=("550 5.7.1 no",)), "DATA": Action(replies=("354 go",))}
    with ScriptedLmtpPeer(script) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        (outcome,) = await delivery.start(NODE, message(), slot_wait_s=0.1).result()
        assert isinstance(outcome, Failed)
        (received,) = peer.wait_for_messages(1)
        assert received.body == b""
        await delivery.close()


@pytest.mark.parametrize("stage", [*BEFORE_DOT, "dot"])
@pytest.mark.parametrize("reply", ["hello", "199 x", "2", "250-endless\r\n" * 200])
@on_each_loop
async def test_garbage(stage: str, reply: str) -> None:
    """What is not a reply ends the connection: deferred before the dot, unknown after it, never an exception."""
    (outcome,) = await outcomes_of({stage: Action(replies=(reply,), then="stall")})
    assert isinstance(outcome, Unknown) if stage == "dot" else is_node_trouble(outcome)


@on_each_loop
async def test_nobody_listens() -> None:
    """A refused connection is the node's trouble and counts at once."""
    peer, sink = ScriptedLmtpPeer(), RecordingSink()
    delivery = delivery_to(endpoint_of(peer.endpoint), sink)
    (outcome,) = await delivery.start(NODE, message(), slot_wait_s=0.1).result()
    assert is_node_trouble(outcome)
    assert sink.kinds == ["connect_failed"]
    await delivery.close()


@on_each_loop
async def test_a_slow_node_that_makes_progress_is_waited_for() -> None:
    """The body's time-out is for standing still, and each reply has its own time."""
    script = {
        "LHLO": Action(delay_s=0.2),
        "RCPT": Action(delay_s=0.2),
        "DATA": Action(delay_s=0.2),
        "dot <ana>": Action(delay_s=0.3),
        "dot <bo>": Action(delay_s=0.3),
    }
    outcomes = await outcomes_of(script, "ana", "bo")
    assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered]


@on_each_loop
async def test_the_final_timeout_is_its_own() -> None:
    """After the dot only `final_timeout` ends the waiting."""
    with ScriptedLmtpPeer({"dot": Action(delay_s=0.8)}) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=quick(final_timeout="5s"))
        (outcome,) = await delivery.start(NODE, message(), slot_wait_s=0.1).result()
        assert isinstance(outcome, Delivered)
        await delivery.close()


@on_each_loop
async def test_a_fault_of_ours_in_telling_about_an_answer_leaves_the_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The node has taken the message: nothing that only counts or logs may turn that into anything else."""

    def broken(*_labels: str) -> None:
        raise ValueError("the metric is broken")

    monkeypatch.setattr(metrics.DELIVERY_ATTEMPTS, "inc", broken)
    sink = RecordingSink()
    with (tmp_path / "log").open("wb") as output:
        log.configure("test", fd=output.fileno())
        try:
            (outcome,) = await outcomes_of({}, sink=sink)
        finally:
            log.close()
    assert isinstance(outcome, Delivered)
    assert sink.kinds == ["succeeded"]
    assert "what happened cannot be told" in (tmp_path / "log").read_text()
