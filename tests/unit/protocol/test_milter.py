"""What the milter core says and refuses, one rule a test."""

import pytest

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.mail.reply import Reply
from mailfront.protocol.milter import MilterClient
from mailfront.protocol.milter_packets import (
    MAX_PACKET_BYTES,
    Action,
    AddHeader,
    ChangeFrom,
    ChangeHeader,
    Decision,
    Negotiated,
    ReplyWith,
    Stage,
    Step,
    decode,
    pack,
)

ALL = Action(0xBF)
NOTHING = Step(0)


def negotiated(steps: Step = NOTHING, *, version: int = 6, actions: int = ALL, extra: bytes = b"") -> MilterClient:
    core = MilterClient()
    core.negotiate()
    numbers = b"".join(number.to_bytes(4, "big") for number in (version, actions, steps))
    core.receive(pack(b"O", numbers + extra))
    assert isinstance(core.next_answer(), Negotiated)
    return core


def test_steps_that_a_filter_declines_are_not_sent() -> None:
    """NO_HELO: nothing is sent and nothing awaited; its macros ride in front of the next step."""
    core = negotiated(Step.NO_HELO)
    assert core.helo("client", {"tls_version": "TLSv1.3"}) == b""
    assert not core.waiting
    sent = core.mail("a@example.org", (), {})
    assert b"DH{tls_version}\0TLSv1.3\0" in sent
    assert sent.endswith(pack(b"M", b"<a@example.org>\0"))


def test_silent_steps_are_one_write_with_the_step_that_is_answered() -> None:
    """SILENT_HEADER: fields are collected and go out with the end of the header."""
    core = negotiated(Step.SILENT_HEADER)
    assert core.header(b"Subject", b" x") == b""
    sent = core.end_of_headers({})
    assert sent.startswith(pack(b"L", b"Subject\0x\0"))
    assert core.waiting


def test_the_leading_space_is_kept_only_for_filters_that_ask() -> None:
    """A value travels as it is with LEADING_SPACE, without its first blank otherwise; folds are bare LF."""
    assert pack(b"L", b"A\0 b\n\tc\0") == negotiated(Step.LEADING_SPACE).header(b"A", b" b\r\n\tc")
    assert pack(b"L", b"A\0b\0") == negotiated().header(b"A", b" b")


def test_a_filter_chooses_its_macros() -> None:
    """A list in the negotiation replaces the usual macros of that stage, and unknown values are not sent."""
    core = negotiated(extra=(1).to_bytes(4, "big") + b"{client_addr} {unknown}\0")
    assert core.macros == {Stage.HELO: ("{client_addr}", "{unknown}")}
    assert core.helo("x", {"client_addr": "192.0.2.1", "j": "mx"}).startswith(
        pack(b"D", b"H{client_addr}\x00192.0.2.1\0")
    )


def test_old_filters_hear_nothing_of_data() -> None:
    """Version 3 does not know DATA."""
    assert negotiated(version=3).data({}) == b""


def test_an_edit_before_the_end_is_an_error() -> None:
    """Edits belong to the end of the message."""
    core = negotiated()
    core.helo("x", {})
    core.receive(pack(b"h", b"X\0y\0"))
    with pytest.raises(RemoteProtocolError):
        core.next_answer()
    assert core.closed


def test_an_edit_that_was_not_negotiated_is_an_error() -> None:
    """A filter does only what it said it would."""
    core = negotiated(actions=Action.QUARANTINE)
    core.end_of_message({})
    core.receive(pack(b"h", b"X\0y\0"))
    with pytest.raises(RemoteProtocolError):
        core.next_answer()


def test_a_sender_is_changed_at_the_end_of_the_message_only_by_who_asked_for_it() -> None:
    """Its parameters are dropped, `<>` is the null reverse-path, and control characters are an error."""
    core = negotiated(actions=Action.CHANGE_FROM)
    core.end_of_message({})
    core.receive(pack(b"e", b"<a@example.org>\0SIZE=1\0") + pack(b"e", b"<>\0") + pack(b"e", b"a\rb\0"))
    assert core.next_answer() == ChangeFrom("a@example.org")
    assert core.next_answer() == ChangeFrom("")
    with pytest.raises(RemoteProtocolError):
        core.next_answer()
    core = negotiated()
    core.end_of_message({})
    core.receive(pack(b"e", b"<a@example.org>\0"))
    with pytest.raises(RemoteProtocolError):
        core.next_answer()


