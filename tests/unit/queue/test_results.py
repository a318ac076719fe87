"""What an outcome does to a row, outcome by outcome."""

from dataclasses import replace

import pytest

from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.mail.reply import reply
from mailfront.queue.results import RowResult, counts_for, result_of
from mailfront.queue.rows import RecipientState
from tests.support.queue_rows import A, B, queued_recipient

_ROW = replace(queued_recipient(0, "ana", 7), state=RecipientState.ACTIVE, attempts=2, node=A)
_OK = Delivered(A, reply(250, "2.0.0", "ok"))
_BUSY = Deferred(Blame.MAILBOX, reply(452, "4.2.2", "over quota"), A)


def _result(outcome: Outcome, now_s: float = 1000.0) -> RowResult:
    return result_of(_ROW, outcome, now_s=now_s, expires_s=9000.0, retry_s=(60.0, 300.0), chance=0.5)


@pytest.mark.parametrize("outcome", [_OK, HandedOff(B, A)])
def test_done_rows_are_deleted(outcome: Outcome) -> None:
    """Delivered and handed off: the queue has nothing more to do."""
    assert _result(outcome) == RowResult(None)


def test_deferred_waits_by_its_attempt_number() -> None:
    """A deferral keeps whose trouble it was and what was said, and gives the lease back."""
    values = _result(_BUSY).values
    assert values == {
        "state": "waiting",
        "next_attempt_s": 1300.0,
        "blame": "mailbox",
        "last_reply": "452 4.2.2 over quota",
        "node": None,
        "lease_owner": None,
        "lease_until_s": None,
    }


def test_deferred_past_its_lifetime_is_held_with_an_alarm() -> None:
    """Expired mail is never dropped and never bounced by this version."""
    result = _result(_BUSY, now_s=9000.0)
    assert result.alarm == "expired"
    assert result.values is not None
    assert (result.values["state"], result.values["reason"]) == ("held", "expired")


def test_failed_is_held_with_the_nodes_word() -> None:
    """A permanent refusal after acceptance waits for a person."""
    result = _result(Failed(reply(550, "5.7.1", "no thanks"), A))
    assert result.alarm == "refused"
    assert result.values is not None
    assert result.values["state"] == "held"
    assert result.values["last_reply"] == "550 5.7.1 no thanks"


def test_unknown_stays_bound_to_its_node() -> None:
    """A lost answer: later, and at that node only."""
    values = _result(Unknown(B, "connection lost after the dot")).values
    assert values is not None
    assert (values["state"], values["node"], values["next_attempt_s"]) == ("unknown", "b", 1300.0)


def test_hostile_text_is_made_printable_and_cut() -> None:
    """What a node says is stored printable and bounded."""
    values = _result(Unknown(A, "x\r\n\x1b[31m" + "y" * 2000)).values
    assert values is not None
    assert values["last_reply"].isprintable()
    assert len(values["last_reply"]) <= 512


@pytest.mark.parametrize("state", list(RecipientState))
def test_late_delivery_always_counts(state: RecipientState) -> None:
    """What is delivered is delivered, whatever the row says by now."""
    assert counts_for(replace(_ROW, state=state), _OK, 1)


@pytest.mark.parametrize("state", [state for state in RecipientState if state is not RecipientState.ACTIVE])
def test_late_deferral_counts_for_nothing(state: RecipientState) -> None:
    """A weaker outcome only counts for a row that is being tried."""
    assert not counts_for(replace(_ROW, state=state), _BUSY, None)


def test_result_of_an_earlier_attempt_counts_for_nothing() -> None:
    """A report that is sent again must not end the attempt that came after it."""
    assert not counts_for(_ROW, _BUSY, 1)
    assert counts_for(_ROW, _BUSY, 2)
    assert counts_for(_ROW, _BUSY, None)


def test_node_names_in_reasons() -> None:
    """A refusal of ours has no node."""
    result = _result(Failed(reply(550, "5.6.7", "no smtputf8 there"), None))
    assert result.values is not None
    assert result.values["reason"].startswith("we refused")
    assert NodeId("a") not in result.values["reason"].split()
