"""DKIM and ARC signatures: those of the RFCs and of others pass, and what must not pass does not."""

import base64
from collections.abc import Callable
from functools import cache

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mailfront.filters.auth.dkim import MOST_SIGNATURES, ArcResult, SignatureResult, Signed
from mailfront.filters.headers import Headers
from mailfront.net.dns import ABSENT, DnsAnswer, Found, Trouble
from tests.support.dkim_vectors import RFC8463_ED25519, dkimpy_file

PLAIN = (
    b"From: ana@example.test\r\nTo: bob@example.org\r\nSubject: hello  there\r\n"
    b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n\r\nfirst line \r\n\r\nsecond   line\r\n\r\n\r\n"
)
NAME = "s1._domainkey.example.test"


@cache
def rsa_key(bits: int = 2048) -> tuple[bytes, bytes]:
    """A private key in PEM (PKCS #1), and the record with its public half."""
    key = rsa.generate_private_key(65537, bits)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return private, b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def crlf(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def signed(message: bytes, piece_bytes: int = 1000) -> Signed:
    head, _, text = message.partition(b"\r\n\r\n")
    pieces = [text[at : at + piece_bytes] for at in range(0, len(text), piece_bytes)]
    return Signed(Headers(head + b"\r\n"), lambda: pieces)


def verify(message: bytes, keys: dict[str, DnsAnswer] | None = None) -> list[SignatureResult]:
    known = {NAME: Found((rsa_key()[1],))} if keys is None else keys
    found = signed(message)
    return found.verify_dkim({name: known.get(name, ABSENT) for name in found.key_names()})


def sign(message: bytes = PLAIN, *, key: bytes | None = None, **options: object) -> bytes:
    """dkimpy's signature in front of the message."""
    signature = dkim.sign(message, b"s1", b"example.test", key or rsa_key()[0], **options)
    assert isinstance(signature, bytes)
    return signature + message


def only(results: list[SignatureResult]) -> tuple[str, str]:
    assert len(results) == 1
    return results[0].result, results[0].reason


def test_the_example_of_the_rfcs_passes() -> None:
    """RFC 8463's message, signed with Ed25519 by the key of the RFC, and with RSA."""
    results = verify(
        crlf(dkimpy_file("rfc6376.signed.msg")),
        {
            "brisbane._domainkey.football.example.com": Found((RFC8463_ED25519.encode(),)),
            "test._domainkey.football.example.com": Found((dkimpy_file("test.txt"),)),
        },
    )
    assert [(each.result, each.algorithm) for each in results] == [("pass", "ed25519-sha256"), ("pass", "rsa-sha256")]
    assert (results[0].domain, results[0].selector, results[0].start) == (
        "football.example.com",
        "brisbane",
        "9/dsDChY",
    )


def test_exims_signature_passes() -> None:
    """A message that Exim signed with Ed25519."""
    keys: dict[str, DnsAnswer] = {"sed._domainkey.test.ex": Found((dkimpy_file("eximtest.dns"),))}
    assert only(verify(crlf(dkimpy_file("ed25519test2.msg")), keys))[0] == "pass"


def test_a_signature_of_other_fields_fails() -> None:
    """dkimpy's vector whose tags were changed after signing: the body is right, the signature is not."""
    keys: dict[str, DnsAnswer] = {"test._domainkey.football.example.com": Found((dkimpy_file("test.txt"),))}
    assert only(verify(crlf(dkimpy_file("rfc6376.signed.no_t.msg")), keys))[0] == "fail"


@pytest.mark.parametrize("file", ["2048_testkey_wo_markers.pub.txt", "2048_testkey_wo_markers.pub.rsa.txt"])
def test_keys_pass_in_both_envelopes(file: str) -> None:
    """SubjectPublicKeyInfo, and the bare RSAPublicKey that RFC 6376 has."""
    message = sign(key=dkimpy_file("2048_testkey.key"))
    record = dkimpy_file(file).strip()
    assert only(verify(message, {NAME: Found((record,))}))[0] == "pass"


@pytest.mark.parametrize("header", [b"simple", b"relaxed"])
@pytest.mark.parametrize("body", [b"simple", b"relaxed"])
@pytest.mark.parametrize("text", [b"", b"\r\n", b" \r\n", b"a\r\n", b"a", b"a \t b \r\n \r\n", b"\r\n\r\na\r\n\r\n"])
def test_what_dkimpy_signs_passes_and_a_change_fails(header: bytes, body: bytes, text: bytes) -> None:
    """All canonicalisations, with bodies at their edges; one byte more and it fails."""
    message = sign(PLAIN.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + text, canonicalize=(header, body))
    assert only(verify(message)) == ("pass", "")
    assert only(verify(message + b"x\r\n"))[0] == "fail"
    assert only(verify(message.replace(b"Subject: hello", b"Subject: hullo")))[0] == "fail"


def test_a_length_does_not_pass() -> None:
    """l= leaves room behind the signed text: policy, whether somebody used it or not."""
    message = sign(length=True)
    assert dkim.verify(message + b"evil", dnsfunc=lambda *_, **__: rsa_key()[1])
    assert only(verify(message))[0] == "policy"
    assert only(verify(message + b"evil"))[0] == "policy"


def test_sha1_does_not_pass() -> None:
    """RFC 8301: rsa-sha1 must not be believed, though the library does."""
    message = sign(signature_algorithm=b"rsa-sha1")
    assert dkim.verify(message, dnsfunc=lambda *_, **__: rsa_key()[1])
    assert only(verify(message))[0] == "policy"


def test_too_many_signatures_do_not_pass() -> None:
    """Ten are looked at; of eleven none is, and no key is looked up."""
    signature = sign().partition(b"From:")[0]
    assert [each.result for each in verify(signature * MOST_SIGNATURES + PLAIN)] == ["pass"] * MOST_SIGNATURES
    crowd = signature * (MOST_SIGNATURES + 1) + PLAIN
    assert only(verify(crowd))[0] == "permerror"
    assert signed(crowd).key_names() == []


@pytest.mark.parametrize(
    "broken",
    [
        lambda message: message.replace(b"\r\nTo:", b"\r\nFrom mallory Tue Nov 14\r\nTo:"),
        lambda message: b" folded first line\r\n" + message,
        lambda message: message.replace(b"\r\nTo:", b"\r\nno colon here\r\nTo:"),
        lambda message: message.replace(b"\r\nTo:", b"\r\n: no name\r\nTo:"),
    ],
    ids=["from-line", "folded-first-line", "no-colon", "no-name"],
)
def test_a_header_that_is_none_does_not_pass(broken: Callable[[bytes], bytes]) -> None:
    """What parsers disagree about is not believed: nothing passes, and nothing crashes."""
    assert only(verify(broken(sign())))[0] == "permerror"


def test_a_second_from_does_not_pass() -> None:
    """A From that was added to a signed message, above or below."""
    message = sign(include_headers=[b"from", b"subject"])
    assert only(verify(message.replace(b"\r\nTo:", b"\r\nFrom: eve@example.org\r\nTo:")))[0] == "fail"
    assert only(verify(b"From: eve@example.org\r\n" + message))[0] == "fail"


def test_from_must_be_signed() -> None:
    """A signature that leaves From out is none."""
    message = sign().replace(b"from :", b"x-other :").replace(b": from", b": x-other")
    assert only(verify(message))[0] == "permerror"


def test_dns_trouble_is_told_from_a_missing_key() -> None:
    """temperror if nobody could say, permerror if there is certainly no key."""
    assert only(verify(sign(), {NAME: Trouble("timed out")})) == ("temperror", "timed out")
    assert only(verify(sign(), {NAME: ABSENT}))[0] == "permerror"


@pytest.mark.parametrize(
    ("record", "result"),
    [
        (b"v=DKIM1; p=", "permerror"),
        (b"v=DKIM2; p=AAAA", "permerror"),
        (b"v=DKIM1; k=dsa; p=AAAA", "permerror"),
        (b"v=DKIM1; p=AAAA", "permerror"),
        (b"v=DKIM1; k=ed25519; p=AAAA", "permerror"),
        (b"v=DKIM1; p=!!", "permerror"),
        (b"v=DKIM1; h=sha1; p=AAAA", "permerror"),
        (b"v=DKIM1; s=tlsrpt; p=AAAA", "permerror"),
        (b"p=a; p=b", "permerror"),
        (b"p", "permerror"),
        (b"\xff\xfe p=\xff", "permerror"),
        (RFC8463_ED25519.encode(), "permerror"),
    ],
)
def test_keys_that_cannot_be_used_do_not_pass(record: bytes, result: str) -> None:
    """Revoked, of another version or kind, for other services, unreadable, or of another kind than the signature."""
    assert only(verify(sign(), {NAME: Found((record,))}))[0] == result


def test_small_keys_do_not_pass() -> None:
    """RFC 8301: less than 1,024 bits is not believed."""
    record = (
        b"k=rsa; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANmBe10IgY+u7h3enWTukkqtUD5PR52Tb/mPfjC0QJTocVBq6Za/PlzfV+Py92VaCa"
        b"k19F4WrbVTK5Gg5tW220MCAwEAAQ=="
    )
    assert only(verify(sign(), {NAME: Found((record,))})) == ("policy", "an RSA key of 512 bits")


def test_a_strict_key_forbids_identities_below_its_domain() -> None:
    """t=s in the key: i= has exactly the domain of d=."""
    message = sign(identity=b"ana@mail.example.test")
    strict = rsa_key()[1].replace(b"k=rsa;", b"k=rsa; t=s;")
    assert only(verify(message))[0] == "pass"
    assert only(verify(message, {NAME: Found((strict,))}))[0] == "permerror"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"v=1",
        b"v=1; a=rsa-sha256; d=example.test; s=s1; h=from; bh=AAAA; b=AAAA; b=BBBB",
        b"v=1; a=rsa-sha256; d=..; s=s1; h=from; bh=AAAA; b=AAAA",
        b"v=1; a=rsa-sha256; d=example.test; s=" + b"s." * 200 + b"; h=from; bh=AAAA; b=AAAA",
        b"v=1; a=rsa-sha256; d=\xc3\xbc.test; s=s1; h=from; bh=AAAA; b=AAAA",
        b"v=1; a=none; d=example.test; s=s1; h=from; bh=AAAA; b=AAAA",
        b"v=1; a=rsa-sha256; c=odd/odd; d=example.test; s=s1; h=from; bh=AAAA; b=AAAA",
        b"v=1; a=rsa-sha256; d=example.test; s=s1; h=" + b"from:" * 400 + b"; bh=AAAA; b=AAAA",
        b"v=1; a=rsa-sha256; d=example.test; s=s1; h=from; bh=AAAA; b=" + b"A" * 20000,
        b"v=1; a=rsa-sha256; d=example.test; s=s1; h=from; bh=A; b=A" + b"\r\n " * 4000 + b"!",
        b"v=1; a=rsa-sha256; d=example.test; s=s1; h=from; x=1; bh=AAAA; b=AAAA",
        b"=;=;=",
    ],
)
def test_signatures_that_are_none_do_not_pass_or_crash(value: bytes) -> None:
    """Whatever stands in the field, there is a result, and it is not pass."""
    assert only(verify(b"DKIM-Signature: " + value + b"\r\n" + PLAIN))[0] in ("permerror", "fail", "policy")


