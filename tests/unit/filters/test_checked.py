"""What a filter returns is made safe, or it is the filter's failure; it never reaches a reply or header as it is."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.filters.checked import MOST_EDITS, checked
from mailfront.filters.edits import apply
from mailfront.filters.failure import FilterFailed
from mailfront.filters.headers import Headers
from mailfront.mail.address import Address
from mailfront.mail.body import MemoryBody
from mailfront.mail.reply import Reply
from mailfront.mail.verdict import (
    CONTINUE,
    Action,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    Edit,
    InsertHeader,
    ReplaceBody,
    Verdict,
)


@pytest.mark.parametrize(
    ("code", "enhanced", "text", "said"),
    [
        (554, "5.7.9", "no", "554 5.7.9 no"),
        (250, "2.0.0", "ha", "550 5.7.1 ha"),
        (451, "4.7.1", "later", "550 5.7.1 later"),
        (521, "5.7.1", "gone", "550 5.7.1 gone"),
        (599, "", "x", "550 5.7.1 x"),
        (550, "5.7", "x", "550 5.7.1 x"),
        (550, "4.7.1", "x", "550 5.7.1 x"),
        (550, "5.7.1", "Gtube pattern\0", "550 5.7.1 Gtube pattern"),
        (550, "5.7.1", "a\r\n250 ok", "550 5.7.1 a??250 ok"),
        (550, "5.7.1", "", "550 5.7.1 refused by policy"),
    ],
)
def test_a_reject_stays_a_reject_and_its_reply_is_made_fit(code: int, enhanced: str, text: str, said: str) -> None:
    """Codes of another class or shape are replaced, text is cleaned: no filter makes us say 250 or two lines."""
    verdict = checked(Verdict.reject(text, code=code, enhanced=enhanced))
    assert str(Reply(verdict.code, verdict.enhanced, (verdict.text,))) == said


@pytest.mark.parametrize(
    "edit",
    [
        AddHeader("X-A", "b\r\nBcc: victim@example.org"),
        AddHeader("X-A", "b\nBcc: victim@example.org"),
        AddHeader("X-A", "b\rc"),
        AddHeader("X-A", "b\0c"),
        AddHeader("X-A", "b\r\n\r\nbody"),
        AddHeader("X-A", "b\r\n \r\n c"),
        AddHeader("X-A", "x" * 1000),
        AddHeader("X A", "b"),
        AddHeader("X-A:", "b"),
        AddHeader("", "b"),
        AddHeader("X-Ä", "b"),
        AddHeader("Mailfront-Id", "0" * 16),
        AddHeader("X-A", "\ud800"),
        InsertHeader(0, "X-A", "b\r\nc: d"),
        ChangeHeader("Subject", 0, "b"),
        ChangeHeader("Subject", 1, "b\nc"),
        DeleteHeader("mailfront-handoff"),
        DeleteHeader("X-A", 0),
        ReplaceBody(b"a\nb\r\n"),
        ReplaceBody(b"a\rb\r\n"),
        ChangeSender(Address("a b", "")),
        ChangeSender(Address("a", "b\r\nDATA")),
        AddRecipient(Address("a b", "")),
        AddRecipient(Address("a", "exa mple")),
    ],
)
def test_an_edit_that_could_do_harm_is_the_filters_failure(edit: Edit) -> None:
    """The whole verdict is not believed then: `on_error` applies."""
    with pytest.raises(FilterFailed):
        checked(Verdict(edits=(edit,)))


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("a\r\n\tb", "a\r\n\tb"),
        ("a\n b", "a\r\n b"),
        ("a\r\n", "a"),
        ("Gtube\0", "Gtube"),
        ("für", "für"),
    ],
)
def test_folded_values_pass_in_one_form(value: str, kept: str) -> None:
    """Milters fold with a bare LF; what goes on is CRLF."""
    assert checked(Verdict(edits=(AddHeader("X-A", value),))).edits == (AddHeader("X-A", kept),)


@pytest.mark.parametrize("verdict", [None, True, "reject", 550, object(), Verdict(action="reject")])  # type: ignore[arg-type]
def test_what_is_no_verdict_is_the_filters_failure(verdict: Any) -> None:
    """A plug-in that returns something else has failed; it has not accepted."""
    with pytest.raises(FilterFailed):
        checked(verdict)


def test_too_many_edits_are_the_filters_failure() -> None:
    """Nobody needs that many."""
    with pytest.raises(FilterFailed, match="edits"):
        checked(Verdict(edits=(AddHeader("X-A", "b"),) * (MOST_EDITS + 1)))


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "7"])
def test_a_score_is_a_number(score: Any) -> None:
    """A score that is none would break the log."""
    with pytest.raises(FilterFailed, match="score"):
        checked(Verdict(score=score))


def test_the_common_answer_is_not_even_copied() -> None:
    """CONTINUE is returned as it is."""
    assert checked(CONTINUE) is not None
    assert checked(CONTINUE).edits == ()


@given(st.text(max_size=60), st.text(max_size=200))
def test_whatever_passes_is_exactly_one_field(name: str, value: str) -> None:
    """Any text as name and value: refused, or one more field and nothing else in the message."""
    arrived = b"Subject: x\r\n"
    try:
        verdict = checked(Verdict(edits=(AddHeader(name, value),)))
    except FilterFailed:
        return
    edited = apply(verdict.edits, Headers(arrived), MemoryBody(arrived + b"\r\nbody\r\n"))
    fields = Headers(edited.header).fields
    assert [field.name for field in fields] == ["Subject", name]
    assert b"".join(edited.body.pieces()).endswith(b"\r\n\r\nbody\r\n")
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", edited.header)


def test_the_mildest_text_of_a_tempfail() -> None:
    """A tempfail without words gets ours."""
    verdict = checked(Verdict(action=Action.TEMPFAIL))
    assert (verdict.code, verdict.enhanced, verdict.text) == (451, "4.7.1", "try again later")
