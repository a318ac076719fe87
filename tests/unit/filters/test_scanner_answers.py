"""Answers of scanners are read strictly: what is none is an error, and never a crash or an acceptance."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.errors import RemoteProtocolError
from mailfront.filters.answers_json import read_verdict
from mailfront.filters.checked import checked
from mailfront.filters.edits import apply
from mailfront.filters.failure import FilterFailed
from mailfront.filters.forged import strip_fields
from mailfront.filters.headers import MOST_FIELDS, Headers
from mailfront.filters.rspamd.answer import read_answer as read_rspamd
from mailfront.filters.rspamd.settings import RspamdSettings
from mailfront.mail.body import MemoryBody
from mailfront.mail.verdict import Action, AddHeader, ChangeHeader, DeleteHeader, InsertHeader, Verdict
from mailfront.protocol import clamd, spamc

HEADERS = Headers(b"Subject: hello\r\nX-A: 1\r\nX-A: 2\r\n")


def rspamd(**answer: Any) -> Verdict:
    document = {"action": "no action", "score": 1.0, "required_score": 15.0, **answer}
    return read_rspamd(orjson.dumps(document), RspamdSettings(), HEADERS)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"stream: OK\0", clamd.Clean()),
        (b"stream: Eicar FOUND\0", clamd.Infected("Eicar")),
        (b"stream: A FOUND FOUND\0", clamd.Infected("A FOUND")),
        (b"stream: a\nb FOUND", clamd.NotScanned("stream: a?b FOUND")),
        (b"INSTREAM size limit exceeded. ERROR\0", clamd.TooLarge()),
        (b"stream: Can't allocate memory ERROR\0", clamd.NotScanned("stream: Can't allocate memory ERROR")),
        (b"stream: OK FOUND\0", clamd.Infected("OK")),
        (b"OK\0", clamd.NotScanned("OK")),
    ],
)
def test_clamd_says_ok_in_one_way_only(line: bytes, answer: clamd.ClamdAnswer) -> None:
    """Everything else is a virus, a limit, or a scan that did not happen."""
    assert clamd.read_answer(line) == answer


@pytest.mark.parametrize("line", [b"", b"\0", b"\r\n"])
def test_no_answer_of_clamd_is_an_error(line: bytes) -> None:
    """A closed connection does not mean clean."""
    with pytest.raises(RemoteProtocolError):
        clamd.read_answer(line)


def test_spamd_answers_with_a_score_and_the_names_of_rules() -> None:
    """SYMBOLS of SpamAssassin 4."""
    data = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 17\r\nSpam: True ; 1000.5 / 5.0\r\n\r\nGTUBE,NO_RECEIVED\r\n"
    answer = spamc.read_answer(data)
    assert (answer.is_spam, answer.score, answer.required) == (True, 1000.5, 5.0)
    assert answer.symbols == ("GTUBE", "NO_RECEIVED")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SPAMD/1.1 0 EX_OK\r\n",
        b"SPAMD/1.1 0 EX_OK\r\n\r\n",
        b"SPAMD/1.1 76 Bad header line: (EOF during headers)\r\n\r\n",
        b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; . / 5.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nSpam: False ; 0 / 5\r\n",
    ],
)
def test_what_is_no_answer_of_spamd_is_an_error(data: bytes) -> None:
    """A score in the wrong place does not count."""
    with pytest.raises(RemoteProtocolError):
        spamc.read_answer(data)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_readers(data: bytes) -> None:
    """Whatever a broken scanner sends: an answer or the one error."""
    readers: list[Callable[[bytes], object]] = [clamd.read_answer, spamc.read_answer]
    for read in readers:
        try:
            read(data)
        except RemoteProtocolError:
            pass
    for read_json in (read_verdict, lambda raw: read_rspamd(raw, RspamdSettings(), HEADERS)):
        try:
            assert isinstance(read_json(data), Verdict)
        except FilterFailed:
            pass


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 700) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_MEMBERS = ("action", "score", "required_score", "symbols", "milter", "messages", "subject")


@given(st.dictionaries(st.sampled_from(_MEMBERS), _json))
def test_no_json_crashes_the_reader_of_rspamd(answer: dict[str, Any]) -> None:
    """Members of wrong types are the filter's failure."""
    try:
        assert isinstance(rspamd(**answer), Verdict)
    except FilterFailed:
        pass


