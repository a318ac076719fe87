"""Kind `milter` against programs that use the real libmilter: opendkim, spamass-milter, one that makes all edits."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from mailfront.filters.checked import checked
from mailfront.filters.contract import FilterFailed
from mailfront.filters.milter.filter import MilterFilter
from mailfront.filters.milter.link import MilterLink, open_link
from mailfront.filters.milter.settings import MilterSettings
from mailfront.mail.verdict import (
    Action,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    InsertHeader,
    ReplaceBody,
    Verdict,
)
from tests.support.filter_kinds import address, context, message
from tests.support.milters import EditingMilter, OpenDkim, SpamassMilter, Spamd
from tests.support.ports import free_port

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
PLAIN = b"From: sender@example.org\nSubject: hello\nX-Gone: yes\n%s\nbody\n"


def steps_of(verdict: Verdict) -> list[str]:
    return [edit.value for edit in verdict.edits if isinstance(edit, AddHeader) and edit.name == "X-Step"]


def wish(*wishes: str) -> bytes:
    return PLAIN % b"".join(b"X-Wish: %s\n" % each.encode() for each in wishes)


@pytest.fixture(scope="module", params=["tcp", "unix"])
def editing(request: pytest.FixtureRequest) -> Iterator[EditingMilter]:
    server = EditingMilter(unix=request.param == "unix")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def milter(editing: EditingMilter) -> AsyncIterator[MilterFilter]:
    filter_ = MilterFilter(MilterSettings(address=(editing.address,)), context())
    yield filter_
    await filter_.close()


async def test_a_milter_sees_the_whole_dialogue(milter: MilterFilter) -> None:
    """Connect, HELO, MAIL, RCPT, macros, header and body arrive at the milter as they came from the client."""
    verdict = await milter.data(
        message(PLAIN % b"", recipients=("ana@example.test", "bob@example.test"), helo="client.example.org")
    )
    assert verdict.action is Action.CONTINUE
    assert InsertHeader(0, "X-Seen", "3 fields, 6 bytes") in verdict.edits
    steps = steps_of(verdict)
    assert steps[0].startswith("connect [192.0.2.1]")
    assert "192.0.2.1" in steps[0]
    assert steps[1] == "helo client.example.org"
    assert steps[2].startswith("mail <sender@example.org> SIZE=")
    assert "i=None" not in steps[2]
    assert steps[3:] == ["rcpt <ana@example.test> ana@example.test", "rcpt <bob@example.test> bob@example.test"]


async def test_an_ipv6_client_and_the_null_reverse_path_are_shown_as_such(milter: MilterFilter) -> None:
    """libmilter reads our IPv6 address, and `<>`."""
    verdict = await milter.data(message(PLAIN % b"", ip="2001:db8::5", sender=""))
    steps = steps_of(verdict)
    assert "2001:db8::5" in steps[0]
    assert steps[2].startswith("mail <> ")


async def test_headers_are_added_changed_and_removed(milter: MilterFilter) -> None:
    """Add, insert with a fold, change and delete arrive as edits of those fields."""
    verdict = await milter.data(message(wish("edit")))
    assert InsertHeader(0, "X-Top", "top\r\n\tfolded") in verdict.edits
    assert ChangeHeader("Subject", 1, "changed") in verdict.edits
    assert DeleteHeader("X-Gone", 1) in verdict.edits


async def test_the_body_is_replaced(milter: MilterFilter) -> None:
    """A new body arrives whole."""
    assert ReplaceBody(b"new\r\nbody\r\n") in (await milter.data(message(wish("body")))).edits


async def test_recipients_are_added_and_removed(milter: MilterFilter) -> None:
    """Recipients that a milter adds and deletes arrive as edits."""
    edits = (await milter.data(message(wish("recipients")))).edits
    assert AddRecipient(address("added@example.test")) in edits
    assert DeleteRecipient(address("ana@example.test")) in edits


async def test_the_sender_is_changed(milter: MilterFilter) -> None:
    """To another address, whatever parameters stand behind it, or to the null reverse-path."""
    assert ChangeSender(address("bounces@example.edu")) in (await milter.data(message(wish("sender")))).edits
    assert ChangeSender(None) in (await milter.data(message(wish("null sender")))).edits


async def test_quarantine_keeps_its_reason(milter: MilterFilter) -> None:
    """A quarantine is one, with the milter's reason and edits."""
    verdict = await milter.data(message(wish("quarantine")))
    assert (verdict.action, verdict.reason) == (Action.QUARANTINE, "looks odd")
    assert verdict.edits


async def test_progress_only_prolongs_the_wait(milter: MilterFilter) -> None:
    """PROGRESS before the decision changes nothing."""
    assert (await milter.data(message(wish("wait")))).action is Action.CONTINUE


