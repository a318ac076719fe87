"""A real rspamd: each of its actions becomes what the documentation says, over TCP and over a UNIX socket."""

import pytest

from mailfront.mail.verdict import Action, AddHeader, ChangeHeader, DeleteHeader, InsertHeader
from tests.support.filters import finding_of, view
from tests.support.rspamd import GTUBE, MARKERS, MILTER_MARKER, Rspamd

pytestmark = pytest.mark.serial


def message(text: str, header: str = "") -> bytes:
    return f"From: a@example.org\r\nSubject: hello\r\n{header}\r\n{text}\r\n".encode()


@pytest.mark.parametrize(
    ("action", "settings", "wanted"),
    [
        ("greylist", {}, Action.CONTINUE),
        ("greylist", {"greylist": "tempfail"}, Action.TEMPFAIL),
        ("add header", {}, Action.CONTINUE),
        ("rewrite subject", {}, Action.CONTINUE),
        ("soft reject", {}, Action.TEMPFAIL),
        ("reject", {}, Action.REJECT),
        ("reject", {"reject": "quarantine"}, Action.QUARANTINE),
    ],
)
async def test_each_action_means_what_the_reference_says(
    rspamd: Rspamd, action: str, settings: dict[str, str], wanted: Action
) -> None:
    """rspamd's action decides, and the settings may soften it."""
    finding = await finding_of(view(message(MARKERS[action])), kind="rspamd", settings={"url": rspamd.url, **settings})
    assert (finding.error, finding.verdict.action) == ("", wanted)
    assert finding.verdict.reason.startswith(action)


async def test_gtube_is_rejected_with_the_words_of_rspamd(rspamd: Rspamd) -> None:
    """The client hears rspamd's own message."""
    finding = await finding_of(view(message(GTUBE)), kind="rspamd", settings={"url": rspamd.url})
    verdict = finding.verdict
    assert (verdict.action, verdict.code, verdict.enhanced, verdict.text) == (
        Action.REJECT, 550, "5.7.1", "Gtube pattern",
    )  # fmt: skip


async def test_add_header_marks_the_message(rspamd: Rspamd) -> None:
    """The action `add header` adds the field that Sieve scripts look for."""
    finding = await finding_of(view(message(MARKERS["add header"])), kind="rspamd", settings={"url": rspamd.url})
    assert finding.verdict.edits == (AddHeader("X-Spam", "Yes"),)


async def test_rewrite_subject_changes_the_subject(rspamd: Rspamd) -> None:
    """The action `rewrite subject` marks the message and gives it rspamd's subject."""
    finding = await finding_of(view(message(MARKERS["rewrite subject"])), kind="rspamd", settings={"url": rspamd.url})
    assert AddHeader("X-Spam", "Yes") in finding.verdict.edits
    (change,) = [edit for edit in finding.verdict.edits if isinstance(edit, ChangeHeader)]
    assert (change.name, change.occurrence) == ("Subject", 1)
    assert change.value.endswith("hello")
    assert change.value != "hello"


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: caf\xe9 \xff\r\n",
        b"Subject: " + b"a" * 900 + b"\r\n " + b"b" * 900 + b"\r\n",
        b"Subject: nul \0 bell \x07\r\n",
        b"Subject: =?utf-8?b?/////w==?= =?no-such?q?=FF?=\r\n",
        b"no field at all\r\nSubject: x\r\nFrom: \xff\xfe\r\nMessage-Id: <\xe9\0@>\r\n",
        b"".join(b"X-Spam-%d: No\r\n" % number for number in range(1900)) + b"Subject: x\r\n",
        b"X-Long: " + b"x" * 200_000 + b"\r\nSubject: x\r\n",
    ],
    ids=["8bit", "long", "nul", "encoded", "broken", "marks", "field"],
)
async def test_no_header_of_a_sender_makes_the_filter_fail(rspamd: Rspamd, header: bytes) -> None:
    """Spam that is written to upset a reader of it is marked like other spam: `on_error` is not the sender's choice."""
    data = header + b"\r\n" + MARKERS["rewrite subject"].encode() + b" \xff\0\r\n"
    finding = await finding_of(view(data), kind="rspamd", on_error="accept", settings={"url": rspamd.url})
    assert finding.error == ""
    assert AddHeader("X-Spam", "Yes") in finding.verdict.edits
    assert any(isinstance(edit, ChangeHeader) for edit in finding.verdict.edits)


async def test_milter_headers_are_applied(rspamd: Rspamd) -> None:
    """Fields that rspamd adds and removes become edits."""
    data = message(MILTER_MARKER, header="X-Remove-Me: 1\r\n")
    finding = await finding_of(view(data), kind="rspamd", settings={"url": rspamd.url})
    assert set(finding.verdict.edits) == {DeleteHeader("X-Remove-Me"), InsertHeader(0, "X-Rspamd-Probe", "seen")}


async def test_marks_that_the_sender_wrote_are_deleted(rspamd: Rspamd) -> None:
    """A message that says of itself that it is no spam loses that word."""
    data = message("fine", header="X-Spam: No\r\nX-Spam-Status: No\r\nX-Other: kept\r\n")
    finding = await finding_of(view(data), kind="rspamd", settings={"url": rspamd.url})
    assert finding.verdict.edits == (DeleteHeader("x-spam"), DeleteHeader("x-spam-status"))


async def test_a_unix_socket_serves_as_well(rspamd: Rspamd) -> None:
    """The same rspamd over its UNIX socket, with a body of several pieces."""
    data = message("x" * 70 + "\r\n" + ("y" * 70 + "\r\n") * 9000 + MARKERS["reject"])
    finding = await finding_of(view(data), kind="rspamd", settings={"url": rspamd.unix_url})
    assert finding.verdict.action is Action.REJECT


async def test_a_dead_host_is_passed_over(rspamd: Rspamd) -> None:
    """Of two hosts one does not listen: the other answers for both."""
    for _ in range(2):
        finding = await finding_of(
            view(message(GTUBE)), kind="rspamd", settings={"url": ["http://127.0.0.1:1", rspamd.url]}
        )
        assert (finding.error, finding.verdict.action) == ("", Action.REJECT)
