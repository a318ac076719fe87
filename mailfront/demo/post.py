"""Mail as any program sends and reads it: Python's smtplib and imaplib, and the messages that the demo sends."""

import contextlib
import imaplib
import re
import smtplib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

from mailfront.demo.children import HOST

SENDER = "friend@example.org"
_SMTP_TIMEOUT_S = 60.0
_IMAP_TIMEOUT_S = 15.0
_OUR_FIELDS = frozenset({b"return-path", b"received", b"mailfront-id"})
_FIELD = re.compile(rb"^([!-9;-~]+):", re.MULTILINE)
_ACCEPTED = re.compile(r"2\.0\.0 ([0-9a-z]{16}) (?:delivered|queued)")


@dataclass(frozen=True, slots=True)
class Answer:
    """One SMTP reply."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"

    @property
    def message_id(self) -> str:
        """The id under which the message was accepted, or ''."""
        match = _ACCEPTED.fullmatch(self.text)
        return match[1] if self.code == 250 and match is not None else ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a server said about a message: to each recipient, and, if it took any, to the message."""

    recipients: dict[str, Answer]
    message: Answer | None


def send(port: int, recipients: Sequence[str], content: bytes) -> Sent:
    """Send one message by SMTP. Raises OSError and smtplib's errors if the dialogue breaks."""
    client = smtplib.SMTP(HOST, port, local_hostname="laptop.example.org", timeout=_SMTP_TIMEOUT_S)
    # Not `with`: broken off by Ctrl-C in the middle of DATA, it would send QUIT as text and wait for a reply.
    with contextlib.closing(client):
        client.ehlo()
        options = ["BODY=8BITMIME"] if not content.isascii() and client.has_extn("8bitmime") else []
        code, text = client.mail(SENDER, options)
        if code != 250:
            raise smtplib.SMTPResponseException(code, text)
        answers = {recipient: _answer(client.rcpt(recipient)) for recipient in recipients}
        taken = any(answer.code == 250 for answer in answers.values())
        message = _answer(client.data(content)) if taken else None
        client.quit()
        return Sent(answers, message)


def _answer(reply: tuple[int, bytes]) -> Answer:
    return Answer(reply[0], reply[1].decode("utf-8", "replace"))


@contextlib.contextmanager
def logged_in(port: int, user: str, password: str) -> Iterator[imaplib.IMAP4]:
    """An IMAP session, logged out at the end. Raises OSError and imaplib's errors."""
    with imaplib.IMAP4(HOST, port, timeout=_IMAP_TIMEOUT_S) as client:
        client.login(user, password)
        yield client


def read_back(port: int, user: str, password: str, message_id: str) -> list[bytes]:
    """All messages with this `Mailfront-Id` in a user's inbox, read over IMAP. Raises OSError and imaplib's errors."""
    with logged_in(port, user, password) as client:
        client.select("INBOX", readonly=True)
        _, found = client.uid("SEARCH", "HEADER", "Mailfront-Id", message_id)
        copies = []
        for uid in found[0].split():
            _, parts = client.uid("FETCH", uid.decode(), "(BODY.PEEK[])")
            copies.append(next(part[1] for part in parts if isinstance(part, tuple)))
        return copies


def is_as_sent(copy: bytes, content: bytes) -> bool:
    """Whether a copy is what was sent, byte for byte, with nothing but trace fields in front (RFC 5321 section 4.4)."""
    if not copy.endswith(content):
        return False
    fields = {name.lower() for name in _FIELD.findall(copy[: len(copy) - len(content)])}
    return fields <= _OUR_FIELDS and {b"received", b"mailfront-id"} <= fields


def plain(to: str, subject: str) -> bytes:
    """A short text, with the lines that careless servers change: a lone dot, 8-bit text, trailing spaces."""
    message = _message([to], subject)
    message.set_content(
        "Dear reader,\n\nthe next line is a dot, alone:\n.\n..and this one begins with two.\n"
        "Größe, coût, año: 8-bit text. Spaces at the end:   \n\nYours\n"
    )
    return message.as_bytes(policy=policy.SMTP)


def with_attachment(to: str, subject: str) -> bytes:
    """MIME: a text, an HTML alternative, and a binary attachment of 200 KB."""
    message = _message([to], subject)
    message.set_content("The report is attached.\n")
    message.add_alternative("<p>The <b>report</b> is attached.</p>\n", subtype="html")
    data = bytes(range(256)) * 800
    message.add_attachment(data, maintype="application", subtype="pdf", filename="report.pdf")
    return message.as_bytes(policy=policy.SMTP)


def short(to: Sequence[str], subject: str) -> bytes:
    """One line for several people."""
    message = _message(to, subject)
    message.set_content(f"{subject}.\n")
    return message.as_bytes(policy=policy.SMTP)


def _message(to: Sequence[str], subject: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = ", ".join(to)
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.now().astimezone())
    message["Message-ID"] = make_msgid(domain="laptop.example.org")
    return message