async def test_refusals_carry_the_milters_text(milter: MilterFilter) -> None:
    """Reject in the middle of the header, tempfail and discard at the end; the next message is none the worse."""
    reject = await milter.data(message(wish("reject at once")))
    assert (reject.action, reject.code, reject.enhanced, reject.text) == (
        Action.REJECT,
        550,
        "5.7.1",
        "100% sure, no",
    )
    tempfail = await milter.data(message(wish("tempfail")))
    assert (tempfail.action, tempfail.code, tempfail.text) == (Action.TEMPFAIL, 451, "later, please")
    assert (await milter.data(message(wish("discard")))).action is Action.DISCARD
    assert (await milter.data(message(wish("edit")))).action is Action.CONTINUE


async def test_a_refused_recipient_refuses_the_message(milter: MilterFilter) -> None:
    """What the milter says to one recipient of the transaction, the client hears for all of it."""
    verdict = await milter.data(message(PLAIN % b"", recipients=("ana@example.test", "refused@example.test")))
    assert verdict.action is Action.REJECT


async def test_a_milter_is_shown_only_those_whom_it_is_for(milter: MilterFilter) -> None:
    """What it would say to a recipient of whom it was not to be asked refuses nobody."""
    whole = message(PLAIN % b"", recipients=("ana@example.test", "refused@example.test"))
    verdict = await milter.data(replace(whole, binds=frozenset({0})))
    assert verdict.action is Action.CONTINUE
    assert steps_of(verdict)[3:] == ["rcpt <ana@example.test> ana@example.test"]


async def test_an_endless_field_does_not_end_the_conversation(milter: MilterFilter) -> None:
    """libmilter gives up at packets over 64 KiB, so no sender may write one: it sees the beginning of such a field, and
    none whose very name is too long."""
    verdict = await milter.data(
        message(b"X-Long: " + b"x" * 100_000 + b"\nX" + b"y" * 100_000 + b": 1\n" + PLAIN % b"")
    )
    assert InsertHeader(0, "X-Seen", "4 fields, 6 bytes") in verdict.edits


async def test_a_long_line_that_a_milter_repeats_is_folded(milter: MilterFilter) -> None:
    """A subject that is longer than a line may be, marked by the milter: a sender cannot make the filter fail by it."""
    verdict = checked(await milter.data(message(wish("echo " + "x" * 5000))))
    (change,) = [edit for edit in verdict.edits if isinstance(edit, ChangeHeader)]
    assert change.value.replace("\r\n\t", "") == "echo " + "x" * 5000
    assert max(map(len, change.value.split("\r\n"))) < 998


async def test_a_large_body_arrives_in_pieces(milter: MilterFilter) -> None:
    """A body of several pieces arrives byte for byte."""
    verdict = await milter.data(message(PLAIN % b"" + b"x" * 76 * 5000))
    assert InsertHeader(0, "X-Seen", f"3 fields, {6 + 76 * 5000} bytes") in verdict.edits


