"""DMARC (RFC 7489): does what was authenticated belong to the domain that people see in From?

A policy is looked up at the domain of From, then at its organisational domain, which the Public Suffix List tells (the
list is data inside the package `publicsuffixlist`; nothing is fetched). Trouble with DNS is `temperror`: no policy is
enforced on what could not be looked up, and a check that might have passed is no failure.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import getaddresses
from functools import cache
from typing import Literal

from publicsuffixlist import PublicSuffixList

from mailfront.base.printable import printable
from mailfront.filters.auth.dkim import SignatureResult
from mailfront.filters.auth.spf import SpfResult
from mailfront.filters.headers import Headers
from mailfront.net.dns import Found, Resolver, Trouble

Policy = Literal["none", "quarantine", "reject"]

MOST_AUTHORS = 5
MOST_FROM_CHARS = 10_000
_WITHOUT_POLICY = re.compile(r"[a-z0-9_-]{1,63}|\[[0-9a-f:.]{1,60}\]")
_DOMAIN = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A published policy. `subdomains` is for domains below `domain`, where the record stands."""

    domain: str
    policy: Policy
    subdomains: Policy
    strict_dkim: bool = False
    strict_spf: bool = False
    percent: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DmarcResult:
    """`result`: none, pass, fail, temperror, permerror. `policy` is what the owner asks for on a fail."""

    result: str
    domain: str = ""
    policy: Policy = "none"
    percent: int = 100
    reason: str = ""


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def load_suffixes() -> None:
    """Read the Public Suffix List now and not at the first message; it takes a tenth of a second."""
    _suffixes()


def organisational(domain: str) -> str:
    """The domain that somebody registered: one label below a public suffix. A public suffix is its own."""
    found = _suffixes().privatesuffix(domain)
    return str(found) if found else domain


def author_domains(headers: Headers) -> tuple[str, ...] | None:
    """The domains of all authors in From, in lower case, each once; those that can have no policy (`localhost`, an
    address in brackets) are left out. None: From cannot be read, or there are several fields of that name, so that
    nobody knows what a mail program shows."""
    fields = headers.all("From")
    if len(fields) != 1:
        return None if fields else ()
    value = fields[0].value
    if len(value) > MOST_FROM_CHARS:
        return None
    domains: dict[str, None] = {}
    try:
        authors = getaddresses([value])
    except (RecursionError, ValueError):  # comments inside comments without end
        return None
    for _, address in authors:
        domain = address.rpartition("@")[2].strip().rstrip(".").lower()
        try:
            domain = domain.encode("idna").decode("ascii") if not domain.isascii() else domain
        except UnicodeError:
            return None
        if _WITHOUT_POLICY.fullmatch(domain) is not None and "@" in address:
            continue
        if not address or _DOMAIN.fullmatch(domain) is None:
            return None
        domains[domain] = None
    return tuple(domains) if authors and len(domains) <= MOST_AUTHORS else None


async def check_dmarc(
    resolver: Resolver, domains: Sequence[str] | None, spf: SpfResult, signatures: Sequence[SignatureResult]
) -> DmarcResult:
    """The result for all authors' domains: the worst one. Never raises."""
    if domains is None:
        return DmarcResult(result="permerror", reason="From names no one domain")
    results = [await _check_one(resolver, domain, spf, signatures) for domain in domains]
    order = ("fail", "temperror", "permerror", "none", "pass")
    return min(results, key=lambda each: order.index(each.result), default=DmarcResult(result="none"))


async def _check_one(
    resolver: Resolver, domain: str, spf: SpfResult, signatures: Sequence[SignatureResult]
) -> DmarcResult:
    above = organisational(domain)
    record: Record | None = None
    for name in dict.fromkeys((domain, above)):
        answer = await resolver.lookup(f"_dmarc.{name}", "TXT")
        if isinstance(answer, Trouble):
            return DmarcResult(result="temperror", domain=domain, reason=answer.reason)
        if isinstance(answer, Found):
            record = read_record(name, (each for each in answer.records if isinstance(each, bytes)))
            if record is not None:
                break
    if record is None:
        return DmarcResult(result="none", domain=domain)
    policy = record.policy if record.domain == domain else record.subdomains
    if _passes(domain, record, spf, signatures, "pass"):
        result, reason = "pass", ""
    elif _passes(domain, record, spf, signatures, "temperror"):
        result, reason = "temperror", "what might have passed could not be looked up"
    else:
        result, reason = "fail", "nothing that passed is of this domain"
    return DmarcResult(result=result, domain=domain, policy=policy, percent=record.percent, reason=reason)


def _passes(domain: str, record: Record, spf: SpfResult, signatures: Sequence[SignatureResult], wanted: str) -> bool:
    """Whether anything with that result is aligned."""
    if spf.result == wanted and is_aligned(spf.domain, domain, strict=record.strict_spf):
        return True
    return any(
        each.result == wanted and is_aligned(each.domain, domain, strict=record.strict_dkim) for each in signatures
    )


def is_aligned(authenticated: str, author: str, *, strict: bool) -> bool:
    """RFC 7489 section 3.1: the same domain, or (relaxed) the same organisational domain."""
    if authenticated == author:
        return True
    return not strict and bool(authenticated) and organisational(authenticated) == organisational(author)


def read_record(domain: str, texts: Iterable[bytes]) -> Record | None:
    """The policy among TXT records. None: there is none, or more than one (RFC 7489 section 6.6.3)."""
    found = [text for text in (printable(each, 4000) for each in texts) if re.match(r"v\s*=\s*DMARC1\s*(;|\Z)", text)]
    if len(found) != 1:
        return None
    pairs = [tag.partition("=") for tag in found[0].split(";")]
    tags = {name.strip().lower(): value.strip() for name, _, value in pairs}
    policy = _policy(tags.get("p", ""))
    if policy is None:
        # A record that asks for reports, with a policy that cannot be read, is taken for "none".
        if not tags.get("rua"):
            return None
        policy = "none"
    percent = tags.get("pct", "100")
    return Record(
        domain=domain,
        policy=policy,
        subdomains=_policy(tags.get("sp", "")) or policy,
        strict_dkim=tags.get("adkim", "r").lower() == "s",
        strict_spf=tags.get("aspf", "r").lower() == "s",
        percent=min(int(percent), 100) if percent.isascii() and percent.isdigit() and len(percent) < 5 else 100,
    )


def _policy(text: str) -> Policy | None:
    match text.lower():
        case "none" | "quarantine" | "reject" as known:
            return known
        case _:
            return None