def test_progress_keeps_the_wait_and_the_decision_ends_it() -> None:
    """PROGRESS is no decision."""
    core = negotiated()
    core.end_of_message({})
    core.receive(pack(b"p") + pack(b"c"))
    assert core.next_answer() is Decision.PROGRESS
    assert core.waiting
    assert core.next_answer() is Decision.CONTINUE
    assert not core.waiting


def test_only_a_message_that_ended_with_continue_lets_another_client_follow() -> None:
    """After ACCEPT libmilter would ignore the packet, and we would wait in vain."""
    for code, may in ((b"c", True), (b"a", False), (b"r", False)):
        core = negotiated()
        core.end_of_message({})
        core.receive(pack(code))
        core.next_answer()
        assert core.can_begin_anew is may
    with pytest.raises(LocalProtocolError):
        negotiated().new_client()


def test_skip_needs_a_body_and_the_wish_for_it() -> None:
    """SKIP answers a piece of the body of a filter that negotiated it."""
    core = negotiated(Step.SKIP)
    core.body(b"x")
    core.receive(pack(b"s"))
    assert core.next_answer() is Decision.SKIP
    core = negotiated()
    core.body(b"x")
    core.receive(pack(b"s"))
    with pytest.raises(RemoteProtocolError):
        core.next_answer()


def test_shutdown_closes() -> None:
    """After SHUTDOWN nothing more is said."""
    core = negotiated()
    core.helo("x", {})
    core.receive(pack(b"4"))
    assert core.next_answer() is Decision.SHUTDOWN
    assert core.closed


def test_bytes_that_nobody_asked_for_are_an_error() -> None:
    """A filter speaks when it is asked."""
    core = negotiated()
    core.receive(pack(b"c"))
    with pytest.raises(RemoteProtocolError):
        core.next_answer()


def test_a_filter_cannot_want_what_was_not_offered() -> None:
    """Flags beyond the offer are refused: we would not know what they change."""
    core = MilterClient()
    core.negotiate()
    core.receive(pack(b"O", b"\0\0\0\6" + b"\0\0\0\1" + b"\x10\0\0\0"))
    with pytest.raises(RemoteProtocolError):
        core.next_answer()


def test_nul_cannot_shift_what_follows() -> None:
    """A NUL in a text of the client becomes a question mark."""
    assert b"a?b\0" in negotiated().helo("a\0b", {})


def test_an_endless_packet_is_refused_at_its_length() -> None:
    """A length beyond the limit, or 0, is an error before anything is read."""
    for size in (0, MAX_PACKET_BYTES + 1):
        core = MilterClient()
        core.negotiate()
        core.receive(size.to_bytes(4, "big"))
        with pytest.raises(RemoteProtocolError):
            core.next_answer()


@pytest.mark.parametrize(
    ("content", "reply"),
    [
        (b"550 5.7.1 no\0", Reply(550, "5.7.1", ("no",))),
        (b"550 5.7.1 Gtube pattern\0\0", Reply(550, "5.7.1", ("Gtube pattern",))),
        (b"451-4.7.1 a\r\n451 4.7.1 b\0", Reply(451, "4.7.1", ("a", "b"))),
        (b"550 5.7.1 100%% sure\0", Reply(550, "5.7.1", ("100% sure",))),
        (b"550 4.7.1 mixed\0", Reply(550, "", ("mixed",))),
        (b"550\0", Reply(550, "", ("",))),
        (b"550 5.7.1\0", Reply(550, "5.7.1", ("",))),
    ],
)
def test_replies_are_read(content: bytes, reply: Reply) -> None:
    """Code, enhanced code and text, as libmilter and others write them."""
    assert decode(b"y", content) == ReplyWith(reply)


@pytest.mark.parametrize("content", [b"", b"\0", b"250 ok\0", b"abc\0", b"5500 x\0", b"550 a\r\n551 b\0", b"599 x\0"])
def test_what_does_not_refuse_is_no_reply(content: bytes) -> None:
    """Only one 4xx or 5xx reply refuses."""
    with pytest.raises(RemoteProtocolError):
        decode(b"y", content)


def test_header_edits_are_read_and_checked() -> None:
    """Folds become CRLF; a line end that would begin another field is refused."""
    assert decode(b"h", b"A\0b\n\tc\0") == AddHeader("A", b"b\r\n\tc")
    assert decode(b"m", b"\0\0\0\2A\0\0") == ChangeHeader("A", b"", 2)
    for content in (b"A\0b\nEvil: x\0", b"A b\0c\0", b"\0x\0", b"A\0b\0c\0d\0", b"A"):
        with pytest.raises(RemoteProtocolError):
            decode(b"h", content)
