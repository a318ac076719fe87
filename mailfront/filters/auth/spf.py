"""SPF (RFC 7208): may this address send for that domain?

The evaluation is that of the library spf3, which is synchronous. It is made to wait for nothing: it runs over the DNS
answers that are already here; when one is missing it is stopped, the answer is fetched by our resolver, and it runs
again from the start. A check makes at most a few dozen look-ups (RFC 7208 section 4.6.4), and a run costs far less than
a look-up. DNS trouble is `temperror`, never `fail`; so is a check that takes longer than its time.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, cast

import spf

from mailfront.base.printable import printable
from mailfront.net.dns import DnsAnswer, Found, RecordType, Resolver, Trouble

MOST_LOOKUPS = 120
MOST_RECORD_BYTES = 4096
_NAME = re.compile(r"[!-~]{1,253}")
_TYPES = frozenset({"A", "AAAA", "MX", "PTR", "TXT"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpfResult:
    """`result` is one of RFC 7208 section 2.6. `identity` is `mailfrom` or `helo`, `domain` the one that was asked,
    `explanation` what its owner says about a fail ('': nothing), not to be trusted."""

    result: str
    identity: str
    domain: str
    sender: str
    reason: str = ""
    explanation: str = ""


class _Missing(Exception):
    """The run needs an answer that is not here yet."""

    def __init__(self, key: tuple[str, RecordType]) -> None:
        super().__init__(key)
        self.key = key


class _Query(spf.query):
    """The library's evaluation, over the answers that are here."""

    answers: dict[tuple[str, RecordType], DnsAnswer]
    missing: tuple[str, RecordType] | None = None
    """Also kept here, because the library swallows every exception while it reads an explanation."""

    def dns(self, name: str, qtype: str, cnames: Any = None, ignore_void: bool = False) -> list[Any]:
        """The records of a name. Raises _Missing if nobody has asked yet."""
        name = str(name).rstrip(".").lower()
        found: list[Any] = []
        if qtype in _TYPES and all(0 < len(label) < 64 for label in name.split(".")):
            key = (name, cast(RecordType, qtype))
            answer = self.answers.get(key)
            if answer is None:
                self.missing = key
                raise _Missing(key)
            if isinstance(answer, Trouble):
                raise spf.TempError(answer.reason)
            if isinstance(answer, Found):
                found = [(_bounded(record),) if isinstance(record, bytes) else record for record in answer.records]
        if not found and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {spf.MAX_VOID_LOOKUPS} exceeded")
        return found


def _bounded(record: bytes) -> bytes:
    """A TXT record as it is, unless it is a policy so long that evaluating it would hold up others."""
    if len(record) > MOST_RECORD_BYTES and record[:7].lower() == b"v=spf1 ":
        raise spf.PermError(f"a record of more than {MOST_RECORD_BYTES} bytes")
    return record


async def check_spf(
    resolver: Resolver, *, ip: str, sender: str, helo: str, receiver: str, timeout_s: float
) -> SpfResult:
    """Check the reverse-path's domain, or HELO where the reverse-path is null (`sender` '').

    `sender` and `helo` may be anything that a client said. Never raises; cancellation is safe.
    """
    identity = "mailfrom" if sender else "helo"
    domain = (sender.rpartition("@")[2] if sender else helo).rstrip(".").lower()
    answers: dict[tuple[str, RecordType], DnsAnswer] = {}

    def result(name: str, reason: str = "", explanation: str = "") -> SpfResult:
        return SpfResult(
            result=name,
            identity=identity,
            domain=domain,
            sender=sender,
            reason=printable(reason, 200),
            explanation=printable(explanation, 200),
        )

    if not ip or "." not in domain or _NAME.fullmatch(domain) is None:
        return result("none")
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(MOST_LOOKUPS):
                try:
                    return result(*_evaluate(answers, ip, sender, helo, receiver))
                except _Missing as missing:
                    answers[missing.key] = await resolver.lookup(*missing.key)
    except TimeoutError:
        return result("temperror", "DNS took too long")
    return result("permerror", f"needs more than {MOST_LOOKUPS} DNS look-ups")


def _evaluate(
    answers: dict[tuple[str, RecordType], DnsAnswer], ip: str, sender: str, helo: str, receiver: str
) -> tuple[str, str, str]:
    """One run: result, reason, explanation. Raises _Missing."""
    try:
        query = cast(Any, _Query)(i=ip, s=sender, h=helo, receiver=receiver)
        query.answers = answers
        name, _, text = query.check()
        if query.missing is not None:
            raise _Missing(query.missing)
    except _Missing:
        raise
    except Exception as error:  # the library may raise anything on a record that somebody made up
        return "permerror", f"{type(error).__name__}: {error}", ""
    explanation = text if name == "fail" and text != spf.EXPLANATIONS["fail"] else ""
    if name in ("temperror", "permerror"):
        return name, getattr(query, "prob", "") or text, ""
    return name, query.mechanism or "", explanation