def test_a_body_of_blanks_costs_little() -> None:
    """Runs of blanks, which make naive expressions quadratic, are hashed in one pass."""
    text = b" " * 3_000_000 + b"x\r\n" + b"\r\n" * 1_000_000
    message = sign(PLAIN.partition(b"\r\n\r\n")[0] + b"\r\n\r\nx\r\n", canonicalize=(b"relaxed", b"relaxed"))
    head = message.partition(b"\r\n\r\n")[0]
    assert only(verify(head + b"\r\n\r\n" + text))[0] == "fail"


def sealed(message: bytes, *, result: str = "arc=none") -> bytes:
    """dkimpy's ARC set in front of the message, over results with the name lists.example.test."""
    results = f"Authentication-Results: lists.example.test; spf=pass smtp.mailfrom=a@b.test; {result}\r\n".encode()
    lines = dkim.arc_sign(results + message, b"s1", b"example.test", rsa_key()[0], b"lists.example.test")
    return b"".join(lines) + message


def verify_arc(message: bytes, keys: dict[str, DnsAnswer] | None = None) -> ArcResult:
    known = {NAME: Found((rsa_key()[1],))} if keys is None else keys
    found = signed(message)
    return found.verify_arc({name: known.get(name, ABSENT) for name in found.key_names()})


