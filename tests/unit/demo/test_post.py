"""The demo's messages, and how it judges what came back."""

import email
from email import policy

import pytest

from mailfront.demo import post

TRACE = b"Return-Path: <a@b>\r\nMailfront-Id: 0000000000000000\r\nReceived: from x\r\n\tby y; date\r\n"
CONTENT = b"Subject: x\r\n\r\nhello\r\n"


def test_trace_fields_in_front_are_allowed() -> None:
    """A copy is as sent if only trace fields were put in front of it."""
    assert post.is_as_sent(TRACE + CONTENT, CONTENT)


@pytest.mark.parametrize(
    "copy",
    [
        TRACE + CONTENT.replace(b"\r\n", b"\n"),
        TRACE + CONTENT[:-2],
        TRACE + CONTENT + b"\r\n",
        TRACE + b"Mailfront-Handoff: v1 id=0 home=x\r\n" + CONTENT,
        TRACE + b"X-Other: 1\r\n" + CONTENT,
        TRACE.replace(b"Received", b"Delivered-To") + CONTENT,
        CONTENT,
        b"",
    ],
)
def test_any_other_difference_is_seen(copy: bytes) -> None:
    """Changed line ends, a lost or added line, a block that was left, a foreign or a missing field: not as sent."""
    assert not post.is_as_sent(copy, CONTENT)


def test_the_plain_message_has_what_careless_servers_change() -> None:
    """It has a lone dot, a line that begins with two, 8-bit bytes and spaces at an end of line, all with CRLF."""
    content = post.plain("ana@example.edu", "x")
    assert b"\r\n.\r\n..and" in content
    assert b"end:   \r\n" in content
    assert not content.isascii()
    assert content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r")


def test_the_attachment_is_whole() -> None:
    """The MIME message has a text, an alternative and 200 KB of every byte."""
    message = email.message_from_bytes(post.with_attachment("ana@example.edu", "x"), policy=policy.default)
    (attachment,) = message.iter_attachments()
    assert attachment.get_payload(decode=True) == bytes(range(256)) * 800
    assert message.get_body(("html",)) is not None


@pytest.mark.parametrize(
    ("answer", "message_id"),
    [
        (post.Answer(250, "2.0.0 06h0egb2p14cptq4 delivered"), "06h0egb2p14cptq4"),
        (post.Answer(250, "2.0.0 06h0egb2p14cptq4 queued"), "06h0egb2p14cptq4"),
        (post.Answer(250, "2.0.0 ok"), ""),
        (post.Answer(451, "2.0.0 06h0egb2p14cptq4 queued"), ""),
    ],
)
def test_the_id_of_an_accepted_message(answer: post.Answer, message_id: str) -> None:
    """Only a 250 that names an id and says delivered or queued counts as accepted."""
    assert answer.message_id == message_id
