"""The field `Authentication-Results` (RFC 8601): ours is written, forged ones are found. Pure.

What a client said stands in it only as a token or a quoted string of ASCII, so nothing can end the field or pose as a
result. A field is forged if it bears one of our names, in whatever spelling: other letters, quoted, behind comments,
folded, with a version or a final dot; and so is one whose name cannot be read.
"""

import re
from collections.abc import Iterable, Sequence

from mailfront.filters.auth.dkim import ArcResult, SignatureResult
from mailfront.filters.auth.dmarc import DmarcResult
from mailfront.filters.auth.spf import SpfResult
from mailfront.filters.headers import Headers
from mailfront.mail.verdict import DeleteHeader

FIELD = "Authentication-Results"
MOST_FIELDS = 100
MOST_NAME_CHARS = 1000
_LONG_LINE_CHARS = 900
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+./^_`{|}~@-]+")
_ID = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')


def results_field(
    authserv_id: str,
    spf: SpfResult,
    signatures: Sequence[SignatureResult],
    dmarc: DmarcResult,
    arc: ArcResult,
) -> str:
    """The value of our field, folded."""
    identity = f"smtp.{spf.identity}"
    lines = [_result("spf", spf.result, spf.reason, {identity: spf.sender or spf.domain})]
    for each in signatures:
        properties = {
            "header.d": each.domain,
            "header.s": each.selector,
            "header.a": each.algorithm,
            "header.b": each.start,
        }
        lines.append(_result("dkim", each.result, each.reason, properties))
    if not signatures:
        lines.append("dkim=none")
    policy = {"header.from": dmarc.domain, "policy.dmarc": dmarc.policy if dmarc.domain else ""}
    lines.append(_result("dmarc", dmarc.result, dmarc.reason, policy))
    if arc.result != "none":
        lines.append(_result("arc", arc.result, arc.reason, {"header.d": arc.sealer}))
    return ";\r\n\t".join([authserv_id, *lines])


def forged(headers: Headers, names: Iterable[str]) -> tuple[DeleteHeader, ...]:
    """Edits that delete what bears one of our names; all of them if there are more than anybody adds."""
    fields = headers.all(FIELD)
    if len(fields) > MOST_FIELDS:
        return (DeleteHeader(FIELD),)
    suspect = {name.lower().rstrip(".") for name in names} | {None}
    return tuple(
        DeleteHeader(FIELD, number) for number, field in enumerate(fields, start=1) if _claimed(field.value) in suspect
    )


def _result(method: str, result: str, reason: str, properties: dict[str, str]) -> str:
    parts = [f"{method}={result}"]
    if reason:
        parts.append(f"reason={_quoted(reason)}")
    parts += [f"{name}={_value(value)}" for name, value in properties.items() if value]
    # What the sender wrote may be long, and a line must not be: a field that cannot be written would be his success.
    return (" " if sum(map(len, parts)) < _LONG_LINE_CHARS else "\r\n\t").join(parts)


def _value(text: str) -> str:
    return text if _TOKEN.fullmatch(text) and len(text) <= 320 else _quoted(text)


def _quoted(text: str) -> str:
    plain = "".join(each if " " <= each <= "~" else "?" for each in text[:320])
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _claimed(value: str) -> str | None:
    """The name that a field bears, in lower case; None if it cannot be read."""
    match = _ID.match(_without_comments(value))
    if match is None:
        return None
    name = re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
    return name.strip().partition("/")[0].rstrip(".").lower() or None


def _without_comments(value: str) -> str:
    """`value` with each comment outside of quotes as a space; comments may hold comments."""
    kept: list[str] = []
    depth, quoted, escaped = 0, False, False
    for each in value[:MOST_NAME_CHARS]:
        if escaped:
            escaped = False
        elif each == "\\":
            escaped = True
        elif depth == 0 and each == '"':
            quoted = not quoted
        elif not quoted and each == "(":
            depth += 1
            kept.append(" ")
            continue
        elif not quoted and each == ")" and depth:
            depth -= 1
            continue
        if depth == 0:
            kept.append(each)
    return "".join(kept)