def test_an_arc_chain_passes_and_a_change_breaks_it() -> None:
    """One set and two sets pass with the newest sealer; a change of body or seal fails; no set is none."""
    first = sealed(PLAIN)
    assert verify_arc(PLAIN) == ArcResult(result="none")
    assert verify_arc(first) == ArcResult(result="pass", sealer="example.test", sets_count=1)
    second = sealed(first, result="arc=pass")
    assert verify_arc(second) == ArcResult(result="pass", sealer="example.test", sets_count=2)
    assert verify_arc(first + b"x\r\n").result == "fail"
    assert verify_arc(second.replace(b"cv=pass", b"cv=none")).result == "fail"
    assert verify_arc(first.replace(b"ARC-Seal", b"X-Seal")).result == "fail"


def test_dkimpys_arc_vector_passes() -> None:
    """The set that dkimpy's own tests expect, with its key."""
    keys: dict[str, DnsAnswer] = {"test._domainkey.example.com": Found((dkimpy_file("test.txt"),))}
    message = crlf(dkimpy_file("test.message"))
    lines = dkim.arc_sign(
        message, b"test", b"example.com", dkimpy_file("test.private"), b"lists.example.org", timestamp="12345"
    )
    assert b"b=iSKjTQ93xUC6gt4yutHrOf0F/qb4E5voEeuucd66VhM4n/7ifBMMHqYwncgz9sefduM6C" in lines[0]
    assert verify_arc(b"".join(lines) + message, keys).result == "pass"


def test_dns_trouble_of_a_seal_is_temperror() -> None:
    """A chain whose keys could not be looked up is not broken."""
    assert verify_arc(sealed(PLAIN), {NAME: Trouble("timed out")}).result == "temperror"
    assert verify_arc(sealed(PLAIN), {NAME: ABSENT}).result == "fail"


@pytest.mark.parametrize(
    "fields",
    [
        b"ARC-Seal: i=1\r\n",
        b"ARC-Seal: i=99999999999; cv=none\r\nARC-Message-Signature: x\r\nARC-Authentication-Results: i=1\r\n",
        b"ARC-Seal: \xff\r\nARC-Message-Signature: i=1; \xff\r\nARC-Authentication-Results: i=1; x\r\n",
        b"ARC-Seal: i=1; cv=none; a=rsa-sha256; d=example.test; s=s1; b=AAAA\r\n" * 60,
        b"ARC-Seal: i=" + b"1" * 6000 + b"\r\n",
    ],
)
def test_chains_that_are_none_fail_and_do_not_crash(fields: bytes) -> None:
    """Whatever stands in the fields, the chain fails."""
    assert verify_arc(fields + PLAIN).result == "fail"
