"""The header lines that we put in front of a message, and those that we take out of it.

In front: `Mailfront-Id` (every delivery carries it; a retry searches the mailbox for it) and `Received`
(RFC 5321 section 4.4). Out: any `Mailfront-*` line that came from outside, because the drain and the search believe
them. Nothing else of the message is touched. No work is done per line unless the message really carries such a line.
"""

import re
import time
from email.utils import formatdate

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.mail.body import BodyRef, PrefixedBody, RestOfBody
from mailfront.mail.client import ClientInfo

HEADER_LIMIT_BYTES = 256 * 1024
_MAILFRONT_FIELD = re.compile(
    rb"^mailfront-[^\r\n]*(?:\r\n|\Z)(?:[ \t][^\r\n]*(?:\r\n|\Z))*", re.IGNORECASE | re.MULTILINE
)
_RECEIVED = re.compile(rb"^received:", re.IGNORECASE | re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(?:\r\n[ \t]+)?(<[^<>\r\n]{1,250}>)", re.IGNORECASE | re.MULTILINE)
_UNSAFE = re.compile(r"[^A-Za-z0-9.:_\-\[\]]")
_DATE_CACHE: dict[int, str] = {}


def message_header(body: BodyRef) -> bytes:
    """The header section with its last line end, at most `HEADER_LIMIT_BYTES` of it."""
    head = body.head(HEADER_LIMIT_BYTES)
    if head.startswith(b"\r\n"):
        return b""
    end = head.find(b"\r\n\r\n")
    return head if end < 0 else head[: end + 2]


def received_count(header: bytes) -> int:
    """How many Received lines a header has: the hops so far."""
    return len(_RECEIVED.findall(header))


def client_message_id(header: bytes) -> str:
    """The Message-ID that the message came with, printable; '' if it has none or a very long one."""
    match = _MESSAGE_ID.search(header)
    return "" if match is None else printable(match[1], 300)


def trace_lines(message_id: MessageId, client: ClientInfo, *, hostname: str, recipient: str, wall_s: float) -> bytes:
    """Our own lines. `recipient` is named only for a message with a single one ('' otherwise): Bcc stays blind."""
    peer = client.ip or "local"
    literal = f"[IPv6:{peer}]" if ":" in peer else f"[{peer}]"
    helo = _UNSAFE.sub("?", client.helo)[:255] or "unknown"
    secured = f"\r\n\t({_UNSAFE.sub('-', client.tls)})" if client.tls else ""
    for_whom = f"\r\n\tfor <{recipient}>" if recipient.isascii() and recipient else ""
    return (
        f"Mailfront-Id: {message_id}\r\n"
        f"Received: from {helo} ({literal})\r\n"
        f"\tby {hostname} (mailfront) with {client.protocol} id {message_id}{secured}{for_whom};"
        f"\r\n\t{_date(wall_s)}\r\n"
    ).encode("ascii", "replace")


def with_trace(body: BodyRef, header: bytes, lines: bytes) -> BodyRef:
    """The message as it travels on: our lines, then the message without foreign `Mailfront-*` lines."""
    if b"mailfront-" not in header.lower():
        return PrefixedBody(lines, body)
    return PrefixedBody(lines + without_our_fields(header), RestOfBody(body, len(header)))


def without_our_fields(header: bytes) -> bytes:
    """A header without the `Mailfront-*` fields that came from outside."""
    return _MAILFRONT_FIELD.sub(b"", header) if b"mailfront-" in header.lower() else header


def _date(wall_s: float) -> str:
    second = int(wall_s)
    text = _DATE_CACHE.get(second)
    if text is None:
        _DATE_CACHE.clear()
        text = _DATE_CACHE[second] = formatdate(second, localtime=time.localtime(second).tm_gmtoff != 0)
    return text
