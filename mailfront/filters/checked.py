"""Nothing that a filter returns is believed before it was here. Pure.

A scanner can be wrong, old, broken into, or fed with a message that makes it repeat what the sender wrote. So:

- reply text is cleaned and cut, never refused: a reject stays a reject. A code that is none, or of the wrong class, is
  replaced by 550 5.7.1 or 451 4.7.1;
- a header field's name must be one, its value may be folded but must not start another field; bare line ends, NUL and
  lines over 998 bytes make the whole verdict an error of the filter, and its `on_error` applies. So do addresses that
  are none, bodies with bare line ends, and more than `MOST_EDITS` edits: half of a filter's wishes is nobody's wish;
- names that only we write (`Mailfront-*`) cannot be written by a filter.
"""

import math
import re
from dataclasses import replace
from typing import assert_never

from mailfront.base.printable import printable
from mailfront.filters.failure import FilterFailed
from mailfront.mail.address import Address, parse_path
from mailfront.mail.reply import MAX_TEXT_CHARS
from mailfront.mail.verdict import (
    CONTINUE,
    Action,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    Edit,
    InsertHeader,
    ReplaceBody,
    Verdict,
)

MOST_EDITS = 4000
"""Enough to delete each field of a header one by one: a sender must not be able to make a filter wish for too much."""
MOST_LINE_BYTES = 998
MOST_VALUE_BYTES = 64 * 1024
MOST_ADDED_RECIPIENTS = 100
_NAME = re.compile(r"[!-9;-~]{1,76}")
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_CODES = {Action.REJECT: (5, 550, "5.7.1", "refused by policy"), Action.TEMPFAIL: (4, 451, "4.7.1", "try again later")}


def checked(verdict: object) -> Verdict:
    """The verdict, made safe. Raises FilterFailed for one that cannot be."""
    if verdict is CONTINUE:
        return CONTINUE
    if not isinstance(verdict, Verdict) or not isinstance(verdict.action, Action):
        raise FilterFailed(f"returned {printable(type(verdict).__name__, 60)}, not a Verdict")
    score = verdict.score
    if score is not None and (not isinstance(score, int | float) or not math.isfinite(score)):
        raise FilterFailed("its score is not a number")
    if verdict.sender_proven not in (True, False, None):
        raise FilterFailed("its word about the sender is neither true nor false")
    if len(verdict.edits) > MOST_EDITS:
        raise FilterFailed(f"wants {len(verdict.edits)} edits; {MOST_EDITS} are possible")
    if sum(isinstance(edit, AddRecipient) for edit in verdict.edits) > MOST_ADDED_RECIPIENTS:
        raise FilterFailed(f"adds more than {MOST_ADDED_RECIPIENTS} recipients")
    edits = tuple([_edit(edit) for edit in verdict.edits])
    reason = printable(str(verdict.reason), MAX_TEXT_CHARS).strip("? ")
    rule = _CODES.get(verdict.action)
    if rule is None:
        return replace(verdict, code=0, enhanced="", text="", reason=reason, edits=edits)
    kind, code, enhanced, text = rule
    if _is_code(verdict.code, kind):
        code = verdict.code
    if isinstance(verdict.enhanced, str) and _ENHANCED.fullmatch(verdict.enhanced) and verdict.enhanced[0] == str(kind):
        enhanced = verdict.enhanced
    said = printable(str(verdict.text).rstrip("\x00\r\n "), MAX_TEXT_CHARS)
    return replace(verdict, code=code, enhanced=enhanced, text=said or text, reason=reason or said, edits=edits)


def _is_code(code: object, kind: int) -> bool:
    # 421 and 521 end the connection, which is the edge's decision.
    return isinstance(code, int) and kind * 100 <= code <= kind * 100 + 59 and code not in (421, 521)


def _edit(edit: Edit) -> Edit:
    match edit:
        case AddHeader():
            return AddHeader(_name(edit.name), _value(edit.name, edit.value))
        case InsertHeader():
            return InsertHeader(max(0, int(edit.position)), _name(edit.name), _value(edit.name, edit.value))
        case ChangeHeader():
            return ChangeHeader(_name(edit.name), _occurrence(edit.occurrence), _value(edit.name, edit.value))
        case DeleteHeader():
            occurrence = None if edit.occurrence is None else _occurrence(edit.occurrence)
            return DeleteHeader(_name(edit.name), occurrence)
        case AddRecipient() | DeleteRecipient():
            return type(edit)(_address(edit.address))
        case ChangeSender():
            return edit if edit.address is None else ChangeSender(_address(edit.address))
        case ReplaceBody():
            if not isinstance(edit.data, bytes) or _BARE.search(edit.data):
                raise FilterFailed("its new body is not bytes with CRLF line ends")
            return edit
        case _:
            assert_never(edit)


def _name(name: str) -> str:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise FilterFailed(f"{printable(str(name), 60)} is not the name of a header field")
    if name.lower().startswith("mailfront-"):
        raise FilterFailed(f"the field {name} is ours")
    return name


def _value(name: str, value: str) -> str:
    """Fold lines are CRLF and a blank; anything else that ends a line could begin a field of the sender's choice."""
    if not isinstance(value, str):
        raise FilterFailed(f"the value of {printable(str(name), 60)} is not text")
    value = re.sub(r"\r?\n(?=[ \t])", "\r\n", value.rstrip("\x00\r\n"))
    try:
        lines = value.encode("utf-8", "surrogateescape").split(b"\r\n")
    except UnicodeEncodeError as error:
        raise FilterFailed(f"the value of {name} is not UTF-8") from error
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        raise FilterFailed(f"the value of {name} has a bare line end or NUL")
    if any(not line.startswith((b" ", b"\t")) for line in lines[1:]):
        raise FilterFailed(f"the value of {name} would begin another field")
    longest_bytes = max(len(lines[0]) + len(name) + 2, *(len(line) for line in lines))
    if longest_bytes > MOST_LINE_BYTES or sum(map(len, lines)) > MOST_VALUE_BYTES:
        raise FilterFailed(f"the value of {name} is too long")
    if any(not line.strip(b" \t") for line in lines[1:]):
        raise FilterFailed(f"the value of {name} has an empty line")
    return value


def _occurrence(occurrence: int) -> int:
    if not isinstance(occurrence, int) or occurrence < 1:
        raise FilterFailed("a field's occurrence counts from 1")
    return occurrence


def _address(address: Address) -> Address:
    if not isinstance(address, Address) or not address.domain or parse_path(str(address)) != address:
        raise FilterFailed(f"{printable(str(address))} is not an address")
    return address
