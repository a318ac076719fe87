"""A real clamd with signatures of our own: viruses are found wherever they are, and nothing else is decided by it."""

import base64
import io
import zipfile

import pytest

from mailfront.mail.verdict import Action, AddHeader
from tests.support.clamd import EICAR_NAME, MARKER, MARKER_NAME, Clamd, eicar
from tests.support.filters import finding_of, view

pytestmark = pytest.mark.serial


def with_attachment(name: str, content: bytes) -> bytes:
    """A message with one part in base64."""
    encoded = base64.encodebytes(content).decode().replace("\n", "\r\n")
    return (
        "From: a@example.org\r\nSubject: look\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nsee the attachment\r\n"
        f'--b\r\nContent-Type: application/octet-stream; name="{name}"\r\n'
        f"Content-Transfer-Encoding: base64\r\n\r\n{encoded}\r\n--b--\r\n"
    ).encode()


def zipped(name: str, content: bytes) -> bytes:
    """A zip archive with one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


async def test_eicar_in_a_mime_part_is_refused(clamd: Clamd) -> None:
    """A virus in an encoded part is refused, and the client hears its name."""
    finding = await finding_of(
        view(with_attachment("a.com", eicar())), kind="clamd", settings={"address": clamd.address}
    )
    assert finding.verdict.action is Action.REJECT
    assert finding.verdict.text == f"the message contains a virus ({EICAR_NAME})"


async def test_eicar_in_a_zip_is_refused(clamd: Clamd) -> None:
    """An archive in an encoded part is opened."""
    data = with_attachment("a.zip", zipped("invoice.com", eicar()))
    finding = await finding_of(view(data), kind="clamd", settings={"address": clamd.unix_address})
    assert (finding.error, finding.verdict.action) == ("", Action.REJECT)


async def test_clean_mail_passes_unchanged(clamd: Clamd) -> None:
    """Nothing is found, nothing is edited."""
    finding = await finding_of(
        view(with_attachment("a.txt", b"hello")), kind="clamd", settings={"address": clamd.address}
    )
    assert (finding.error, finding.verdict.action, finding.verdict.edits) == ("", Action.CONTINUE, ())


@pytest.mark.parametrize(("infected", "action"), [("quarantine", Action.QUARANTINE), ("discard", Action.DISCARD)])
async def test_the_site_decides_what_becomes_of_a_virus(clamd: Clamd, infected: str, action: Action) -> None:
    """Instead of a refusal it may be kept or thrown away."""
    data = f"Subject: x\r\n\r\n{MARKER}\r\n".encode()
    finding = await finding_of(view(data), kind="clamd", settings={"address": clamd.address, "infected": infected})
    assert (finding.verdict.action, finding.verdict.reason) == (action, f"virus {MARKER_NAME}")


@pytest.mark.parametrize("too_large", ["accept", "tempfail", "reject", "quarantine"])
async def test_a_message_over_the_size_limit_is_not_sent_to_clamd(clamd: Clamd, too_large: str) -> None:
    """What happens instead is the site's word; a message that passes unscanned says so."""
    data = f"Subject: x\r\n\r\n{MARKER}\r\n{'a' * 60}\r\n".encode() * 100
    settings = {"address": clamd.address, "max_size": "4KiB", "too_large": too_large}
    finding = await finding_of(view(data), kind="clamd", settings=settings)
    wanted = Action.CONTINUE if too_large == "accept" else Action(too_large)
    assert (finding.error, finding.verdict.action) == ("", wanted)
    if too_large == "accept":
        assert finding.verdict.edits == (AddHeader("X-Virus-Status", "not scanned, too large"),)


async def test_a_stream_over_clamds_own_limit_counts_as_too_large() -> None:
    """clamd stops a stream that is longer than its StreamMaxLength: that is no fault of it."""
    small = Clamd(stream_max="64K")
    small.start()
    try:
        data = b"Subject: x\r\n\r\n" + (b"a" * 76 + b"\r\n") * 60_000
        settings = {"address": small.address, "too_large": "quarantine"}
        finding = await finding_of(view(data), kind="clamd", settings=settings)
        assert (finding.error, finding.verdict.action) == ("", Action.QUARANTINE)
    finally:
        small.kill9()


@pytest.mark.parametrize(
    ("on_error", "action"),
    [("accept", Action.CONTINUE), ("tempfail", Action.TEMPFAIL), ("reject", Action.REJECT)],
)
async def test_a_dead_clamd_does_as_on_error_says(on_error: str, action: Action) -> None:
    """Nobody listens: the one written policy applies, and the finding says why."""
    finding = await finding_of(
        view(b"Subject: x\r\n\r\nhello\r\n"),
        kind="clamd",
        on_error=on_error,
        settings={"address": "127.0.0.1:1"},
    )
    assert finding.verdict.action is action
    assert "127.0.0.1:1" in finding.error


async def test_a_dead_clamd_is_stood_in_for_by_another(clamd: Clamd) -> None:
    """Of two hosts one does not listen: the other answers."""
    data = f"Subject: x\r\n\r\n{MARKER}\r\n".encode()
    for _ in range(2):
        finding = await finding_of(view(data), kind="clamd", settings={"address": ["127.0.0.1:1", clamd.address]})
        assert (finding.error, finding.verdict.action) == ("", Action.REJECT)
