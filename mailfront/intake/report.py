"""The one line that says what became of a message, and the counters that sum such lines up."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from mailfront.filters.contract import Finding
from mailfront.intake.leaves import Leaf
from mailfront.intake.trace_header import client_message_id
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import Envelope
from mailfront.mail.outcome import Deferred, Delivered, Discarded, Failed, Fate, HandedOff, Retained, Split, Unknown
from mailfront.mail.reply import Reply
from mailfront.observe import metrics
from mailfront.observe.log import emit, only_tells

MOST_RECIPIENTS_SHOWN = 50
MOST_HASHED_BYTES = 128 * 1024


@dataclass(slots=True)
class Stages:
    """When each stage began, by the loop's clock; subtracted once, in the line."""

    mail_s: float
    rcpt_s: float = 0.0
    data_end_s: float = 0.0
    filtered_s: float = 0.0
    delivered_s: float = 0.0
    answered_s: float = 0.0


def identity(header: bytes, body: BodyRef) -> tuple[str, str]:
    """What a message is recognised by when its client sends it again: its Message-ID, or else its hash.

    Both are '' for a large message without Message-ID: hashing it would keep the others waiting.
    """
    message_id = client_message_id(header)
    if message_id or body.size_bytes > MOST_HASHED_BYTES:
        return message_id, ""
    return "", hashlib.sha256(body.head(MOST_HASHED_BYTES)).hexdigest()


@only_tells
def report_message(
    envelope: Envelope,
    size_bytes: int,
    leaves: Sequence[Leaf],
    outcomes: Sequence[Fate],
    replies: Sequence[Reply],
    stages: Stages,
    refused: Sequence[tuple[Address, Reply]],
    *,
    skipped_count: int,
    known_as: tuple[str, str],
    reason: str = "",
    findings: Sequence[Finding] = (),
) -> None:
    """Write the `message` event and count it. `known_as`: see `identity`."""
    client, answer = envelope.client, replies[0]
    result = _result(answer)
    metrics.INTAKE_MESSAGES.inc(result)
    for outcome in outcomes:
        metrics.INTAKE_OUTCOMES.inc(_label(outcome))
    delivery_s, commit_s = (
        stages.delivered_s - (stages.filtered_s or stages.data_end_s),
        stages.answered_s - stages.delivered_s,
    )
    metrics.INTAKE_SECONDS.observe(stages.answered_s - stages.data_end_s, "answer")
    metrics.INTAKE_SECONDS.observe(stages.answered_s - stages.mail_s, "total")
    shown: list[dict[str, Any]] = []
    for leaf, outcome in zip(leaves[:MOST_RECIPIENTS_SHOWN], outcomes, strict=False):
        line: dict[str, Any] = {"address": str(leaf.address), "mailbox": leaf.mailbox_key, **_shown(outcome)}
        if leaf.via:
            line["via"] = leaf.via
        shown.append(line)
    shown += [_refused(address, answer) for address, answer in refused]
    emit(
        "message",
        id=envelope.id,
        client_ip=client.ip,
        helo=client.helo,
        protocol=client.protocol,
        tls=client.tls or None,
        reverse_path=str(envelope.reverse_path or ""),
        recipients=shown,
        recipients_count=len(envelope.recipients),
        size_bytes=size_bytes,
        message_id=known_as[0] or None,
        sha256=known_as[1] or None,
        result=result,
        reply=str(answer),
        reason=reason or None,
        queued_count=sum(isinstance(outcome, Deferred | Unknown) for outcome in outcomes) if result == "queued" else 0,
        failed_count=sum(isinstance(outcome, Failed) for outcome in outcomes),
        handed_off_count=sum(isinstance(outcome, HandedOff) for outcome in outcomes),
        quarantined_count=sum(isinstance(outcome, Retained) for outcome in outcomes),
        duplicates_skipped_count=skipped_count,
        filters=[_finding(each) for each in findings] or None,
        filter_ms=_ms(stages.filtered_s - stages.data_end_s) if stages.filtered_s else None,
        envelope_ms=_ms(stages.rcpt_s - stages.mail_s),
        data_ms=_ms(stages.data_end_s - stages.rcpt_s),
        delivery_ms=_ms(delivery_s),
        commit_ms=_ms(commit_s),
        total_ms=_ms(stages.answered_s - stages.mail_s),
    )


@only_tells
def report_refused(
    envelope: Envelope,
    refused: Sequence[tuple[Address, Reply]],
    refused_count: int,
    refusal: Reply | None = None,
    findings: Sequence[Finding] = (),
) -> None:
    """Write the `message` event of a transaction that ended before its data, because recipients were refused; or
    (`refusal`) MAIL was."""
    answer = refused[0][1] if refusal is None else refusal
    emit(
        "message",
        id=envelope.id,
        client_ip=envelope.client.ip,
        helo=envelope.client.helo,
        protocol=envelope.client.protocol,
        tls=envelope.client.tls or None,
        reverse_path=str(envelope.reverse_path or ""),
        recipients=[_refused(address, reply) for address, reply in refused],
        recipients_count=refused_count,
        result=_result(answer),
        reply=str(answer),
        reason="recipients refused" if refusal is None else "refused at MAIL",
        filters=[_finding(each) for each in findings] or None,
    )


def _refused(address: Address, answer: Reply) -> dict[str, Any]:
    return {"address": str(address), "outcome": "refused", "reply": str(answer)}


def _result(answer: Reply) -> str:
    if answer.is_positive:
        return _ACCEPTED.get(answer.text.rpartition(" ")[2], "queued")
    return "rejected" if answer.is_permanent else "deferred"


def _label(outcome: Fate) -> str:
    return f"deferred_{outcome.blame.value}" if isinstance(outcome, Deferred) else _kind(outcome)


def _kind(outcome: Fate) -> str:
    match outcome:
        case Delivered():
            return "delivered"
        case HandedOff():
            return "handed_off"
        case Deferred():
            return "deferred"
        case Failed():
            return "failed"
        case Unknown():
            return "unknown"
        case Retained():
            return "quarantined" if outcome.quarantined else "held"
        case Discarded():
            return "discarded"
        case Split():
            return "split"
        case _:
            assert_never(outcome)


def _shown(outcome: Fate) -> dict[str, Any]:
    """What the line says of one mailbox."""
    kind = _kind(outcome)
    match outcome:
        case HandedOff(holder, home):
            return {"node": home, "outcome": f"{kind} to {holder}"}
        case Unknown(node, reason):
            return {"node": node, "outcome": kind, "reply": reason}
        case Split(message_id):
            return {"outcome": kind, "reply": f"goes on as {message_id}"}
        case Retained(reason) | Discarded(reason):
            return {"outcome": kind, "reply": reason}
        case Delivered() | Deferred() | Failed():
            return {"node": outcome.node, "outcome": kind, "reply": str(outcome.reply)}
        case _:
            assert_never(outcome)


def _finding(finding: Finding) -> dict[str, Any]:
    """What the line says of one filter."""
    verdict = finding.verdict
    shown: dict[str, Any] = {
        "filter": finding.filter,
        "stage": finding.stage.value,
        "verdict": verdict.action.value,
        "ms": _ms(finding.took_s),
        "score": verdict.score,
        "reason": verdict.reason or None,
        "error": finding.error or None,
        "edits_count": len(verdict.edits) or None,
        "shadow": finding.shadow or None,
    }
    return {name: value for name, value in shown.items() if value is not None}


_ACCEPTED = {"delivered": "delivered", "accepted": "discarded"}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
