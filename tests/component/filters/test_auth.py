"""Kind `auth` as a whole: what is written into `Authentication-Results`, what is removed, and what DMARC decides."""

import base64
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mailfront.filters.auth.dmarc import author_domains, is_aligned, organisational, read_record
from mailfront.filters.auth.filter import AuthFilter
from mailfront.filters.auth.settings import AuthSettings
from mailfront.filters.checked import checked
from mailfront.filters.contract import Message
from mailfront.filters.headers import Headers
from mailfront.mail.verdict import Action, DeleteHeader, InsertHeader, Verdict
from tests.support.dns_server import FAILS, SILENT, DnsServer
from tests.support.filter_kinds import context, message

TEXT = b"From: Ana <ana@example.org>\r\nSubject: hello\r\n\r\nbody\r\n"


@cache
def key() -> tuple[bytes, str]:
    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return pem, "v=DKIM1; k=rsa; p=" + base64.b64encode(public).decode()


def records() -> dict[str, Any]:
    return {
        "example.org": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
        "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject; sp=quarantine"]},
        "s1._domainkey.example.org": {"TXT": [key()[1]]},
        "s1._domainkey.forwarder.test": {"TXT": [key()[1]]},
        "mild.test": {"TXT": ["v=spf1 -all"]},
        "_dmarc.mild.test": {"TXT": ["v=DMARC1; p=none"]},
        "_dmarc.sampled.test": {"TXT": ["v=DMARC1; p=reject; pct=0"]},
        "_dmarc.strict.test": {"TXT": ["v=DMARC1; p=reject; adkim=s; aspf=s"]},
        "mail.strict.test": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
        "_dmarc.fails.test": FAILS,
        "fails.test": FAILS,
        "_dmarc.spf-fails.test": {"TXT": ["v=DMARC1; p=reject"]},
        "spf-fails.test": FAILS,
        "silent.test": SILENT,
        "_dmarc.silent.test": SILENT,
    }


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    with DnsServer(records()) as running:
        yield running


@pytest.fixture
async def auth(server: DnsServer) -> AsyncIterator[AuthFilter]:
    filter_ = AuthFilter(AuthSettings(name_servers=(server.address,), dmarc="enforce"), context())
    await filter_.start()
    yield filter_
    await filter_.close()


async def ask(filter_: AuthFilter, mail: Message) -> Verdict:
    """The verdict, as the chain would check it."""
    return checked(await filter_.data(mail))


def results(verdict: Verdict) -> str:
    """The value of our field, unfolded."""
    found = [edit for edit in verdict.edits if isinstance(edit, InsertHeader)]
    assert [(edit.position, edit.name) for edit in found] == [(0, "Authentication-Results")]
    return found[0].value.replace("\r\n\t", " ")


def signed(text: bytes = TEXT, domain: bytes = b"example.org") -> bytes:
    signature = dkim.sign(text, b"s1", domain, key()[0])
    assert isinstance(signature, bytes)
    return signature + text


async def test_all_results_are_written(auth: AuthFilter) -> None:
    """SPF, DKIM and DMARC with the properties of RFC 8601, behind our own name."""
    verdict = await ask(auth, message(signed(), sender="ana@example.org"))
    assert verdict.action is Action.CONTINUE
    text = results(verdict)
    assert text.startswith("mx.example.test; spf=pass ")
    assert "smtp.mailfrom=ana@example.org; dkim=pass header.d=example.org header.s=s1 header.a=rsa-sha256" in text
    assert text.endswith("; dmarc=pass header.from=example.org policy.dmarc=reject")


@pytest.mark.parametrize(
    ("domain", "proven"), [("example.org", True), ("mild.test", False), ("silent.test", None), ("unlisted.test", None)]
)
async def test_the_senders_domain_vouches_denies_or_says_nothing(
    auth: AuthFilter, domain: str, proven: bool | None
) -> None:
    """It decides who hears what became of the message; one that is denied may still pass, where DMARC asks nothing."""
    verdict = await ask(auth, message(TEXT.replace(b"example.org", domain.encode()), sender=f"ana@{domain}"))
    assert (verdict.action, verdict.sender_proven) == (Action.CONTINUE, proven)


@pytest.mark.parametrize(
    "field",
    [
        "mx.example.test; spf=pass",
        "MX.Example.TEST;spf=pass",
        "mx.example.test 1; spf=pass",
        "mx.example.test/1; spf=pass",
        '"mx.example.test"; spf=pass',
        "(comment (nested \\) )) mx.example.test (other); spf=pass",
        "\r\n mx.example.test\r\n\t; spf=pass",
        "mx.example.test.; spf=pass",
        "mx.example.test",
        '"mx.exam\\ple.test"; spf=pass',
        "",
        "; spf=pass",
    ],
)
async def test_forged_results_are_removed(auth: AuthFilter, field: str) -> None:
    """A field with our name goes, in whatever spelling; those of others stay."""
    text = f"Authentication-Results: other.test; spf=pass\r\nauthentication-results : {field}\r\n".encode() + TEXT
    verdict = await ask(auth, message(text, sender="ana@example.org"))
    assert [edit for edit in verdict.edits if isinstance(edit, DeleteHeader)] == [
        DeleteHeader("Authentication-Results", 2)
    ]


