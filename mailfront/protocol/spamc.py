"""The SPAMC/SPAMD dialogue, without I/O (spamd/PROTOCOL of SpamAssassin): one request, one answer, one connection."""

import re
from dataclasses import dataclass

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.printable import printable

MOST_ANSWER_BYTES = 64 * 1024
_STATUS = re.compile(rb"SPAMD/[0-9.]+ (\d+) ([^\r\n]*)")
_SPAM = re.compile(rb"^spam:\s*(\S+)\s*;\s*(-?[0-9.]+)\s*/\s*(-?[0-9.]+)\s*$", re.IGNORECASE | re.MULTILINE)
_SYMBOL = re.compile(r"[A-Za-z0-9_]{1,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpamdAnswer:
    """What SpamAssassin thinks of a message. `symbols`: the names of the rules that fit."""

    is_spam: bool
    score: float
    required: float
    symbols: tuple[str, ...]


def symbols_request(size_bytes: int, user: str = "") -> bytes:
    """What stands before the message: ask for the score and the names of the rules. `user` must be a plain name."""
    as_user = f"User: {user}\r\n" if user else ""
    return f"SYMBOLS SPAMC/1.5\r\nContent-length: {size_bytes}\r\n{as_user}\r\n".encode("ascii")


def read_answer(data: bytes) -> SpamdAnswer:
    """Read a whole answer to SYMBOLS. Raises RemoteProtocolError with spamd's own words if it is none."""
    head, found, body = data.partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if not found or status is None:
        raise RemoteProtocolError("spamd closed the connection without an answer")
    if status[1] != b"0":
        raise RemoteProtocolError(f"spamd says {printable(status[0], 100)}")
    spam = _SPAM.search(head.replace(b"\r\n", b"\n"))
    if spam is None:
        raise RemoteProtocolError("spamd's answer has no score")
    try:
        score, required = float(spam[2]), float(spam[3])
    except ValueError as error:
        raise RemoteProtocolError("spamd's score is no number") from error
    names = body.decode("ascii", "replace").replace("\r\n", ",").split(",")
    symbols = tuple(name.strip() for name in names if _SYMBOL.fullmatch(name.strip()))
    return SpamdAnswer(is_spam=spam[1].lower() == b"true", score=score, required=required, symbols=symbols)
