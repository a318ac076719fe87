"""The LMTP client core: bytes in, events out."""

import pytest

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.mail.envelope import NO_OPTIONS, BodyType, RecipientOptions
from mailfront.protocol.lmtp import (
    EnvelopeAnswered,
    Event,
    FinalReply,
    LmtpClient,
    LmtpEnvelope,
    Ready,
    Refused,
    Send,
    ServiceClosing,
    StartTls,
    Step,
)

OFFERED = b"250-peer\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n"


def feed(core: LmtpClient, data: bytes) -> list[Event]:
    """Receive bytes and return the events they led to."""
    core.receive(data)
    events = []
    while (event := core.next_event()) is not None:
        events.append(event)
    return events


def ready(lhlo: bytes = OFFERED) -> LmtpClient:
    """A core whose connection is idle."""
    core = LmtpClient("mx.example.edu", starttls=False)
    feed(core, b"220 peer\r\n")
    assert isinstance(feed(core, lhlo)[-1], Ready)
    return core


def envelope(*users: str, **more: object) -> LmtpEnvelope:
    """An envelope with plain recipients."""
    arguments: dict[str, object] = {"reverse_path": "a@b.example", **more}
    return LmtpEnvelope(recipients=[(user, NO_OPTIONS) for user in users], **arguments)  # type: ignore[arg-type]


def accepted(core: LmtpClient, *users: str) -> None:
    """Bring a core to the final replies for these recipients."""
    core.begin(envelope(*users))
    feed(core, b"250 ok\r\n" * (1 + len(users)) + b"354 go\r\n")
    core.body_ended()