async def test_a_thousand_forged_results_are_removed_at_once(auth: AuthFilter) -> None:
    """So many that each for itself would be too many edits."""
    text = b"Authentication-Results: mx.example.test; spf=pass\r\n" * 1000 + TEXT
    verdict = await ask(auth, message(text, sender="ana@example.org"))
    assert DeleteHeader("Authentication-Results") in verdict.edits


async def test_what_a_client_says_cannot_pose_as_a_result(auth: AuthFilter) -> None:
    """Quotes, semicolons and letters outside of ASCII in a sender stay inside a quoted string."""
    verdict = await ask(auth, message(TEXT, sender='"a; dmarc=pass \\"x"@example.org'))
    assert 'smtp.mailfrom="\\"a; dmarc=pass \\\\\\"x\\"@example.org"' in results(verdict)
    verdict = await ask(
        auth, message(TEXT.replace(b"@example.org", b"@mild.test"), sender="", helo='x"; dkim=pass\x00ü.example.org')
    )
    assert results(verdict).isascii()
    assert "dkim=none" in results(verdict)


@pytest.mark.parametrize("filler", ["x", '"', ";"])
async def test_no_length_of_what_a_client_says_makes_the_field_too_long(auth: AuthFilter, filler: str) -> None:
    """A result that could not be written would be the filter's failure, and `on_error` the sender's choice."""
    tags = "; ".join(f"{name}={filler * 3000}" for name in "ads")
    text = TEXT.replace(b"@example.org", b"@mild.test")
    signature = f"DKIM-Signature: v=1; {tags}; b=abc; bh=abc; h=from\r\n".encode()
    sender = "a" * 60 + "@" + "b" * 60 + ".test"
    verdict = await ask(auth, message(signature * 10 + text, sender=sender, helo="h" * 900))
    assert results(verdict).count("dkim=") == 10


async def test_dmarc_reject_refuses(auth: AuthFilter) -> None:
    """Nothing passes that belongs to From: the owner wants it refused."""
    verdict = await ask(auth, message(TEXT, ip="192.0.2.66", sender="ana@example.org"))
    assert (verdict.action, verdict.code, verdict.enhanced) == (Action.REJECT, 550, "5.7.26")
    assert verdict.text == "not accepted by the DMARC policy of example.org"


async def test_either_of_spf_and_dkim_is_enough(auth: AuthFilter) -> None:
    """A forwarded message passes by its signature, an unsigned one by its sender's address."""
    forwarded = message(signed(), ip="192.0.2.66", sender="list@elsewhere.test")
    assert (await ask(auth, forwarded)).action is Action.CONTINUE
    assert (await ask(auth, message(TEXT, sender="ana@example.org"))).action is Action.CONTINUE


async def test_what_is_not_aligned_does_not_count(auth: AuthFilter) -> None:
    """A signature of another domain, and the SPF of another sender, say nothing about From."""
    other = message(signed(domain=b"forwarder.test"), ip="192.0.2.66", sender="x@forwarder.test")
    verdict = await ask(auth, other)
    assert verdict.action is Action.REJECT


async def test_subdomains_have_their_own_policy(auth: AuthFilter) -> None:
    """sp= of the organisational domain: quarantine, with the results written."""
    text = TEXT.replace(b"@example.org", b"@news.example.org")
    verdict = await ask(auth, message(text, ip="192.0.2.66", sender="x@elsewhere.test"))
    assert verdict.action is Action.QUARANTINE
    assert "dmarc=fail" in results(verdict)


async def test_strict_alignment_wants_the_same_domain(auth: AuthFilter) -> None:
    """aspf=s: a subdomain's SPF pass is not enough."""
    text = TEXT.replace(b"@example.org", b"@strict.test")
    assert (await ask(auth, message(text, sender="x@mail.strict.test"))).action is Action.REJECT


async def test_mild_and_sampled_policies_refuse_nothing(auth: AuthFilter) -> None:
    """p=none lets pass; pct=0 of reject is quarantine."""
    mild = await ask(auth, message(TEXT.replace(b"@example.org", b"@mild.test"), sender="x@mild.test"))
    assert mild.action is Action.CONTINUE
    assert "spf=fail" in results(mild)
    assert "dmarc=fail" in results(mild)
    sampled = await ask(auth, message(TEXT.replace(b"@example.org", b"@sampled.test"), sender="x@elsewhere.test"))
    assert sampled.action is Action.QUARANTINE


async def test_dns_trouble_refuses_nothing(auth: AuthFilter) -> None:
    """temperror of the policy, or of what might have passed, is not a fail."""
    policy = await ask(auth, message(TEXT.replace(b"@example.org", b"@fails.test"), sender="x@fails.test"))
    assert policy.action is Action.CONTINUE
    assert "spf=temperror" in results(policy)
    assert "dmarc=temperror" in results(policy)
    sender = await ask(auth, message(TEXT.replace(b"@example.org", b"@spf-fails.test"), sender="x@spf-fails.test"))
    assert sender.action is Action.CONTINUE
    assert "dmarc=temperror" in results(sender)


