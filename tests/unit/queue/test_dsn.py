"""Notices: read by the standard library and by a parser that others wrote, and not broken by anything in them."""

import email
import email.policy
from email.message import EmailMessage, Message
from typing import Any, cast

import pytest
from flufl.bounce import all_failures
from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.ids import MessageId
from mailfront.queue.dsn import NoticeKind, NoticeRecipient, Reporter, build_dsn, needs_smtputf8, notify_wants
from mailfront.queue.rows import QueuedMessage

_ORIGINAL = (
    b"From: a@out.example\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <x1@out.example>\r\n\r\nhello\r\n"
)
_ID = MessageId("0" * 16)


def _notice(
    kind: NoticeKind = NoticeKind.FAILED,
    *recipients: NoticeRecipient,
    original: bytes = _ORIGINAL,
    size_bytes: int | None = None,
    language: str = "en",
    **envelope: Any,
) -> bytes:
    message = QueuedMessage(
        id=_ID,
        reverse_path="a@out.example",
        arrived_s=1_700_000_000.0,
        expires_s=1_700_432_000.0,
        size_bytes=len(original) if size_bytes is None else size_bytes,
        **envelope,
    )
    return build_dsn(
        Reporter(hostname="mx1.example.edu", postmaster="postmaster@example.edu", language=language),
        message,
        kind,
        recipients or (NoticeRecipient(address="ana@example.edu", status="5.1.1", diagnostic="550 5.1.1 nobody"),),
        to="a@out.example",
        original=original,
        now_s=1_700_000_100.0,
        notice_id=MessageId("1" * 16),
    )


def _parsed(notice: bytes) -> EmailMessage:
    parsed = email.message_from_bytes(notice, policy=email.policy.default)
    assert [part.defects for part in parsed.walk() if part.defects] == []
    return parsed


def _parts(notice: bytes) -> list[Message]:
    return list(cast(list[Message], _parsed(notice).get_payload()))


def _text(notice: bytes) -> str:
    return str(cast(EmailMessage, _parts(notice)[0]).get_content())


@pytest.mark.parametrize("language", ["en", "es"])
def test_a_foreign_parser_finds_the_failed_address(language: str) -> None:
    """flufl.bounce, which mailing lists use, reads whose delivery failed."""
    temporary, permanent = all_failures(email.message_from_bytes(_notice(language=language)))
    assert permanent == {b"ana@example.edu"}
    assert temporary == set()


def test_a_delay_is_not_a_failure() -> None:
    """A warning makes no mailing list remove anybody."""
    late = NoticeRecipient(address="ana@example.edu", status="4.4.1", give_up_s=1_700_432_000.0)
    notice = _notice(NoticeKind.DELAYED, late)
    assert all_failures(email.message_from_bytes(notice))[1] == set()
    assert b"Action: delayed\r\n" in notice
    assert b"Will-Retry-Until: " in notice


def test_the_header_names_what_it_answers() -> None:
    """It threads with the message, answers no robot, and says who wrote it."""
    parsed = _parsed(_notice())
    assert parsed["In-Reply-To"] == parsed["References"] == "<x1@out.example>"
    assert parsed["Auto-Submitted"] == "auto-replied"
    assert parsed["Message-ID"] == "<1111111111111111@mx1.example.edu>"
    assert parsed.get_content_type() == "multipart/report"
    assert parsed.get_param("report-type") == "delivery-status"


@pytest.mark.parametrize(
    ("status", "english", "spanish"),
    [
        ("5.1.1", "There is no such mailbox", "Ese buzón no existe"),
        ("5.2.2", "The mailbox is full", "El buzón está lleno"),
        ("4.2.2", "The mailbox is full", "El buzón está lleno"),
        ("4.4.7", "in the time that it may take", "en el plazo previsto"),
        ("4.3.0", "in the time that it may take", "en el plazo previsto"),
        ("5.3.4", "too large", "demasiado grande"),
        ("5.7.1", "refused there by a rule", "rechazado allí por una norma"),
        ("5.0.0", "It was refused there", "Fue rechazado allí"),
    ],
)
def test_people_read_what_happened_and_what_to_do(status: str, english: str, spanish: str) -> None:
    """Each class of failure has words of its own, in both languages; the other server is quoted."""
    recipient = NoticeRecipient(address="ana@example.edu", status=status, diagnostic=f"550 {status} said so")
    for language, words in (("en", english), ("es", spanish)):
        text = _text(_notice(NoticeKind.FAILED, recipient, language=language))
        assert words in text
        assert f"550 {status} said so" in text
        assert "Grüße" in text


@pytest.mark.parametrize(
    ("kind", "english", "spanish"),
    [
        (NoticeKind.FAILED, "could not be delivered", "no se pudo entregar"),
        (NoticeKind.DELAYED, "need not send it again", "No hace falta enviarlo otra vez"),
        (NoticeKind.DELIVERED, "was delivered to", "fue entregado a"),
        (NoticeKind.RELAYED, "a server that does not confirm", "un servidor que no confirma"),
        (NoticeKind.EXPANDED, "stand for several people", "representan a varias personas"),
    ],
)
def test_each_kind_of_notice_has_its_words_in_both_languages(kind: NoticeKind, english: str, spanish: str) -> None:
    """In the text and in the subject, and programs read the same in the Action field."""
    subjects = set()
    for language, words in (("en", english), ("es", spanish)):
        notice = _notice(kind, NoticeRecipient(address="ana@example.edu", status="2.0.0"), language=language)
        assert words in _text(notice)
        assert f"Action: {kind.value}\r\n".encode() in notice
        subjects.add(_parsed(notice)["Subject"])
        assert _parts(notice)[0]["Content-Language"] == language
    assert len(subjects) == 2