def test_milter_fields_of_rspamd_become_edits() -> None:
    """Values, lists and places; removal of all, of one, and counted from the end."""
    milter = {
        "remove_headers": {"X-A": -1, "X-B": 0, "X-C": 1, "X-Gone": -1},
        "add_headers": {
            "X-One": "1",
            "X-Two": {"value": "2", "order": 0},
            "X-Three": [{"value": "3", "order": 2}, {"value": "4", "order": -1}],
        },
    }
    assert rspamd(milter=milter).edits == (
        DeleteHeader("X-A", 2),
        DeleteHeader("X-B", None),
        DeleteHeader("X-C", 1),
        AddHeader("X-One", "1"),
        InsertHeader(0, "X-Two", "2"),
        InsertHeader(1, "X-Three", "3"),
        AddHeader("X-Three", "4"),
    )


def test_a_subject_that_is_not_ascii_is_encoded() -> None:
    """The message may go where SMTPUTF8 is unknown."""
    (_, change) = rspamd(action="rewrite subject", subject="*** Schöne Grüße").edits
    assert isinstance(change, ChangeHeader)
    assert change.value == "=?utf-8?b?KioqIFNjaMO2bmUgR3LDvMOfZQ==?="


@pytest.mark.parametrize(
    "subject",
    [b"caf\xe9", b"a\0b\x07", b"a" * 700 + b"\r\n " + b"b" * 700, "\u00fc".encode() * 5000, b"", b"\xff" * 3000],
)
@pytest.mark.parametrize("is_given", [True, False])
def test_no_subject_makes_the_filter_fail(subject: bytes, is_given: bool) -> None:
    """It is the sender's text, in rspamd's answer or in the header: else he would choose that `on_error` applies."""
    document: dict[str, Any] = {"action": "rewrite subject", "score": 9.0, "required_score": 15.0}
    if is_given:
        document["subject"] = subject.replace(b"\r\n", b"").decode("utf-8", "replace")
    headers = Headers(b"Subject: " + subject + b"\r\n")
    verdict = checked(read_rspamd(orjson.dumps(document), RspamdSettings(), headers))
    assert [type(edit) for edit in verdict.edits] == [AddHeader, ChangeHeader]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("a;\n\tb;\r\n  c  d", "a;\r\n\tb;\r\n  c  d"),
        ("a\r\nBcc: evil@example.org", "a Bcc: evil@example.org"),
        ("a\rb\0c\n\n d\n", "a b c\r\n\td"),
        ("\u00fc" * 500, "\r\n\t".join(["\u00fc" * 240, "\u00fc" * 240, "\u00fc" * 20])),
        ("x" * 5000, None),
        ("\n\t\n", "\t"),
        ("\U0001f600\n " * 30_000, None),
        ("", ""),
    ],
)
def test_what_rspamd_repeats_of_a_message_stays_in_its_field(value: str, written: str | None) -> None:
    """Whatever the sender wrote: one field, no line too long, and no failure of the filter."""
    verdict = checked(rspamd(milter={"add_headers": {"X-Spamd-Result": {"value": value, "order": 1}, "X-B": value}}))
    (first, second) = verdict.edits
    assert isinstance(first, InsertHeader)
    assert isinstance(second, AddHeader)
    assert first.value == second.value
    if written is not None:
        assert first.value == written


def test_fields_to_delete_are_never_too_many() -> None:
    """A sender who writes as many different marks as a header may have cannot make a scanner's filter fail by it."""
    headers = Headers(b"".join(b"X-Spam-%d: No\r\n" % number for number in range(MOST_FIELDS)))
    verdict = checked(Verdict(edits=strip_fields(headers, ("X-Spam-*",))))
    assert apply(verdict.edits, headers, MemoryBody(headers.raw)).header == b""


def test_an_unknown_action_is_no_acceptance() -> None:
    """A newer rspamd may have actions that we do not know."""
    with pytest.raises(FilterFailed, match="unknown action"):
        rspamd(action="teleport")


def test_the_heaviest_symbols_are_the_reason() -> None:
    """What counted most comes first, and the list is cut."""
    symbols = {f"S{number}": {"score": number / 10} for number in range(50)}
    verdict = rspamd(action="reject", score=20.0, symbols=symbols)
    assert verdict.action is Action.REJECT
    assert verdict.reason.startswith("reject, 20 of 15: S49(4.9), S48(4.8)")
    assert len(verdict.reason) < 250
