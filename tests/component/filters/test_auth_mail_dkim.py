"""DKIM and ARC of a second implementation, Perl's Mail::DKIM: what it makes passes, and fails once it is changed."""

import base64
from functools import cache

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mailfront.filters.auth.dkim import Signed
from mailfront.filters.headers import Headers
from mailfront.net.dns import Found
from tests.support.mail_dkim import arc_sealed, dkim_signed

SERVICE = "lists.example.test"
PLAIN = (
    b"From: ana@example.test\r\nTo: bob@example.org\r\nSubject: hello  there,\r\n\tfolded\r\n"
    b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n\r\nfirst line \r\n\r\nsecond   line\r\n\r\n\r\n"
)


@cache
def key() -> tuple[bytes, bytes]:
    """A private key in PEM (PKCS #1), and the record with its public half."""
    made = rsa.generate_private_key(65537, 2048)
    public = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return private, b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def read(message: bytes) -> Signed:
    head, _, text = message.partition(b"\r\n\r\n")
    return Signed(Headers(head + b"\r\n"), lambda: [text])


def dkim_results(message: bytes) -> list[str]:
    found = read(message)
    return [each.result for each in found.verify_dkim(dict.fromkeys(found.key_names(), Found((key()[1],))))]


def arc_result(message: bytes) -> tuple[str, str, int]:
    found = read(message)
    result = found.verify_arc(dict.fromkeys(found.key_names(), Found((key()[1],))))
    return result.result, result.sealer, result.sets_count


@pytest.mark.parametrize("canonicalization", ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"])
def test_its_signatures_pass_until_something_is_changed(canonicalization: str) -> None:
    """Each canonicalisation, over folds, runs of blanks and empty lines at the end."""
    signed = dkim_signed(PLAIN, key()[0], domain="example.test", selector="s1", canonicalization=canonicalization)
    assert dkim_results(signed) == ["pass"]
    assert dkim_results(signed.replace(b"first", b"worst")) == ["fail"]
    assert dkim_results(signed.replace(b"hello", b"jello")) == ["fail"]


def perl(message: bytes, domain: str, chain: str) -> bytes:
    """One more set by Mail::DKIM."""
    results = f"Authentication-Results: {SERVICE}; spf=pass smtp.mailfrom=b.test; arc={chain}\r\n".encode()
    sealed = arc_sealed(results + message, key()[0], domain=domain, selector="s1", chain=chain, service=SERVICE)
    return sealed.replace(results, b"", 1)


def python(message: bytes, domain: str, chain: str) -> bytes:
    """One more set by dkimpy."""
    results = f"Authentication-Results: {SERVICE}; spf=pass smtp.mailfrom=b.test; arc={chain}\r\n".encode()
    lines = dkim.arc_sign(results + message, b"s1", domain.encode(), key()[0], SERVICE.encode())
    return b"".join(lines) + message


@pytest.mark.parametrize("second", [perl, python])
@pytest.mark.parametrize("first", [perl, python])
def test_chains_of_both_implementations_pass_until_something_is_changed(first: object, second: object) -> None:
    """Two forwarders, each with either program; then a changed text, set number, result of the first."""
    assert callable(first)
    assert callable(second)
    one = first(PLAIN, "one.test", "none")
    assert arc_result(one) == ("pass", "one.test", 1)
    both = second(one, "two.test", "pass")
    assert arc_result(both) == ("pass", "two.test", 2)
    for old, new in ((b"first line", b"worst line"), (b"i=1;", b"i=3;"), (b"arc=none", b"arc=done")):
        assert old in both
        assert arc_result(both.replace(old, new))[0] == "fail"


def test_a_chain_that_was_sealed_as_broken_does_not_pass() -> None:
    """A forwarder found it broken and said so: cv=fail."""
    assert arc_result(perl(perl(PLAIN, "one.test", "none"), "two.test", "fail"))[0] == "fail"