def test_a_messages_own_language_goes_first() -> None:
    """Content-Language of the message chooses, whatever is configured."""
    original = b"Content-Language: es-MX, en\r\n\r\nhola\r\n"
    assert "no se pudo entregar" in _text(_notice(original=original))
    assert "could not be delivered" in _text(_notice(original=b"Content-Language: fr\r\n\r\nsalut\r\n"))


def test_a_lost_answer_is_not_called_a_failure_for_sure() -> None:
    """Where nobody knows, the sender hears that too."""
    doubtful = NoticeRecipient(address="ana@example.edu", status="4.4.7", maybe_delivered=True)
    assert "It may have arrived all the same" in _text(_notice(NoticeKind.FAILED, doubtful))


@pytest.mark.parametrize(
    ("ret", "size_bytes", "kind"),
    [
        (None, 0, "message/rfc822"),
        ("FULL", 0, "message/rfc822"),
        ("HDRS", 0, "text/rfc822-headers"),
        ("FULL", 51_200, "message/rfc822"),
        ("FULL", 51_201, "text/rfc822-headers"),
    ],
)
def test_what_is_returned(ret: str | None, size_bytes: int, kind: str) -> None:
    """The whole of a message of up to 50 KiB, unless only the header was asked for; the header of a larger one."""
    original = _ORIGINAL + b"x" * 70 + b"\r\n"
    original += b"\r\n" * ((size_bytes - len(original)) // 2)
    original += b"\n" * max(0, size_bytes - len(original))
    notice = _notice(original=original, size_bytes=size_bytes or None, ret=ret)
    assert _parts(notice)[2].get_content_type() == kind
    assert (b"hello" in notice) == (kind == "message/rfc822")


def test_dsn_parameters_come_back_decoded() -> None:
    """ENVID and ORCPT are shown as the sender meant them; one that is no xtext is left out."""
    recipient = NoticeRecipient(address="ana@example.edu", status="5.1.1", orcpt="rfc822;a+2Bb@example.edu")
    notice = _notice(NoticeKind.FAILED, recipient, envid="Q+2B7")
    assert b"Original-Envelope-Id: Q+7\r\n" in notice
    assert b"Original-Recipient: rfc822; a+b@example.edu\r\n" in notice
    broken = NoticeRecipient(address="ana@example.edu", status="5.1.1", orcpt="rfc822;a+0D+0AX-Evil:1")
    notice = _notice(NoticeKind.FAILED, broken, envid="a b")
    assert b"Evil" not in notice
    assert b"Original-Envelope-Id" not in notice


def test_an_address_in_other_letters() -> None:
    """RFC 6533: the report says utf-8, and needs SMTPUTF8 only if its own header does."""
    notice = _notice(NoticeKind.FAILED, NoticeRecipient(address="josé@example.edu", status="5.1.1"))
    assert "Final-Recipient: utf-8; josé@example.edu\r\n".encode() in notice
    assert b"report-type=global-delivery-status" in notice
    assert not needs_smtputf8(notice)


@pytest.mark.parametrize(("ret", "kind"), [("FULL", "message/global"), ("HDRS", "message/global-headers")])
def test_a_message_with_other_letters_in_its_header(ret: str, kind: str) -> None:
    """RFC 6533 section 4: what is returned has the types for it, byte for byte, and the notice needs SMTPUTF8 only if
    its own header does."""
    original = "From: josé@out.example\r\nSubject: señal\r\n\r\n¡hola!\r\n".encode()
    notice = _notice(original=original, ret=ret, smtputf8=True)
    assert _parts(notice)[2].get_content_type() == kind
    assert ("From: josé@out.example\r\nSubject: señal\r\n".encode() in notice, "¡hola!".encode() in notice) == (
        True, ret == "FULL",
    )  # fmt: skip
    assert not needs_smtputf8(notice)
    assert needs_smtputf8(notice.replace(b"To: <a@", "To: <ñ@".encode(), 1))


@pytest.mark.parametrize(
    ("notify", "wanted"),
    [
        (None, {NoticeKind.FAILED, NoticeKind.DELAYED}),
        ("NEVER", set()),
        ("success,Delay", {NoticeKind.DELIVERED, NoticeKind.RELAYED, NoticeKind.EXPANDED, NoticeKind.DELAYED}),
        ("FAILURE", {NoticeKind.FAILED}),
    ],
)
def test_what_notify_asks_for(notify: str | None, wanted: set[NoticeKind]) -> None:
    """RFC 3461 section 4.1."""
    assert {kind for kind in NoticeKind if notify_wants(notify, kind)} == wanted


@given(original=st.binary(max_size=400), said=st.text(max_size=200), address=st.text(min_size=1, max_size=60))
def test_nothing_in_it_can_break_it(original: bytes, said: str, address: str) -> None:
    """Whatever a stranger wrote: three parts, and the fields that we wrote."""
    recipient = NoticeRecipient(address=address, status="5.0.0", diagnostic=said)
    for prefix in (b"", b"Subject: "):
        notice = _notice(NoticeKind.FAILED, recipient, original=prefix + original)
        head, _, rest = notice.partition(b"\r\n\r\n")
        boundary = head.partition(b'boundary="')[2].partition(b'"')[0]
        assert rest.count(b"--" + boundary) == 4
        fields = rest.split(b"--" + boundary)[2]
        assert fields.count(b"\r\nStatus: ") == 1
        assert fields.count(b"\r\nAction: ") == 1
