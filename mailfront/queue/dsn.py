"""Delivery status notifications (RFC 3461, 3464, 6522; RFC 6533 where an address is not ASCII). Pure.

`build_dsn` turns what happened to recipients of one message into the bytes of one notice: a text for people
(`dsn_text`), the same for programs, and the message itself, or its header where it is large. It decides neither whether
a notice is due nor who gets it; `notify_wants` answers what the sender asked for.

Everything in here may come from a stranger: replies of other servers, parameters of a client, the message. Texts are
cut and made printable; parameters are used only if they have the shape that their RFC gives them; the message is
attached byte for byte under a boundary that is random.
"""

import base64
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.queue.dsn_text import NoticeKind, advice_for, language_of, words_of
from mailfront.queue.rows import QueuedMessage

__all__ = ["NoticeKind", "NoticeRecipient", "Reporter", "build_dsn", "notify_wants"]

WHOLE_BYTES = 50 * 1024
"""A larger message is not sent back; its header is."""
HEADER_BYTES = 64 * 1024
MOST_RECIPIENTS = 100
"""So many are listed; a notice about more says how many it leaves out."""

_LINE = 72
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_LONG_LINE = re.compile(rb"[^\n]{999}")
_FIELD = re.compile(rb"^(Message-ID|Subject)[ \t]*:((?:[^\r\n]*)(?:\r\n[ \t][^\r\n]*)*)", re.IGNORECASE | re.MULTILINE)
_MESSAGE_ID = re.compile(rb"<[!-;=?-~]{1,250}>")
_ENCODED_WORD = re.compile(r"=\?[^?\s]{1,40}\?[bBqQ]\?[^?\s]*\?=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Who writes notices: the name of this host, the postmaster to ask, and the language if a message names none."""

    hostname: str
    postmaster: str
    language: str = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRecipient:
    """One recipient and what became of it.

    `status` is an RFC 3463 code. `diagnostic` is what the other server said, with its code, or '' if nothing was said.
    `via` is the address of ours that passed the message on. `give_up_s` is until when a late message is tried.
    """

    address: str
    status: str
    diagnostic: str = ""
    orcpt: str | None = None
    last_attempt_s: float | None = None
    give_up_s: float | None = None
    via: str = ""
    maybe_delivered: bool = False


_WANTED = {
    NoticeKind.FAILED: "FAILURE",
    NoticeKind.DELAYED: "DELAY",
    NoticeKind.DELIVERED: "SUCCESS",
    NoticeKind.RELAYED: "SUCCESS",
    NoticeKind.EXPANDED: "SUCCESS",
}


def notify_wants(notify: str | None, kind: NoticeKind) -> bool:
    """Whether NOTIFY= (as written; None: absent) asks for such a notice. Absent means failures and delays."""
    if notify is None:
        return kind in (NoticeKind.FAILED, NoticeKind.DELAYED)
    return _WANTED[kind] in {word.strip().upper() for word in notify.split(",")}


def build_dsn(
    reporter: Reporter,
    message: QueuedMessage,
    kind: NoticeKind,
    recipients: Sequence[NoticeRecipient],
    *,
    to: str,
    original: bytes,
    now_s: float,
    notice_id: MessageId,
) -> bytes:
    """The bytes of one notice to `to`, with CRLF line ends.

    `original` is the beginning of the message's body, at least `HEADER_BYTES` of it or all. The result may contain
    8-bit text if `original` or an address does: send it as 8BITMIME, and with SMTPUTF8 if `needs_smtputf8` says so.
    """
    header = _header_of(original)
    whole = (
        kind is NoticeKind.FAILED
        and (message.ret or "FULL").upper() != "HDRS"
        and message.size_bytes <= min(WHOLE_BYTES, len(original))
        and _LONG_LINE.search(original) is None
    )
    language = language_of(header, reporter.language)
    shown = recipients[:MOST_RECIPIENTS]
    boundary = f"mf-{secrets.token_hex(16)}"
    is_global = not all(each.address.isascii() for each in shown)
    text = _text_for_people(reporter, message, kind, shown, len(recipients) - len(shown), header, language, whole)
    top = [
        f"From: {_mailbox_name(language)} <{reporter.postmaster}>",
        f"To: <{to}>",
        f"Subject: {_encoded(words_of(language).subject[kind])}",
        f"Date: {formatdate(now_s)}",
        f"Message-ID: <{notice_id}@{reporter.hostname}>",
        *_references(header),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type="
        f'{"global-delivery-status" if is_global else "delivery-status"};\r\n\tboundary="{boundary}"',
    ]
    parts = [
        _part(
            [
                "Content-Type: text/plain; charset=utf-8",
                f"Content-Language: {language}",
                "Content-Transfer-Encoding: base64",
            ],
            _base64_lines(text.encode("utf-8", "replace")),
        ),
        _part(
            [
                f"Content-Type: message/{'global-' if is_global else ''}delivery-status",
                f"Content-Transfer-Encoding: {'8bit' if is_global else '7bit'}",
            ],
            _status_fields(reporter, message, kind, shown, is_global).encode("utf-8", "replace"),
        ),
        _original_part(original if whole else _safe_header(header), whole=whole),
    ]
    mark = f"--{boundary}\r\n".encode()
    joined = b"".join(mark + part for part in parts)
    return "\r\n".join(top).encode("utf-8", "replace") + b"\r\n\r\n" + joined + f"--{boundary}--\r\n".encode()


def needs_smtputf8(notice: bytes) -> bool:
    """Whether the header of a notice, or of the message in it, is not ASCII (RFC 6532)."""
    return not _header_of(notice).isascii()


def _text_for_people(
    reporter: Reporter,
    message: QueuedMessage,
    kind: NoticeKind,
    recipients: Sequence[NoticeRecipient],
    left_out_count: int,
    header: bytes,
    language: str,
    whole: bool,
) -> str:
    words = words_of(language)
    lines = [words.opening[kind], ""]
    for each in recipients:
        lines.append(f"    {printable(each.address, 400)}")
        if each.via:
            lines.append(f"        {words.through}: {printable(each.via, 400)}")
        if kind is NoticeKind.FAILED:
            lines.append(f"        {advice_for(words, each.status)}")
        if each.maybe_delivered:
            lines.append(f"        {words.maybe}")
        if each.diagnostic:
            lines.append(f"        {words.said}: {printable(each.diagnostic, 600)}")
        if kind is NoticeKind.DELAYED and each.give_up_s is not None:
            lines.append(f"        {words.retried}: {formatdate(each.give_up_s)}")
        lines.append("")
    if left_out_count:
        lines += [f"    (+ {left_out_count})", ""]
    subject = _subject(header)
    lines.append(f"{words.sent}: {formatdate(message.arrived_s)}")
    if subject:
        lines.append(f"{words.about}: {subject}")
    lines += ["", words.attached_whole if whole else words.attached_headers]
    lines.append(f"{words.contact}: {reporter.postmaster} ({message.id})")
    return "\r\n".join(lines) + "\r\n"


def _status_fields(
    reporter: Reporter, message: QueuedMessage, kind: NoticeKind, recipients: Sequence[NoticeRecipient], is_global: bool
) -> str:
    """RFC 3464 section 2: one block for the message, one for each recipient."""
    lines = [f"Reporting-MTA: dns; {reporter.hostname}"]
    envid = _decoded_xtext(message.envid)
    if envid:
        lines.append(f"Original-Envelope-Id: {envid}")
    lines += [f"Arrival-Date: {formatdate(message.arrived_s)}", f"X-Mailfront-Id: {message.id}", ""]
    for each in recipients:
        original = _original_recipient(each.orcpt, is_global)
        if original:
            lines.append(f"Original-Recipient: {original}")
        address = printable(each.address, 400)
        lines += [
            f"Final-Recipient: {'rfc822' if address.isascii() else 'utf-8'}; {address}",
            f"Action: {kind.value}",
            f"Status: {each.status}",
        ]
        if each.diagnostic:
            said = printable(each.diagnostic, 600)
            lines.append(f"Diagnostic-Code: smtp; {said if is_global else _ascii(said)}")
        if each.last_attempt_s is not None:
            lines.append(f"Last-Attempt-Date: {formatdate(each.last_attempt_s)}")
        if kind is NoticeKind.DELAYED and each.give_up_s is not None:
            lines.append(f"Will-Retry-Until: {formatdate(each.give_up_s)}")
        lines.append("")
    return "\r\n".join(lines)


def _original_part(content: bytes, *, whole: bool) -> bytes:
    if whole:
        kind = "message/rfc822" if _header_of(content).isascii() else "message/global"
    else:
        kind = "text/rfc822-headers" if content.isascii() else "message/global-headers"
    encoding = "7bit" if content.isascii() else "8bit"
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    return _part([f"Content-Type: {kind}", f"Content-Transfer-Encoding: {encoding}"], content)


def _part(fields: Sequence[str], content: bytes) -> bytes:
    return "\r\n".join(fields).encode() + b"\r\n\r\n" + content + b"\r\n"


def _header_of(original: bytes) -> bytes:
    head = original[:HEADER_BYTES]
    if head.startswith(b"\r\n"):
        return b""
    end = head.find(b"\r\n\r\n")
    return head if end < 0 else head[: end + 2]


def _safe_header(header: bytes) -> bytes:
    """A header whose lines every server takes: cut where a line is longer than 998 bytes (RFC 5322 section 2.1.1)."""
    return b"\r\n".join(line[:990] for line in header.split(b"\r\n"))


def _references(header: bytes) -> list[str]:
    for name, value in _FIELD.findall(header):
        found = _MESSAGE_ID.search(value) if name.lower() == b"message-id" else None
        if found:
            return [f"In-Reply-To: {found[0].decode()}", f"References: {found[0].decode()}"]
    return []


def _subject(header: bytes) -> str:
    from email.errors import HeaderParseError
    from email.header import decode_header, make_header

    for name, value in _FIELD.findall(header):
        if name.lower() != b"subject":
            continue
        text = printable(value.replace(b"\r\n", b"").strip(), 300)
        if _ENCODED_WORD.search(text):
            try:
                text = str(make_header(decode_header(text)))
            except (HeaderParseError, LookupError, ValueError):
                pass
        return printable(text, 200)
    return ""


def _decoded_xtext(value: str | None) -> str:
    """What xtext stands for (RFC 3461 section 4); '' if it is none, or not to be shown."""
    if value is None or _XTEXT.fullmatch(value) is None or len(value) > 500:
        return ""
    text = _HEX.sub(lambda match: chr(int(match[1], 16)), value)
    return text if text.isprintable() and text.isascii() else ""


def _original_recipient(orcpt: str | None, is_global: bool) -> str:
    """ORCPT as a field: its type, and its address with the xtext undone."""
    kind, semicolon, address = (orcpt or "").partition(";")
    if not semicolon or re.fullmatch(r"[A-Za-z0-9.-]{1,20}", kind) is None:
        return ""
    if kind.lower() == "utf-8":
        return f"utf-8; {printable(address, 500)}" if is_global or address.isascii() else ""
    decoded = _decoded_xtext(address)
    return f"{kind.lower()}; {decoded}" if decoded else ""


def _mailbox_name(language: str) -> str:
    return _encoded("Sistema de correo" if language == "es" else "Mail delivery")


def _encoded(text: str) -> str:
    """A header text: as it is, or as one encoded word (RFC 2047); ours are short enough for one."""
    if text.isascii():
        return text
    return f"=?utf-8?b?{base64.b64encode(text.encode()).decode()}?="


def _base64_lines(data: bytes) -> bytes:
    coded = base64.b64encode(data)
    return b"\r\n".join(coded[start : start + _LINE] for start in range(0, len(coded), _LINE))


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
