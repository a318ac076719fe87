"""A real SpamAssassin: its score becomes header fields, quarantine or a refusal."""

import pytest

from mailfront.mail.verdict import Action, AddHeader, DeleteHeader
from tests.support.filters import finding_of, view
from tests.support.rspamd import GTUBE
from tests.support.spamd import Spamd

pytestmark = pytest.mark.serial


def message(text: str, header: str = "") -> bytes:
    return (
        "From: Ann Example <ann@example.org>\r\nTo: user@example.edu\r\nSubject: lunch\r\n"
        "Date: Mon, 05 Oct 2026 10:00:00 +0000\r\nMessage-Id: <1@example.org>\r\n"
        f"{header}\r\n{text}\r\n"
    ).encode()


async def test_gtube_is_refused(spamd: Spamd) -> None:
    """A score beyond `reject_above` is a 5xx."""
    finding = await finding_of(view(message(GTUBE)), kind="spamd", settings={"address": spamd.address})
    assert (finding.error, finding.verdict.action, finding.verdict.code) == ("", Action.REJECT, 550)
    assert finding.verdict.score is not None
    assert finding.verdict.score > 900
    assert "GTUBE" in finding.verdict.reason


async def test_a_middling_score_becomes_header_fields(spamd: Spamd) -> None:
    """Over SpamAssassin's own threshold and under ours: delivered with the fields that it would write itself."""
    data = message("mark-of-six-points", header="X-Spam-Flag: NO\r\n")
    finding = await finding_of(view(data), kind="spamd", settings={"address": spamd.address})
    edits = finding.verdict.edits
    assert finding.verdict.action is Action.CONTINUE
    assert edits[:2] == (DeleteHeader("x-spam-flag"), AddHeader("X-Spam-Flag", "YES"))
    status = next(edit.value for edit in edits if isinstance(edit, AddHeader) and edit.name == "X-Spam-Status")
    assert status.startswith("Yes, score=")
    assert "MARKED_SIX" in status


async def test_a_middling_score_may_be_quarantined(spamd: Spamd) -> None:
    """`quarantine_above` keeps what is not refused."""
    settings = {"address": spamd.address, "quarantine_above": 6.0}
    finding = await finding_of(view(message("mark-of-six-points")), kind="spamd", settings=settings)
    assert finding.verdict.action is Action.QUARANTINE


async def test_a_large_message_is_not_sent_to_it(spamd: Spamd) -> None:
    """Over `max_size` it passes, and the log says that it was not scanned."""
    settings = {"address": spamd.address, "max_size": "200B"}
    finding = await finding_of(view(message(GTUBE)), kind="spamd", settings=settings)
    assert (finding.verdict.action, finding.verdict.reason) == (Action.CONTINUE, "too large for spamd, not scanned")


async def test_a_dead_spamd_does_as_on_error_says() -> None:
    """Nobody listens."""
    finding = await finding_of(
        view(message("hello")), kind="spamd", on_error="accept", settings={"address": "127.0.0.1:1"}
    )
    assert finding.verdict.action is Action.CONTINUE
    assert finding.error
