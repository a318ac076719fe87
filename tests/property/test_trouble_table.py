"""The trouble table over all replies and all troubles: promises that hold everywhere."""

from hypothesis import given
from hypothesis import strategies as st

from mailfront.delivery.trouble import Cause, Stage, Trouble, judge_reply, judge_trouble
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Unknown
from mailfront.mail.reply import Reply

NODE = NodeId("store1")
_DETAIL = st.tuples(st.integers(0, 999), st.integers(0, 999)).map(lambda pair: f"{pair[0]}.{pair[1]}")


@st.composite
def replies(draw: st.DrawFn, lowest: int, highest: int) -> Reply:
    """Any reply with a code between the two."""
    code = draw(st.integers(lowest, highest))
    detail = draw(st.none() | _DETAIL)
    return Reply(code, "" if detail is None else f"{code // 100}.{detail}", (draw(st.text(max_size=20)),))


@given(answer=replies(200, 299) | replies(400, 559))
def test_the_final_answer_decides(answer: Reply) -> None:
    """Delivered only by 2xx, failed only by 5xx and with the node's own words, unknown only by 421, which is none."""
    outcome = judge_reply(Stage.FINAL, answer, NODE).outcome
    assert isinstance(outcome, Delivered) == answer.is_positive
    assert isinstance(outcome, Unknown) == (answer.code == 421)
    if isinstance(outcome, Failed):
        assert outcome.reply == answer
        assert answer.is_permanent


@given(stage=st.sampled_from([Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL]), answer=replies(400, 559))
def test_a_deferral_never_says_5xx_or_421(stage: Stage, answer: Reply) -> None:
    """Our trouble is 4xx, and 421 is only ever about the client's own connection."""
    outcome = judge_reply(stage, answer, NODE).outcome
    if isinstance(outcome, Deferred):
        assert 400 <= outcome.reply.code < 500
        assert outcome.reply.code != 421
        assert (outcome.blame is Blame.NODE) == (stage in (Stage.MAIL, Stage.DATA) or answer.code == 421)
    elif answer.code == 421:
        assert isinstance(outcome, Unknown)
        assert stage is Stage.FINAL
    else:
        assert isinstance(outcome, Failed)
        assert stage in (Stage.RCPT, Stage.FINAL)


@given(
    stage=st.sampled_from(Stage),
    cause=st.sampled_from(Cause),
    said=st.none() | replies(400, 559),
    text=st.text(max_size=40),
)
def test_a_loss_never_fails_and_never_delivers(stage: Stage, cause: Cause, said: Reply | None, text: str) -> None:
    """A broken connection is a deferral before the final dot and unknown after it."""
    outcome = judge_trouble(Trouble(stage, cause, text, said), NODE).outcome
    assert isinstance(outcome, Unknown) == (stage is Stage.FINAL)
    assert isinstance(outcome, Deferred) == (stage is not Stage.FINAL)
