"""Kind `mime`: what is forbidden is found wherever it hides, and no message costs more than its size."""

import base64
import email
import io
import zipfile
from collections.abc import AsyncIterator, Iterable
from email.message import EmailMessage
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.filters.contract import Message
from mailfront.filters.mime.filter import MimeFilter
from mailfront.filters.mime.scan import Limits, Patterns, TooMuch, scan
from mailfront.filters.mime.settings import MimeSettings
from mailfront.mail.body import MemoryBody
from mailfront.mail.verdict import Action
from tests.support.filter_kinds import context, message

LIMITS = Limits(parts=1000, depth=30, fields=500, header_bytes=128 * 1024, archive_bytes=1 << 20, archives=True)
PATTERNS = Patterns(("*.exe", "*.js", "secret?.txt"), ("application/x-msdownload",))


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def attached(name: str, data: bytes, subtype: str = "octet-stream") -> bytes:
    mail = EmailMessage()
    mail["From"], mail["Subject"] = "ana@example.org", "an attachment"
    mail.set_content("see below\n")
    mail.add_attachment(data, maintype="application", subtype=subtype, filename=name)
    return mail.as_bytes().replace(b"\n", b"\r\n")


def part(header: str, text: str = "x") -> bytes:
    return (
        "From: ana@example.org\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\n"
        f"{header}\r\n\r\n{text}\r\n--b--\r\n"
    ).encode()


def found(data: bytes) -> str:
    return scan(data, PATTERNS, LIMITS)


@pytest.mark.parametrize(
    "header",
    [
        'Content-Disposition: attachment; filename="evil.exe"',
        "Content-Disposition: attachment; filename=evil.exe",
        'Content-Disposition: attachment; filename="EVIL.EXE"',
        'Content-Disposition: attachment; filename="evil.exe. "',
        'Content-Disposition: attachment; filename="evil.exe',
        'Content-Disposition: attachment;\r\n filename="evil.exe"',
        "Content-Disposition: attachment; filename*=utf-8''evil%2Eexe",
        "Content-Disposition: attachment; filename*0=ev; filename*1=il.exe",
        "Content-Disposition: attachment; filename*0*=utf-8''ev; filename*1*=il.exe",
        'Content-Disposition: attachment; filename="=?utf-8?B?ZXZpbC5leGU=?="',
        'Content-Disposition: attachment; filename="=?utf-8?Q?evil=2Eexe?="',
        'Content-Disposition: attachment; filename="fine.txt"; filename="evil.exe"',
        'Content-Disposition: attachment; filename="C:\\\\temp\\\\evil.exe"',
        'Content-Type: application/octet-stream; name="evil.exe"',
        'Content-Type: application/octet-stream; name="fine.txt"\r\nContent-Disposition: inline; filename="evil.exe"',
        "content-type : x/y; NAME = evil.exe",
        "Content-Type: application/x-msdownload",
        "Content-Type: APPLICATION/X-MSDOWNLOAD; charset=x",
        'Content-Disposition: attachment; filename="secret1.txt"',
    ],
)
def test_forbidden_names_and_types_are_found(header: str) -> None:
    """In every place and spelling that a mail program might read."""
    assert found(part(header))


@pytest.mark.parametrize(
    "header",
    [
        'Content-Disposition: attachment; filename="fine.txt"',
        'Content-Disposition: attachment; filename="evil.exe.txt"',
        "Content-Type: text/plain",
        "X-Name: evil.exe",
        "Content-Type: application/pdf; name=fine.pdf",
    ],
)
def test_what_is_not_forbidden_passes(header: str) -> None:
    """Other names, and the same words elsewhere."""
    assert found(part(header)) == ""


def test_names_inside_archives_are_found() -> None:
    """In a zip file, in a zip file inside it, under another name and type, in quoted-printable and torn base64."""
    evil = zipped(("readme.txt", b"x"), ("folder/evil.exe", b"MZ"))
    assert "evil.exe" in found(attached("docs.zip", evil))
    assert "evil.exe" in found(attached("docs.zip", zipped(("inner.zip", evil))))
    assert "evil.exe" in found(attached("picture.png", evil, subtype="png"))
    assert found(attached("docs.zip", zipped(("readme.txt", b"x")))) == ""
    torn = base64.b64encode(evil).decode()
    torn = "\r\n".join(torn[at : at + 33] + "!" for at in range(0, len(torn), 33))
    header = "Content-Type: application/zip; name=a.zip\r\nContent-Transfer-Encoding: base64"
    assert "evil.exe" in found(part(header, torn))


