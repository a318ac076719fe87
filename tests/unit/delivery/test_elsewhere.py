"""What the answers of other mail systems mean: servers of routes, the smarthost, and a node whose word is taken."""

import pytest

from mailfront.delivery.trouble import Authority, Evidence, Stage, judge_reply
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Blame, Deferred, Failed, Unknown
from mailfront.mail.reply import reply

HOP, NODE = NodeId("@route:lists.example.edu"), NodeId("store1")
WHO = reply(550, "5.1.1", "no such list")
LATER = reply(450, "4.1.8", "look again")
CLOSING = reply(421, "4.3.2", "shutting down")


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL])
def test_elsewhere_their_word_is_final_and_says_nothing_about_the_server(stage: Stage) -> None:
    """5xx of any kind fails with their text; 4xx defers this message and does not pause the hop."""
    assert judge_reply(stage, WHO, HOP, Authority.ELSEWHERE).outcome == Failed(WHO, HOP)
    deferral = judge_reply(stage, LATER, HOP, Authority.ELSEWHERE)
    assert deferral.outcome == Deferred(Blame.MAILBOX, LATER, HOP)
    assert deferral.evidence is Evidence.NONE


def test_elsewhere_421_is_about_the_connection() -> None:
    """Before the final dot the server is at fault, after it nobody knows."""
    before = judge_reply(Stage.RCPT, CLOSING, HOP, Authority.ELSEWHERE).outcome
    assert isinstance(before, Deferred)
    assert before.blame is Blame.NODE
    assert isinstance(judge_reply(Stage.FINAL, CLOSING, HOP, Authority.ELSEWHERE).outcome, Unknown)


@pytest.mark.parametrize("stage", [Stage.RCPT, Stage.FINAL])
def test_a_node_whose_word_is_taken_refuses_a_mailbox_and_still_raises_the_question(stage: Stage) -> None:
    """`unknown_at_node = "refuse"`: failed with the node's word; alarm and suspicion stay."""
    ruling = judge_reply(stage, WHO, NODE, Authority.NODE)
    assert ruling.outcome == Failed(WHO, NODE)
    assert ruling.evidence is Evidence.UNKNOWN_USER
    assert isinstance(judge_reply(Stage.MAIL, WHO, NODE, Authority.NODE).outcome, Deferred)