async def test_one_connection_serves_client_after_client(milter: MilterFilter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second client's message goes over the connection of the first, and the milter sees the second client."""
    opened = []

    async def counted(address: str) -> MilterLink:
        opened.append(address)
        return await open_link(address)

    monkeypatch.setattr("mailfront.filters.milter.filter.open_link", counted)
    await milter.data(message(PLAIN % b""))
    second = await milter.data(message(PLAIN % b"", ip="192.0.2.99"))
    assert "192.0.2.99" in steps_of(second)[0]
    assert len(opened) == 1


class NotedSocket:
    """A connection's socket whose options are noted as they are set."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.options: list[tuple[int, int, int]] = []

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((level, option, value))
        self._inner.setsockopt(level, option, value)


async def test_nothing_waits_for_a_delayed_acknowledgement(editing: EditingMilter) -> None:
    """Over TCP the link has TCP_NODELAY, and asks for TCP_QUICKACK again before each answer that it waits for."""
    link = await open_link(editing.address)
    kernel = link._tcp
    if kernel is None:
        assert editing.path is not None
    else:
        assert kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        noted = NotedSocket(kernel)
        link._tcp = noted  # type: ignore[assignment]
        await link.say(link.core.connect("client", "192.0.2.1", 25, {}))
        asked_count = noted.options.count((socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1))
        await link.say(link.core.helo("client", {}))
        assert noted.options.count((socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)) > asked_count > 0
    link.close()
    await link._writer.wait_closed()


async def test_a_milter_that_shuts_down_leaves_the_message_with_the_client() -> None:
    """SHUTDOWN is the milter's word for 421: a tempfail, and the connection is not used again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        negotiation = await reader.readexactly(17)
        writer.write(negotiation[:5] + (6).to_bytes(4, "big") + (0x3F).to_bytes(4, "big") + bytes(4))
        await reader.read(65536)
        writer.write((1).to_bytes(4, "big") + b"4")
        served.append(await reader.read(65536))
        writer.close()
        await writer.wait_closed()
        ended.set()

    served: list[bytes] = []
    ended = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        milter = MilterFilter(MilterSettings(address=(f"127.0.0.1:{port}",)), context())
        verdict = await milter.data(message(PLAIN % b""))
        await milter.close()
        await asyncio.wait_for(ended.wait(), 20)
    assert (verdict.action, verdict.code) == (Action.TEMPFAIL, 451)
    assert served == [b""]


@pytest.mark.parametrize("end", ["speaks", "closes"])
async def test_an_idle_connection_with_news_is_not_used_again(end: str) -> None:
    """A milter that speaks when nobody asked, or hangs up, is not given another message on that connection."""
    ours, theirs = socket.socketpair()
    link = MilterLink(*await asyncio.open_unix_connection(sock=ours))
    link.core.can_begin_anew = True
    assert await link.is_quiet()
    if end == "speaks":
        theirs.sendall(b"!")
    else:
        theirs.close()
    async with asyncio.timeout(20):
        while await link.is_quiet():
            await asyncio.sleep(0.001)
    link.close()
    theirs.close()


async def test_a_restarted_milter_costs_no_message(editing: EditingMilter) -> None:
    """A kept connection that died with its milter is replaced by a fresh one."""
    server = EditingMilter()
    server.start()
    milter = MilterFilter(MilterSettings(address=(server.address,)), context())
    assert (await milter.data(message(PLAIN % b""))).edits
    server.stop()
    server.start()
    assert (await milter.data(message(PLAIN % b""))).edits
    server.stop()
    with pytest.raises(FilterFailed):
        await milter.data(message(PLAIN % b""))
    await milter.close()


async def test_no_milter_is_a_failure_of_the_filter() -> None:
    """Nobody listens: the filter fails, and `on_error` decides."""
    milter = MilterFilter(MilterSettings(address=(f"127.0.0.1:{free_port()}",)), context())
    with pytest.raises(FilterFailed):
        await milter.data(message(PLAIN % b""))


@pytest.fixture(scope="module")
def opendkim() -> Iterator[OpenDkim]:
    server = OpenDkim()
    server.start()
    yield server
    server.stop()


async def test_opendkim_signs_and_verifies(opendkim: OpenDkim) -> None:
    """What opendkim signs for a client inside passes when it comes from outside, on the same connection."""
    milter = MilterFilter(MilterSettings(address=(opendkim.address,), kept_connections=1), context())
    text = b"From: ana@example.test\nSubject: signed\nDate: Tue, 14 Nov 2023 22:13:20 +0000\n\nbody\n"
    signed = await milter.data(message(text, ip="127.0.0.1", sender="ana@example.test"))
    signature = _field(signed, "DKIM-Signature")
    outside = message(b"DKIM-Signature:" + signature.encode() + b"\n" + text, ip="192.0.2.7")
    assert "dkim=pass" in _field(await milter.data(outside), "Authentication-Results")
    forged = message(b"DKIM-Signature:" + signature.encode() + b"\n" + text + b"forged\n", ip="192.0.2.7")
    assert "dkim=fail" in _field(await milter.data(forged), "Authentication-Results")
    await milter.close()


def _field(verdict: Verdict, name: str) -> str:
    found = [edit.value for edit in verdict.edits if isinstance(edit, AddHeader | InsertHeader) and edit.name == name]
    assert found, verdict
    return found[0]


@pytest.fixture(scope="module")
def spamass_milter() -> Iterator[SpamassMilter]:
    spamd = Spamd()
    spamd.start()
    server = SpamassMilter(spamd)
    server.start()
    yield server
    server.stop()
    spamd.stop()


async def test_spamass_milter_marks_and_refuses(spamass_milter: SpamassMilter) -> None:
    """A clean message gets SpamAssassin's fields, GTUBE is refused with its text."""
    milter = MilterFilter(MilterSettings(address=(spamass_milter.address,)), context(timeout_s=60))
    clean = await milter.data(message(PLAIN % b"Date: Tue, 14 Nov 2023 22:13:20 +0000\n"))
    assert clean.action is Action.CONTINUE
    assert "SpamAssassin" in _field(clean, "X-Spam-Checker-Version")
    spam = await milter.data(message(PLAIN % b"" + GTUBE + b"\n"))
    assert (spam.action, spam.text) == (Action.REJECT, "Blocked by SpamAssassin")
    await milter.close()
