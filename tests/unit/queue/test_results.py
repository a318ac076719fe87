"""What an outcome does to a row, outcome by outcome."""

from dataclasses import replace

import pytest

from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import NodeId
from mailfront.mail.next_hop import RELAY
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.mail.reply import reply
from mailfront.queue.dsn import NoticeKind
from mailfront.queue.results import RowResult, counts_for, expired, result_of
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


def test_deferred_past_its_lifetime_is_given_up() -> None:
    """Expired mail ends with a notice that quotes the last answer."""
    result = _result(_BUSY, now_s=9000.0)
    assert result.values is None
    assert result.ended is not None
    assert (result.ended.status, result.ended.diagnostic) == ("4.2.2", "452 4.2.2 over quota")


def test_failed_ends_with_the_nodes_word() -> None:
    """A permanent refusal after acceptance is told to the sender."""
    result = _result(Failed(reply(550, "5.7.1", "no thanks"), A))
    assert result.values is None
    assert result.ended is not None
    assert (result.ended.kind, result.ended.status) == (NoticeKind.FAILED, "5.7.1")
    assert result.ended.diagnostic == "550 5.7.1 no thanks"


@pytest.mark.parametrize(
    ("node", "notifies", "notify", "kind"),
    [
        (A, False, "SUCCESS,FAILURE", NoticeKind.DELIVERED),
        (RELAY, False, "SUCCESS", NoticeKind.RELAYED),
        (RELAY, True, "SUCCESS", None),
        (A, False, "FAILURE", None),
        (A, False, None, None),
    ],
)
def test_success_is_told_where_it_was_asked_for(
    node: NodeId, notifies: bool, notify: str | None, kind: NoticeKind | None
) -> None:
    """Only who asked hears of a delivery, and not from us where the next hop has taken that over."""
    row = replace(_ROW, options=RecipientOptions(notify=notify))
    outcome = Delivered(node, reply(250, "2.0.0", "ok"), notifies)
    result = result_of(row, outcome, now_s=0.0, expires_s=9000.0, retry_s=(60.0,), chance=0.5)
    assert result.values is None
    assert (result.ended.kind if result.ended else None) == kind


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


def test_a_row_of_unknown_outcome_may_have_arrived() -> None:
    """Who is told that a message was given up hears also that nobody knows for sure."""
    assert expired(replace(_ROW, state=RecipientState.UNKNOWN), "lost", "node").maybe_delivered
    assert not expired(_ROW, "451 4.4.1 away", "node").maybe_delivered


def test_the_end_says_what_the_mailbox_said_of_itself() -> None:
    """A full mailbox is told as such; what kept a server from being reached is only the time that ran out."""
    assert expired(_ROW, "452 4.2.2 mailbox full", "mailbox").status == "4.2.2"
    assert expired(_ROW, "450 not now", "mailbox").status == "4.4.7"
    assert expired(_ROW, "451 4.4.1 away", "node").status == "4.4.7"
