"""What the filters say about the reverse-path: who may hear of what became of a message."""

import pytest

from mailfront.filters.auth.dmarc import DmarcResult
from mailfront.filters.auth.filter import sender_proven as word_of
from mailfront.filters.auth.spf import SpfResult
from mailfront.filters.checked import checked
from mailfront.filters.contract import Finding, Stage
from mailfront.filters.failure import FilterFailed
from mailfront.intake.filtering import sender_proven
from mailfront.mail.address import Address
from mailfront.mail.verdict import Verdict

HER = Address("her", "out.example.org")


def spf(result: str, identity: str = "mailfrom") -> SpfResult:
    """SPF's result for her domain, or for the client's HELO."""
    return SpfResult(result=result, identity=identity, domain="out.example.org", sender=str(HER))


@pytest.mark.parametrize(
    ("of_spf", "of_dmarc", "proven"),
    [
        (spf("pass"), DmarcResult(result="none"), True),
        (spf("fail"), DmarcResult(result="pass", domain="example.org"), True),
        (spf("fail"), DmarcResult(result="none"), False),
        (spf("softfail"), DmarcResult(result="fail", domain="out.example.org"), False),
        (spf("softfail"), DmarcResult(result="none"), None),
        (spf("temperror"), DmarcResult(result="temperror", domain="out.example.org"), None),
        (spf("pass", "helo"), DmarcResult(result="none"), None),
        (spf("none"), DmarcResult(result="pass", domain="other.example"), None),
        (spf("none"), DmarcResult(result="fail", domain="other.example"), None),
    ],
)
def test_only_clear_words_of_the_senders_own_domain_count(
    of_spf: SpfResult, of_dmarc: DmarcResult, proven: bool | None
) -> None:
    """SPF about MAIL, DMARC about an author of the same organisation; a pass of either goes before a fail."""
    assert word_of(HER, of_spf, of_dmarc) is proven
    assert word_of(None, of_spf, of_dmarc) is None


@pytest.mark.parametrize(
    ("words", "proven"), [((), None), ((None, True), True), ((True, False), False), ((None, None), None)]
)
def test_a_denial_counts_more_than_a_proof(words: tuple[bool | None, ...], proven: bool | None) -> None:
    """Of several filters; one in shadow says nothing."""
    findings = [Finding(filter="f", stage=Stage.DATA, verdict=Verdict(sender_proven=word)) for word in words]
    assert sender_proven(findings) is proven
    shadow = Finding(filter="s", stage=Stage.DATA, verdict=Verdict(sender_proven=False), shadow=True)
    assert sender_proven([*findings, shadow]) is proven


def test_a_filters_word_is_checked() -> None:
    """What is neither true nor false is an error of the filter."""
    assert checked(Verdict(sender_proven=True)).sender_proven is True
    with pytest.raises(FilterFailed):
        checked(Verdict(sender_proven="yes"))  # type: ignore[arg-type]
