"""What many filters found becomes one ruling per recipient, by a table and nothing else."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.filters.arbitration import arbitrate, one_reply
from mailfront.filters.contract import Finding, Stage
from mailfront.mail.address import Address
from mailfront.mail.verdict import Action, AddHeader, DeleteRecipient, Edit, Verdict

ANA, BOB = Address("ana", "example.edu"), Address("bob", "example.edu")
HARDNESS = [Action.CONTINUE, Action.DISCARD, Action.HOLD, Action.QUARANTINE, Action.TEMPFAIL, Action.REJECT]


def found(
    action: Action,
    *edits: Edit,
    name: str = "f",
    binds: frozenset[int] | None = None,
    shadow: bool = False,
) -> Finding:
    verdict = Verdict(action=action, code=550, enhanced="5.7.1", text=name, edits=edits)
    return Finding(filter=name, stage=Stage.DATA, verdict=verdict, binds=binds, shadow=shadow)


@pytest.mark.parametrize(("one", "other"), list(itertools.product(HARDNESS, HARDNESS)))
def test_the_harder_of_two_verdicts_rules(one: Action, other: Action) -> None:
    """Whatever the order: reject, tempfail, quarantine, hold, discard, continue."""
    (ruling,) = arbitrate([found(one, name="a"), found(other, name="b")], [ANA])
    assert ruling.action is max(one, other, key=HARDNESS.index)


def test_of_two_rejects_the_first_declared_speaks() -> None:
    """The client hears the text of the filter that stands first in the file."""
    (ruling,) = arbitrate([found(Action.REJECT, name="a"), found(Action.REJECT, name="b")], [ANA])
    assert ruling.by is not None
    assert ruling.by.filter == "a"


def test_edits_come_in_declared_order_whatever_the_ruling() -> None:
    """What is held and released later is delivered as it would have been."""
    first, second = AddHeader("X-A", "1"), AddHeader("X-B", "2")
    (ruling,) = arbitrate([found(Action.CONTINUE, first), found(Action.HOLD, second)], [ANA])
    assert (ruling.action, ruling.edits) == (Action.HOLD, (first, second))


def test_a_filter_binds_only_those_that_it_is_for() -> None:
    """A reject for one recipient is none for the other, and so are edits."""
    mark = AddHeader("X-A", "1")
    rulings = arbitrate([found(Action.REJECT, mark, binds=frozenset({1}))], [ANA, BOB])
    assert [(ruling.action, ruling.edits) for ruling in rulings] == [
        (Action.CONTINUE, ()),
        (Action.REJECT, (mark,)),
    ]


def test_a_shadow_is_not_obeyed() -> None:
    """Neither its action nor its edits."""
    (ruling,) = arbitrate([found(Action.REJECT, AddHeader("X-A", "1"), shadow=True)], [ANA])
    assert (ruling.action, ruling.edits) == (Action.CONTINUE, ())


def test_a_removed_recipient_gets_nothing() -> None:
    """Removal is a discard for that one, by the case-folded address; others are not touched."""
    rulings = arbitrate([found(Action.CONTINUE, DeleteRecipient(Address("ANA", "example.edu")))], [ANA, BOB])
    assert [ruling.action for ruling in rulings] == [Action.DISCARD, Action.CONTINUE]


def test_over_smtp_the_mildest_ruling_speaks_and_the_rest_is_quarantined() -> None:
    """One recipient accepted, one refused: 250, and the refused copy waits in quarantine with its reason."""
    rulings = one_reply(arbitrate([found(Action.REJECT, name="virus", binds=frozenset({1}))], [ANA, BOB]))
    assert [ruling.action for ruling in rulings] == [Action.CONTINUE, Action.QUARANTINE]
    assert rulings[1].reason == "virus: reject (other recipients were accepted)"


def test_over_smtp_a_refusal_of_everybody_is_the_mildest_refusal() -> None:
    """One tempfailed and one rejected: the client keeps the message and tries again."""
    findings = [
        found(Action.REJECT, name="a", binds=frozenset({0})),
        found(Action.TEMPFAIL, name="b", binds=frozenset({1})),
    ]
    assert [ruling.action for ruling in one_reply(arbitrate(findings, [ANA, BOB]))] == [Action.TEMPFAIL] * 2


_findings = st.lists(
    st.builds(
        found,
        st.sampled_from(HARDNESS),
        name=st.sampled_from("abc"),
        binds=st.none() | st.frozensets(st.integers(0, 3), min_size=1),
        shadow=st.booleans(),
    ),
    max_size=6,
)


@given(_findings, st.integers(1, 4))
def test_one_reply_is_one_reply(findings: list[Finding], count: int) -> None:
    """Over SMTP either everybody is accepted or nobody is, and nobody who passed is kept back."""
    rulings = arbitrate(findings, [Address(f"u{number}", "example.edu") for number in range(count)])
    told = one_reply(rulings)
    refused = [ruling.action in (Action.REJECT, Action.TEMPFAIL) for ruling in told]
    assert all(refused) or not any(refused)
    for before, after in zip(rulings, told, strict=True):
        if before.action in (Action.CONTINUE, Action.DISCARD, Action.HOLD, Action.QUARANTINE):
            assert after == before
    if any(before.action is Action.CONTINUE for before in rulings):
        assert not any(refused)