async def test_a_silent_name_server_costs_the_budget_and_no_mail(server: DnsServer) -> None:
    """All look-ups share `dns_timeout`; what is not known then is temperror."""
    document = {"name_servers": [server.address], "dmarc": "enforce", "dns_timeout": "300ms"}
    filter_ = AuthFilter(AuthSettings.model_validate(document), context())
    await filter_.start()
    text = TEXT.replace(b"@example.org", b"@silent.test")
    verdict = await ask(filter_, message(text, sender="x@silent.test"))
    assert verdict.action is Action.CONTINUE
    assert "spf=temperror" in results(verdict)
    assert "dmarc=temperror" in results(verdict)
    await filter_.close()


async def test_two_from_fields_are_refused_where_dmarc_is_enforced(auth: AuthFilter) -> None:
    """Nobody knows which of them a mail program shows."""
    verdict = await ask(auth, message(b"From: eve@elsewhere.test\r\n" + TEXT, sender="ana@example.org"))
    assert (verdict.action, verdict.enhanced) == (Action.REJECT, "5.6.0")


async def test_report_refuses_nothing(server: DnsServer) -> None:
    """The default writes the result and lets the message pass."""
    filter_ = AuthFilter(AuthSettings(name_servers=(server.address,)), context())
    await filter_.start()
    verdict = await ask(filter_, message(TEXT, ip="192.0.2.66", sender="ana@example.org"))
    assert verdict.action is Action.CONTINUE
    assert "dmarc=fail" in results(verdict)
    await filter_.close()


async def test_an_intact_chain_of_a_trusted_sealer_is_believed(server: DnsServer) -> None:
    """A list that breaks the signature but seals what it saw: refused, unless its domain is trusted."""
    seen = b"Authentication-Results: lists.forwarder.test; dkim=pass header.d=example.org; dmarc=pass; arc=none\r\n"
    lines = dkim.arc_sign(seen + TEXT, b"s1", b"forwarder.test", key()[0], b"lists.forwarder.test")
    mail = message(b"".join(lines) + TEXT, ip="192.0.2.66", sender="list@forwarder.test")
    for trusted, action in (((), Action.REJECT), (("forwarder.test",), Action.CONTINUE)):
        settings = AuthSettings(name_servers=(server.address,), dmarc="enforce", trusted_sealers=trusted)
        filter_ = AuthFilter(settings, context())
        await filter_.start()
        verdict = await ask(filter_, mail)
        assert verdict.action is action
        await filter_.close()
    assert "arc=pass header.d=forwarder.test" in results(verdict)


def test_organisational_domains_come_from_the_public_suffix_list() -> None:
    """One label below a public suffix; a suffix is its own."""
    assert organisational("a.b.example.org") == "example.org"
    assert organisational("www.ula.ac.uk") == "ula.ac.uk"
    assert organisational("ac.uk") == "ac.uk"
    assert is_aligned("news.example.org", "example.org", strict=False)
    assert not is_aligned("news.example.org", "example.org", strict=True)
    assert not is_aligned("other.ac.uk", "ula.ac.uk", strict=False)
    assert not is_aligned("", "example.org", strict=False)


@pytest.mark.parametrize(
    ("value", "domains"),
    [
        ("ana@example.org", ("example.org",)),
        ('"x@evil.test" <ana@Example.ORG>', ("example.org",)),
        ("a@one.test, b@two.test, c@one.test", ("one.test", "two.test")),
        ("ana@bücher.test", ("xn--bcher-kva.test",)),
        ("undisclosed", None),
        ("", None),
        ("(" * 9000 + "x@example.org", None),
        ("ana@[192.0.2.1]", ()),
        ("root@localhost", ()),
        ("root@localhost, ana@example.org", ("example.org",)),
        ("ana@-x.test", None),
        (", ".join(f"a@d{number}.test" for number in range(9)), None),
    ],
)
def test_authors_are_read_from_one_from_field(value: str, domains: tuple[str, ...] | None) -> None:
    """The domains that people see; None where there is no saying."""
    assert author_domains(Headers(f"From: {value}\r\n".encode())) == domains


def test_records_are_read_leniently_and_only_one_counts() -> None:
    """Unknown tags are passed over, numbers bounded, nonsense is none, two records are none."""
    record = read_record("d.test", [b"v=spf1", b"v=DMARC1 ; P=Reject;pct=250; x=y; adkim=s"])
    assert record is not None
    assert (record.policy, record.percent, record.strict_dkim, record.subdomains) == ("reject", 100, True, "reject")
    assert read_record("d.test", [b"v=DMARC1; p=odd"]) is None
    mild = read_record("d.test", [b"v=DMARC1; p=odd; rua=mailto:x@d.test"])
    assert mild is not None
    assert mild.policy == "none"
    assert read_record("d.test", [b"v=DMARC1; p=none", b"v=DMARC1; p=reject"]) is None
    assert read_record("d.test", [b"v=DMARC2; p=none", b"\xff\xfe"]) is None
    assert read_record("d.test", [b"v=DMARC1;" + b" " * 60_000 + b"p=none"]) is None
