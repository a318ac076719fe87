"""The fold obeys its rules for any graph of RCPTs and mailboxes."""

from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.ids import MessageId
from mailfront.intake.fold import fold, must_be_queued
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.mail.reply import reply

ID = MessageId("0123456789abcdef")
NODE = NodeId("store1")

outcomes_of_a_mailbox: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Delivered(NODE, reply(250, "2.0.0", "saved"))),
    st.just(HandedOff(NodeId("store2"), NODE)),
    st.integers(0, 9).map(lambda n: Deferred(Blame.NODE, reply(451, "4.4.1", f"node {n}"), NODE)),
    st.integers(0, 9).map(lambda n: Deferred(Blame.MAILBOX, reply(452, "4.2.2", f"full {n}"), NODE)),
    st.integers(0, 9).map(lambda n: Failed(reply(550, "5.2.1", f"closed {n}"), NODE)),
    st.just(Unknown(NODE, "lost after the dot")),
)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[list[int]], list[Outcome]]:
    """RCPTs that each lead to one mailbox or more, sharing them freely; every mailbox belongs to some RCPT."""
    outcomes = draw(st.lists(outcomes_of_a_mailbox, min_size=1, max_size=6))
    mailboxes = st.integers(0, len(outcomes) - 1)
    recipients = draw(st.lists(st.lists(mailboxes, min_size=1, max_size=4, unique=True), min_size=1, max_size=6))
    orphans = set(range(len(outcomes))) - {index for indexes in recipients for index in indexes}
    return recipients + [[index] for index in sorted(orphans)], outcomes


@given(graphs())
def test_nothing_is_lost_behind_a_250(graph: tuple[list[list[int]], list[Outcome]]) -> None:
    """Behind a 250 every mailbox of that RCPT has the message, is kept, or gets a notice; never two of them."""
    recipients, outcomes = graph
    for per_recipient in (False, True):
        decision = fold(ID, recipients, outcomes, per_recipient=per_recipient)
        groups = recipients if per_recipient else [sorted({i for indexes in recipients for i in indexes})]
        assert len(decision.replies) == len(groups)
        assert not set(decision.keep) & set(decision.notices)
        for indexes, answer in zip(groups, decision.replies, strict=True):
            if not answer.is_positive:
                continue
            for index in indexes:
                kept, told = index in decision.keep, index in decision.notices
                assert kept == must_be_queued(outcomes[index])
                assert told == isinstance(outcomes[index], Failed)


@given(graphs())
def test_a_refusal_keeps_nothing_and_says_the_nodes_word(graph: tuple[list[list[int]], list[Outcome]]) -> None:
    """A 4xx or 5xx is a node's own answer, and nobody else holds the message of the refused RCPT for it."""
    recipients, outcomes = graph
    decision = fold(ID, recipients, outcomes, per_recipient=False)
    (answer,) = decision.replies
    if answer.is_positive:
        return
    assert decision.keep == decision.notices == ()
    words = [o.reply for o in outcomes if isinstance(o, Failed | Deferred)]
    assert answer in words
    if answer.is_permanent:
        assert all(isinstance(o, Failed) for o in outcomes)
    else:
        assert all(isinstance(o, Deferred) and o.blame is Blame.MAILBOX for o in outcomes)


@given(graphs())
def test_lmtp_refuses_each_recipient_alone(graph: tuple[list[list[int]], list[Outcome]]) -> None:
    """For LMTP the reply of one RCPT does not depend on the others."""
    recipients, outcomes = graph
    together = fold(ID, recipients, outcomes, per_recipient=True)
    for indexes, answer in zip(recipients, together.replies, strict=True):
        alone = fold(ID, [indexes], outcomes, per_recipient=True)
        assert alone.replies == (answer,)
