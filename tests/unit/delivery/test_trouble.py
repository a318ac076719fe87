"""The table of what an answer, or the lack of one, means: row by row."""

import pytest

from mailfront.delivery.trouble import Cause, Evidence, Stage, Trouble, judge_reply, judge_trouble, try_fresh
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Unknown
from mailfront.mail.reply import Reply, reply

NODE = NodeId("store1")
FULL = reply(452, "4.2.2", "mailbox full")
SPAM = reply(550, "5.7.1", "no spam here")
WHO = reply(550, "5.1.1", "no such user")
CLOSING = reply(421, "4.3.2", "shutting down")


def test_delivered() -> None:
    """2xx after the final dot is delivered, and nothing else is."""
    said = reply(250, "2.0.0", "saved")
    ruling = judge_reply(Stage.FINAL, said, NODE)
    assert (ruling.outcome, ruling.evidence) == (Delivered(NODE, said), Evidence.SUCCEEDED)


@pytest.mark.parametrize("stage", [Stage.RCPT, Stage.FINAL])
class TestTheMailboxAnswers:
    """4xx and 5xx to RCPT or after the dot are about the mailbox."""

    def test_4xx(self, stage: Stage) -> None:
        """4xx: this node only, later, with the node's own text."""
        ruling = judge_reply(stage, FULL, NODE)
        assert ruling.outcome == Deferred(Blame.MAILBOX, FULL, NODE)
        assert ruling.evidence is Evidence.NONE

    def test_5xx(self, stage: Stage) -> None:
        """5xx: failed, with the node's own text."""
        assert judge_reply(stage, SPAM, NODE).outcome == Failed(SPAM, NODE)

    @pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.2", "5.1.10"])
    def test_unknown_user(self, stage: Stage, enhanced: str) -> None:
        """5.1.x for a mailbox that the directory knows: our trouble, an alarm, and evidence; the client sees a 4xx."""
        ruling = judge_reply(stage, reply(550, enhanced, "who?"), NODE)
        assert isinstance(ruling.outcome, Deferred)
        assert ruling.outcome.blame is Blame.MAILBOX
        assert ruling.outcome.reply.code == 451
        assert "disagree" in ruling.outcome.alarm
        assert ruling.evidence is Evidence.UNKNOWN_USER


def test_421_to_rcpt() -> None:
    """A node that is going away: another way may be tried. To a client 421 would be about its own connection."""
    ruling = judge_reply(Stage.RCPT, CLOSING, NODE)
    assert isinstance(ruling.outcome, Deferred)
    assert (ruling.outcome.blame, ruling.outcome.reply.code) == (Blame.NODE, 451)
    assert ruling.evidence is Evidence.MESSAGE_FAILED


def test_421_after_the_dot() -> None:
    """A node that is going away may have stored the message before it said so: nobody knows."""
    ruling = judge_reply(Stage.FINAL, CLOSING, NODE)
    assert ruling.outcome == Unknown(NODE, "closing at final dot: 421 4.3.2 shutting down")
    assert ruling.evidence is Evidence.MESSAGE_FAILED


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.DATA])
class TestTheNodeAnswersBeforeTheBody:
    """4xx and 5xx to MAIL or DATA are not about a mailbox."""

    def test_4xx(self, stage: Stage) -> None:
        """4xx: the node's trouble; another way may be tried."""
        ruling = judge_reply(stage, FULL, NODE)
        assert ruling.outcome == Deferred(Blame.NODE, FULL, NODE)
        assert ruling.evidence is Evidence.MESSAGE_FAILED

    def test_5xx(self, stage: Stage) -> None:
        """5xx: our trouble; an alarm and no evidence; the client sees a 4xx."""
        ruling = judge_reply(stage, reply(555, "5.5.4", "SIZE?"), NODE)
        assert isinstance(ruling.outcome, Deferred)
        assert ruling.outcome.alarm
        assert ruling.outcome.reply.code == 451
        assert ruling.evidence is Evidence.NONE


@pytest.mark.parametrize("cause", list(Cause))
def test_after_the_dot_all_is_unknown(cause: Cause) -> None:
    """Once the final dot is sent, no loss of any kind is a deferral."""
    assert isinstance(judge_trouble(Trouble(Stage.FINAL, cause, "gone"), NODE).outcome, Unknown)


@pytest.mark.parametrize("cause", list(Cause))
@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.FINAL])
def test_before_the_dot_all_is_deferred_by_the_node(stage: Stage, cause: Cause) -> None:
    """Before the final dot every loss is a deferral by the node, told as 451."""
    outcome = judge_trouble(Trouble(stage, cause, "gone"), NODE).outcome
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.reply.code, outcome.node) == (Blame.NODE, 451, NODE)
    assert stage.value in outcome.reply.text


@pytest.mark.parametrize(
    ("stage", "cause", "said", "evidence"),
    [
        (Stage.CONNECT, Cause.NO_CONNECTION, None, Evidence.CONNECT_FAILED),
        (Stage.CONNECT, Cause.STALLED, None, Evidence.CONNECT_FAILED),
        (Stage.TLS, Cause.NO_CONNECTION, None, Evidence.CONNECT_FAILED),
        (Stage.GREETING, Cause.STALLED, None, Evidence.CONNECT_FAILED),
        (Stage.GREETING, Cause.CLOSING, CLOSING, Evidence.MESSAGE_FAILED),
        (Stage.LHLO, Cause.LOST, None, Evidence.MESSAGE_FAILED),
        (Stage.RCPT, Cause.STALLED, None, Evidence.MESSAGE_FAILED),
        (Stage.BODY, Cause.TOO_SLOW, None, Evidence.MESSAGE_FAILED),
        (Stage.FINAL, Cause.LOST, None, Evidence.MESSAGE_FAILED),
        (Stage.FINAL, Cause.STOPPED, None, Evidence.NONE),
        (Stage.SLOT, Cause.NO_SLOT, None, Evidence.NONE),
        (Stage.RCPT, Cause.STOPPED, None, Evidence.NONE),
        (Stage.BODY, Cause.LOCAL, None, Evidence.NONE),
    ],
)
def test_evidence(stage: Stage, cause: Cause, said: Reply | None, evidence: Evidence) -> None:
    """A node is blamed for what it did, and not for what we did."""
    assert judge_trouble(Trouble(stage, cause, "x", said), NODE).evidence is evidence


def test_5xx_to_lhlo_is_an_alarm() -> None:
    """A node that refuses our LHLO for good does not fit our configuration: somebody must see it."""
    outcome = judge_trouble(Trouble(Stage.LHLO, Cause.REFUSED, str(SPAM), SPAM), NODE).outcome
    assert isinstance(outcome, Deferred)
    assert "refuses LHLO" in outcome.alarm


@pytest.mark.parametrize(
    ("stage", "cause", "reused", "fresh"),
    [
        (Stage.MAIL, Cause.LOST, True, True),
        (Stage.BODY, Cause.LOST, True, True),
        (Stage.RCPT, Cause.CLOSING, True, True),
        (Stage.IDLE, Cause.GARBLED, True, True),
        (Stage.MAIL, Cause.LOST, False, False),
        (Stage.MAIL, Cause.STALLED, True, False),
        (Stage.FINAL, Cause.LOST, True, False),
        (Stage.FINAL, Cause.CLOSING, True, False),
    ],
)
def test_when_a_fresh_connection_is_tried(stage: Stage, cause: Cause, reused: bool, fresh: bool) -> None:
    """Only a pooled connection that broke before the final dot is worth a second try."""
    assert try_fresh(Trouble(stage, cause, "x"), reused=reused) is fresh