class TestHandshake:
    """Greeting, LHLO, STARTTLS."""

    def test_greeting_then_lhlo(self) -> None:
        """LHLO is said once the greeting is complete, and its extensions are read."""
        core = LmtpClient("mx.example.edu", starttls=False)
        assert feed(core, b"220-hello\r\n") == []
        assert feed(core, b"220 there\r\n") == [Send(b"LHLO mx.example.edu\r\n")]
        (event,) = feed(core, OFFERED)
        assert isinstance(event, Ready)
        assert event.extensions.pipelining
        assert event.extensions.size_limit_bytes == 1_000_000
        assert event.extensions.names == {"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN"}

    def test_starttls_forgets_what_was_said_in_clear(self) -> None:
        """After TLS the extensions are those of the second LHLO."""
        core = LmtpClient("mx.example.edu", starttls=True)
        feed(core, b"220 peer\r\n")
        assert feed(core, b"250-peer\r\n250-DSN\r\n250 STARTTLS\r\n") == [Send(b"STARTTLS\r\n")]
        assert feed(core, b"220 go\r\n") == [StartTls()]
        assert core.tls_started() == b"LHLO mx.example.edu\r\n"
        (event,) = feed(core, b"250-peer\r\n250 PIPELINING\r\n")
        assert isinstance(event, Ready)
        assert not event.extensions.dsn

    @pytest.mark.parametrize("residue", [b"250 ok\r\n", b"2"])
    def test_bytes_behind_starttls(self, residue: bytes) -> None:
        """Injected bytes behind the reply to STARTTLS close the connection, in one packet or in the next."""
        for pieces in ((b"220 go\r\n" + residue,), (b"220 go\r\n", residue)):
            core = LmtpClient("mx.example.edu", starttls=True)
            feed(core, b"220 peer\r\n")
            feed(core, b"250-peer\r\n250 STARTTLS\r\n")
            for piece in pieces[:-1]:
                feed(core, piece)
            with pytest.raises(RemoteProtocolError):
                feed(core, pieces[-1])
            assert core.step is Step.CLOSED

    def test_starttls_not_offered(self) -> None:
        """Without STARTTLS on offer nothing goes on in the clear."""
        core = LmtpClient("mx.example.edu", starttls=True)
        feed(core, b"220 peer\r\n")
        with pytest.raises(RemoteProtocolError, match="does not offer STARTTLS"):
            feed(core, b"250 peer\r\n")

    @pytest.mark.parametrize(
        ("before", "answer", "step"),
        [
            ((), b"554 go away\r\n", Step.GREETING),
            ((b"220 x\r\n",), b"550 no\r\n", Step.LHLO),
            ((b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n"), b"454 4.7.0 not now\r\n", Step.STARTTLS),
        ],
    )
    def test_refusals(self, before: tuple[bytes, ...], answer: bytes, step: Step) -> None:
        """A refusal names its place, and the dialogue is over."""
        core = LmtpClient("mx.example.edu", starttls=True)
        for data in before:
            feed(core, data)
        (event,) = feed(core, answer)
        assert isinstance(event, Refused)
        assert event.step is step
        assert core.step is Step.CLOSED

    @pytest.mark.parametrize(
        "lhlo", [b"250-p\r\n250 SIZE\r\n", b"250-p\r\n250 SIZE x9\r\n", b"250-p\r\n250 SIZE \xb2\r\n"]
    )
    def test_size_without_a_limit(self, lhlo: bytes) -> None:
        """SIZE without a number, or with nonsense, is SIZE without a limit."""
        core = ready(lhlo)
        assert core.extensions.size
        assert core.extensions.size_limit_bytes == 0

    def test_bad_client_name(self) -> None:
        """A host name that would break the line is our own mistake."""
        with pytest.raises(LocalProtocolError):
            LmtpClient("mx\r\nMAIL", starttls=False)


class TestEnvelope:
    """What is written for MAIL and RCPT, and how its answers are read."""

    def test_all_in_one_write(self) -> None:
        """With PIPELINING the commands go out together, with the parameters that were offered."""
        wire = ready().begin(
            LmtpEnvelope(
                reverse_path="a@b.example",
                recipients=[("ana", RecipientOptions(notify="FAILURE", orcpt="rfc822;Ana@b")), ("bo", NO_OPTIONS)],
                size_bytes=123,
                body_type=BodyType.EIGHTBITMIME,
                ret="HDRS",
                envid="Ab+2B",
            )
        )
        assert wire == (
            b"MAIL FROM:<a@b.example> SIZE=123 BODY=8BITMIME RET=HDRS ENVID=Ab+2B\r\n"
            b"RCPT TO:<ana> NOTIFY=FAILURE ORCPT=rfc822;Ana@b\r\nRCPT TO:<bo>\r\nDATA\r\n"
        )

    def test_nothing_that_was_not_offered(self) -> None:
        """Stock Dovecot answers 555 to SIZE, RET, ENVID and NOTIFY: they stay at home."""
        wire = ready(b"250-peer\r\n250 PIPELINING\r\n").begin(
            LmtpEnvelope(
                reverse_path="",
                recipients=[("ana", RecipientOptions(notify="NEVER", orcpt="rfc822;x"))],
                size_bytes=9,
                body_type=BodyType.EIGHTBITMIME,
                smtputf8=True,
                ret="FULL",
                envid="x",
            )
        )
        assert wire == b"MAIL FROM:<>\r\nRCPT TO:<ana>\r\nDATA\r\n"

    def test_smtputf8(self) -> None:
        """SMTPUTF8 is said for a message that asks for it and for an address that needs it."""
        assert b"SMTPUTF8" in ready().begin(envelope("ana", smtputf8=True))
        assert ready().begin(envelope("änne")).startswith(b"MAIL FROM:<a@b.example> SMTPUTF8\r\nRCPT TO:<\xc3\xa4nne>")
        with pytest.raises(LocalProtocolError, match="SMTPUTF8"):
            ready(b"250 peer\r\n").begin(envelope("änne"))

    @pytest.mark.parametrize("path", ["", "a>b", "a b", "a\r\nRCPT TO:<x>", 'a"b', "a\x00", "a\u0085", "\ud800", "<a"])
    def test_paths_that_would_break_the_line(self, path: str) -> None:
        """A path that cannot stand between < and > is never written; the connection stays good."""
        core = ready()
        with pytest.raises(LocalProtocolError):
            core.begin(envelope(path))
        assert core.step is Step.IDLE

    @pytest.mark.parametrize("path", ['"a b"@x.example', '"a\\"b>"@x', "user@[IPv6:::1]", "o'neil/x=y@z", "a+b"])
    def test_unusual_paths_that_are_fine(self, path: str) -> None:
        """Quoted local parts and address literals go out as they are."""
        assert f"RCPT TO:<{path}>\r\n".encode() in ready().begin(envelope(path))

    @pytest.mark.parametrize("value", ["a b", "a\r\nx", "é", ""])
    def test_parameters_that_would_break_the_line(self, value: str) -> None:
        """A DSN parameter is written only if it cannot become another command."""
        with pytest.raises(LocalProtocolError):
            ready().begin(envelope("ana", envid=value))

    def test_answers_in_any_mixture(self) -> None:
        """Each recipient keeps its own answer; one good one is enough to go on."""
        core = ready()
        core.begin(envelope("a", "b", "c"))
        (event,) = feed(core, b"250 ok\r\n550 5.1.1 who\r\n250 ok\r\n452 4.2.2 full\r\n354 go\r\n")
        assert isinstance(event, EnvelopeAnswered)
        assert event.go
        assert [answer.code for answer in event.recipients] == [550, 250, 452]

    def test_mail_refused(self) -> None:
        """If MAIL is refused no recipient has an answer of its own."""
        core = ready()
        core.begin(envelope("a"))
        (event,) = feed(core, b"452 4.3.1 disk\r\n503 5.5.1 no\r\n503 5.5.1 no\r\n")
        assert isinstance(event, EnvelopeAnswered)
        assert (event.mail.code, event.recipients, event.go) == (452, (), False)
        assert core.step is Step.IDLE

    def test_reset_rides_along_after_an_unfinished_transaction(self) -> None:
        """Only after a transaction without a final dot does the next one begin with RSET."""
        core = ready()
        core.begin(envelope("a"))
        feed(core, b"250 ok\r\n550 no\r\n554 no\r\n")
        assert core.begin(envelope("b")).startswith(b"RSET\r\nMAIL FROM")
        (event,) = feed(core, b"250 reset\r\n250 ok\r\n250 ok\r\n354 go\r\n")
        assert isinstance(event, EnvelopeAnswered)
        assert event.go
        core.body_ended()
        feed(core, b"250 kept\r\n")
        assert core.begin(envelope("c")).startswith(b"MAIL FROM")

    def test_reset_refused(self) -> None:
        """A peer that refuses RSET is out of step."""
        core = ready()
        core.begin(envelope("a"))
        feed(core, b"250 ok\r\n550 no\r\n554 no\r\n")
        core.begin(envelope("b"))
        with pytest.raises(RemoteProtocolError, match="RSET"):
            feed(core, b"500 what\r\n")

    def test_lone_dot(self) -> None:
        """354 without an accepted recipient gets a lone dot and QUIT, never a message."""
        core = ready()
        core.begin(envelope("a"))
        (event,) = feed(core, b"250 ok\r\n550 no\r\n354 go\r\n")
        assert isinstance(event, EnvelopeAnswered)
        assert not event.go
        with pytest.raises(LocalProtocolError):
            core.body_ended()
        assert core.quit() == b".\r\nQUIT\r\n"
        assert core.step is Step.CLOSED

    @pytest.mark.parametrize("answers", [b"354 a\r\n", b"250 a\r\n354 b\r\n", b"250 a\r\n250 b\r\n250 c\r\n"])
    def test_codes_that_do_not_belong(self, answers: bytes) -> None:
        """354 to MAIL or RCPT, or 250 to DATA, means that we count differently: close."""
        core = ready()
        core.begin(envelope("a"))
        with pytest.raises(RemoteProtocolError):
            feed(core, answers)

    def test_no_transaction_inside_another(self) -> None:
        """Calls in the wrong order are our own mistake."""
        core = ready()
        core.begin(envelope("a"))
        for call in (lambda: core.begin(envelope("b")), core.body_ended, core.tls_started):
            with pytest.raises(LocalProtocolError):
                call()
        assert core.quit() == b""


class TestWithoutPipelining:
    """A peer that does not offer PIPELINING gets one command at a time."""

    def test_one_at_a_time(self) -> None:
        """Each command waits for the answer to the one before."""
        core = ready(b"250 peer\r\n")
        assert core.begin(envelope("a", "b")) == b"MAIL FROM:<a@b.example>\r\n"
        assert feed(core, b"250 ok\r\n") == [Send(b"RCPT TO:<a>\r\n")]
        assert feed(core, b"550 no\r\n") == [Send(b"RCPT TO:<b>\r\n")]
        assert feed(core, b"250 ok\r\n") == [Send(b"DATA\r\n")]
        (event,) = feed(core, b"354 go\r\n")
        assert isinstance(event, EnvelopeAnswered)
        assert event.go

    def test_nothing_useless_is_sent(self) -> None:
        """No RCPT after a refused MAIL, no DATA without a recipient; RSET comes first the next time."""
        core = ready(b"250 peer\r\n")
        core.begin(envelope("a"))
        (event,) = feed(core, b"550 no\r\n")
        assert isinstance(event, EnvelopeAnswered)
        assert event.data is None
        assert core.begin(envelope("a")) == b"RSET\r\n"
        assert feed(core, b"250 ok\r\n") == [Send(b"MAIL FROM:<a@b.example>\r\n")]
        feed(core, b"250 ok\r\n")
        (event,) = feed(core, b"550 no\r\n")
        assert isinstance(event, EnvelopeAnswered)
        assert (event.data, len(event.recipients), core.step) == (None, 1, Step.IDLE)


class TestFinal:
    """After the final dot: one reply per accepted recipient, in order."""

    def test_replies_belong_to_accepted_recipients(self) -> None:
        """A refused recipient gets no final reply; the indexes skip it."""
        core = ready()
        core.begin(envelope("a", "b", "c"))
        feed(core, b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
        core.body_ended()
        events = feed(core, b"250 a\r\n452 4.2.2 c\r\n")
        assert [(event.index, event.reply.code) for event in events if isinstance(event, FinalReply)] == [
            (0, 250),
            (2, 452),
        ]
        assert core.step is Step.IDLE

    @pytest.mark.parametrize("extra", [b"250 more\r\n", b"2"])
    def test_more_replies_than_recipients(self, extra: bytes) -> None:
        """What comes beyond the last reply closes the connection, after that reply was handed out."""
        core = ready()
        accepted(core, "a")
        core.receive(b"250 a\r\n" + extra)
        assert isinstance(core.next_event(), FinalReply)
        with pytest.raises(RemoteProtocolError):
            core.next_event()

    def test_421_behind_the_last_reply(self) -> None:
        """A peer may close right after its last answer."""
        core = ready()
        accepted(core, "a")
        assert [type(event) for event in feed(core, b"250 a\r\n421 4.3.2 bye\r\n")] == [FinalReply, ServiceClosing]

    def test_421_answers_one_recipient(self) -> None:
        """421 after the dot is the answer for its recipient; others may still come, and then the connection is over."""
        core = ready()
        accepted(core, "a", "b")
        assert [type(event) for event in feed(core, b"421 4.3.2 a\r\n")] == [FinalReply]
        assert [type(event) for event in feed(core, b"250 b\r\n")] == [FinalReply]
        assert core.step is Step.CLOSED

    def test_wrong_class(self) -> None:
        """3xx after the dot is no answer."""
        core = ready()
        accepted(core, "a")
        with pytest.raises(RemoteProtocolError):
            feed(core, b"354 again\r\n")

    @pytest.mark.parametrize("data", [b"250 too early\r\n", b"5"])
    def test_answer_before_the_dot(self, data: bytes) -> None:
        """A peer that answers while the body is sent is out of step."""
        core = ready()
        core.begin(envelope("a"))
        feed(core, b"250 ok\r\n250 ok\r\n354 go\r\n")
        with pytest.raises(RemoteProtocolError):
            feed(core, data)


@pytest.mark.parametrize("data", [b"250 hello\r\n", b"x"])
def test_bytes_on_an_idle_connection(data: bytes) -> None:
    """An idle connection that says anything is out of step."""
    core = ready()
    with pytest.raises(RemoteProtocolError):
        feed(core, data)


def test_421_while_idle() -> None:
    """421 on an idle connection closes it."""
    core = ready()
    (event,) = feed(core, b"421 4.3.2 shutting down\r\n")
    assert isinstance(event, ServiceClosing)
    assert event.step is Step.IDLE


def test_quit() -> None:
    """QUIT ends an idle dialogue, and nothing is read any more."""
    core = ready()
    assert core.quit() == b"QUIT\r\n"
    assert feed(core, b"221 bye\r\nwhatever") == []
