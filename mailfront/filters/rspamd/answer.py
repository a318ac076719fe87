"""From rspamd's answer to a verdict. Pure.

Reference: https://docs.rspamd.com/developers/protocol/ (reply of `/checkv2`, and its `milter` block). What is of
another shape than documented is an error of the filter, not a guess.
"""

import re
from collections.abc import Iterator, Mapping
from email.header import Header
from typing import Any

import orjson

from mailfront.filters.failure import FilterFailed
from mailfront.filters.headers import Headers
from mailfront.filters.rspamd.settings import RspamdSettings
from mailfront.mail.verdict import Action, AddHeader, ChangeHeader, DeleteHeader, Edit, InsertHeader, Verdict

MOST_SYMBOLS_SHOWN = 12
MOST_SUBJECT_CHARS = 600
MOST_VALUE_CHARS, MOST_LINE_CHARS = 16_000, 240
_SOUND = re.compile(r"[^\r\n\0]{0,900}(?:\r?\n[ \t]+[^ \t\r\n\0][^\r\n\0]{0,900})*")
_FOLD, _BREAKS = re.compile(r"\r?\n[ \t]+"), re.compile(r"[\r\n\0]+")


def read_answer(data: bytes, settings: RspamdSettings, headers: Headers) -> Verdict:
    """The verdict that rspamd's answer means. Raises FilterFailed for one that cannot be read."""
    try:
        answer = orjson.loads(data)
        action = answer["action"]
        score, required = float(answer["score"]), float(answer["required_score"])
        symbols = answer.get("symbols", {})
        edits = (*_milter_edits(answer.get("milter") or {}, headers), *_own_edits(action, answer, settings, headers))
        messages = answer.get("messages") or {}
        text = str(messages.get("smtp_message", "")) if isinstance(messages, Mapping) else ""
        reason = f"{action}, {score:g} of {required:g}: {', '.join(_heaviest(symbols))}"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FilterFailed(f"rspamd's answer cannot be read: {error}") from error
    return _verdict(str(action), text, reason, edits, score, settings)


def _verdict(
    action: str, text: str, reason: str, edits: tuple[Edit, ...], score: float, settings: RspamdSettings
) -> Verdict:
    match action:
        case "no action" | "add header" | "rewrite subject":
            return Verdict(reason=reason, edits=edits, score=score)
        case "greylist" if settings.greylist == "accept":
            return Verdict(reason=reason, edits=edits, score=score)
        case "greylist" | "soft reject":
            return _refusal(Action.TEMPFAIL, text or "try again later", reason, edits, score)
        case "reject" if settings.reject == "reject":
            return _refusal(Action.REJECT, text or "spam message rejected", reason, edits, score)
        case "reject" | "quarantine":
            return Verdict(action=Action.QUARANTINE, reason=reason, edits=edits, score=score)
        case "discard":
            return Verdict(action=Action.DISCARD, reason=reason, score=score)
        case _:
            raise FilterFailed(f"rspamd wants the unknown action {action!r}")


def _refusal(action: Action, text: str, reason: str, edits: tuple[Edit, ...], score: float) -> Verdict:
    # The edits count if other recipients are accepted and this one is quarantined.
    return Verdict(action=action, text=text, reason=reason, edits=edits, score=score)


def _heaviest(symbols: Mapping[str, Any]) -> list[str]:
    scored = sorted(symbols.items(), key=lambda item: -abs(float(item[1].get("score", 0.0))))
    return [f"{name}({float(symbol.get('score', 0.0)):g})" for name, symbol in scored[:MOST_SYMBOLS_SHOWN]]


def _own_edits(action: str, answer: Mapping[str, Any], settings: RspamdSettings, headers: Headers) -> Iterator[Edit]:
    if action in ("add header", "rewrite subject", "quarantine"):
        yield AddHeader(settings.spam_header, "Yes")
    if action == "rewrite subject":
        before = headers.first("subject") or ""
        subject = answer.get("subject") or settings.subject_prefix + before
        yield ChangeHeader("Subject", 1, _encoded(str(subject)))


def _encoded(subject: str) -> str:
    """RFC 2047 for what is not ASCII: the message may go where SMTPUTF8 is unknown.

    It is the sender's text: whatever he wrote, a field can be made of it, or he could make this filter fail.
    """
    text = subject.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    subject = "".join(each if each >= " " and each != "\x7f" else " " for each in text)[:MOST_SUBJECT_CHARS]
    return subject if subject.isascii() else Header(subject, "utf-8", maxlinelen=900).encode(linesep="\r\n")


def _milter_edits(milter: Mapping[str, Any], headers: Headers) -> Iterator[Edit]:
    for name, which in (milter.get("remove_headers") or {}).items():
        orders = which if isinstance(which, list) else [which]
        for order in orders:
            occurrence = int(order)
            if occurrence < 0:
                occurrence += len(headers.all(name)) + 1
                if occurrence < 1:
                    continue
            yield DeleteHeader(name, occurrence or None)
    for name, wanted in (milter.get("add_headers") or {}).items():
        for each in wanted if isinstance(wanted, list) else [wanted]:
            value = each["value"] if isinstance(each, Mapping) else each
            order = int(each.get("order", -1)) if isinstance(each, Mapping) else -1
            if order < 0:
                yield AddHeader(name, _one_field(str(value)))
            else:
                # rspamd counts from 1, and 0 is the top as well.
                yield InsertHeader(max(0, order - 1), name, _one_field(str(value)))


def _one_field(value: str) -> str:
    """A value as one field whatever is in it: rspamd writes names, addresses and links of the message into its fields,
    and the sender of one that cannot be written would have made this filter fail. One that is sound stays as it is: it
    may be a signature."""
    value = value.strip("\r\n")[:MOST_VALUE_CHARS]
    if value.isascii() and _SOUND.fullmatch(value):
        return value
    lines = _FOLD.split(value)
    cut = [line[at : at + MOST_LINE_CHARS] for line in lines for at in range(0, max(1, len(line)), MOST_LINE_CHARS)]
    return "\r\n\t".join(piece for each in cut if (piece := _BREAKS.sub(" ", each).strip()))