def test_names_in_forwarded_messages_are_found() -> None:
    """In message/rfc822, in a digest, and in an encoded message, which standards forbid and programs read."""
    inner = attached("evil.exe", b"MZ").decode()
    assert found(part("Content-Type: message/rfc822", inner))
    digest = f"Content-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\n{inner}\r\n--d--\r\n"
    assert found(digest.encode())
    encoded = base64.encodebytes(inner.replace("\r\n", "\n").encode()).decode().replace("\n", "\r\n")
    assert found(part("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64", encoded))


def test_delimiters_must_fit_exactly() -> None:
    """A boundary that begins like another, blanks behind a delimiter, a delimiter without an end."""
    text = (
        "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a \t\r\nContent-Type: multipart/mixed; boundary=ab\r\n\r\n"
        "--ab\r\nContent-Disposition: x; filename=evil.exe\r\n\r\nx\r\n"
    )
    assert found(text.encode())
    assert (
        found(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--ab\r\nContent-Type: x/y; name=evil.exe\r\n\r\n")
        == ""
    )


def refused(data: bytes) -> str:
    with pytest.raises(TooMuch) as error:
        found(data)
    return str(error.value)


def test_ten_thousand_parts_are_refused() -> None:
    """The scan stops at the first part that is one too many."""
    parts = b"--b\r\n\r\nx\r\n" * 10_000
    assert refused(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + parts) == "too many parts"


def test_bottomless_nesting_is_refused() -> None:
    """Multiparts in multiparts, and forwarded messages in forwarded messages."""
    nested = "".join(f"Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n" for level in range(200))
    assert refused(nested.encode()) == "parts more than 30 levels deep"
    assert refused(b"Content-Type: message/rfc822\r\n\r\n" * 5000) == "parts more than 30 levels deep"


def test_a_boundary_that_is_used_again_inside_ends() -> None:
    """A part that claims its parent's boundary, and one whose own delimiters are the parent's: no endless loop."""
    again = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * 500
    assert found(again.encode()) == ""


def test_endless_headers_are_refused() -> None:
    """A hundred megabytes of header, in one field or in many: told from its first bytes."""
    assert refused(b"X: " + b"y" * 100_000_000) == "a header of more than 131072 bytes"
    assert refused(b"X: y\r\n" * 16_000_000) == "a header of more than 131072 bytes"
    assert refused(b"X: y\r\n" * 501 + b"\r\n") == "a header of more than 500 fields"
    assert refused(part("X: y\r\n" * 501))
    assert refused(part("Content-Type: x/y" + ";a=b" * 2000)) == "a Content-Type of more than 4096 bytes"
    assert refused(part("Content-Type: text/plain\r\nContent-Type: application/x-msdownload"))


def test_archives_that_unpack_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip file of zip files of zeros; one with too many names."""
    monkeypatch.setattr("mailfront.filters.mime.scan.MOST_UNPACKED_BYTES", 1_000_000)
    bomb = zipped(*((f"{number}.zip", bytes(400_000)) for number in range(3)))
    assert "inside archives" in refused(attached("a.zip", bomb))
    many = zipped(*((f"{number}.txt", b"") for number in range(10_001)))
    assert refused(attached("a.zip", many)) == "an archive with more than 10000 names"


@pytest.mark.parametrize("size_bytes", [0, 1, 100, 5000])
def test_archives_that_are_none_are_passed_over(size_bytes: int) -> None:
    """What zipfile cannot read is no archive."""
    assert found(attached("a.zip", b"PK\x03\x04" + bytes(size_bytes))) == ""


def torture() -> Iterable[tuple[str, bytes]]:
    """Messages that no program should send, and some do."""
    yield "empty", b""
    yield "newlines", b"\r\n" * 1000
    yield "no header", b"\r\n\r\ntext"
    yield "binary", bytes(range(256)) * 100
    yield "boundary of blanks", b'Content-Type: multipart/mixed; boundary="   "\r\n\r\n--   \r\n\r\nx'
    yield "empty boundary", b'Content-Type: multipart/mixed; boundary=""\r\n\r\n--\r\n\r\nx'
    yield "odd boundary", b"Content-Type: multipart/mixed; boundary*=utf-9''%ff\r\n\r\n--x\r\n\r\nx"
    yield "odd charset", b"Content-Disposition: x; filename*=no-such-charset''a%ff; filename*1*=x\r\n\r\nx"
    yield "odd encoded word", b"Content-Disposition: x; filename==?no-such?B?!!!?=\r\n\r\nx"
    yield "parameters", b"Content-Type: x/y;" + b";a=b" * 20_000 + b"\r\n\r\nx"
    yield "quotes", b'Content-Disposition: x; filename="' + b'\\"' * 30_000 + b"\r\n\r\nx"
    yield "surrogates", b"Content-Type: multipart/mixed; boundary=\xff\r\n\r\n--\xff\r\n\r\nx"


@pytest.mark.parametrize("data", [data for _, data in torture()], ids=[name for name, _ in torture()])
def test_broken_messages_are_scanned(data: bytes) -> None:
    """Whatever a message is, the scan ends with an answer or a limit."""
    try:
        assert isinstance(found(data), str)
    except TooMuch:
        pass


def test_the_messages_of_cpythons_own_tests_are_scanned() -> None:
    """Those that the standard library's parser is tested with; a Python without its tests has none."""
    try:
        folder = resources.files("test.test_email").joinpath("data")
        messages = [each.read_bytes() for each in folder.iterdir() if each.name.endswith(".txt")]
    except ModuleNotFoundError:
        messages = []
    everything = Patterns(("*",), ())
    for each in messages:
        data = each.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        names = [name for part in email.message_from_bytes(data).walk() if (name := part.get_filename())]
        assert found(data) == ""
        assert bool(scan(data, everything, LIMITS)) >= bool(names), data


@given(
    lines=st.lists(
        st.sampled_from(
            [
                "Content-Type: multipart/mixed; boundary=b", "Content-Type: message/rfc822", "--b", "--b--", "", "x",
                "Content-Transfer-Encoding: base64", "UEsDBBQAAAAI", " folded",
                "Content-Disposition: x; filename=a.zip",
                "Content-Type: multipart/digest; boundary=bb", "--bb", "Content-Type: application/zip", "\xff: \xff",
            ]
        ),
        max_size=40,
    )
)  # fmt: skip
def test_random_structures_are_scanned(lines: list[str]) -> None:
    """Any arrangement of the pieces of MIME ends with an answer or a limit."""
    try:
        assert isinstance(found("\r\n".join(lines).encode("latin-1")), str)
    except TooMuch:
        pass


@pytest.fixture
async def mime() -> AsyncIterator[MimeFilter]:
    filter_ = MimeFilter(MimeSettings(), context())
    yield filter_
    await filter_.close()


async def test_the_sender_hears_what_is_forbidden(mime: MimeFilter) -> None:
    """552 with the name; beyond a limit 552 with the limit; else the message goes on."""
    verdict = await mime.data(message(attached("evil.exe", b"MZ")))
    assert (verdict.action, verdict.code) == (Action.REJECT, 552)
    assert "evil.exe" in verdict.text
    verdict = await mime.data(message(b"X: y\n" * 600 + b"\nx"))
    assert (verdict.action, verdict.code, verdict.enhanced) == (Action.REJECT, 552, "5.6.0")
    assert (await mime.data(message(b"Subject: x\n\nx\n"))).action is Action.CONTINUE


async def test_quarantine_instead_of_refusal() -> None:
    """`forbidden = "quarantine"` keeps the message aside."""
    filter_ = MimeFilter(MimeSettings(forbidden="quarantine"), context())
    mail: Message = message(attached("evil.exe", b"MZ"))
    assert isinstance(mail.body, MemoryBody)
    assert (await filter_.data(mail)).action is Action.QUARANTINE
    await filter_.close()
