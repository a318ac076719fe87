"""The IMAP dialogue with a client before its login: what it offers, what it reads, and how hostile input ends."""

from base64 import b64encode

import pytest

from mailfront.protocol.imap_login import ImapLogin
from mailfront.protocol.login_dialogue import (
    ClientEvent,
    Closing,
    Farewell,
    LoginAsked,
    Offer,
    Refusal,
    StartTls,
    ToClient,
)


def offer(**changes: object) -> Offer:
    """What a client with TLS is offered."""
    return Offer(**{"hostname": "mx1.example.edu", "starttls": False, "passwords": True, **changes})  # type: ignore[arg-type]


def drive(core: ImapLogin, data: bytes) -> list[ClientEvent]:
    """Give bytes to the core and take all events."""
    core.receive(data)
    events = []
    while (event := core.next_event()) is not None:
        events.append(event)
    return events


def said(events: list[ClientEvent]) -> str:
    """All that the client is told."""
    return b"".join(event.data for event in events if not isinstance(event, LoginAsked)).decode()


def asked(core: ImapLogin, data: bytes) -> tuple[str, bytes, str]:
    """The name, password and mechanism of the login that `data` asks for."""
    *before, event = drive(core, data)
    assert isinstance(event, LoginAsked), (before, event)
    return event.name, event.secret.reveal(), event.mechanism


def plain(name: bytes, password: bytes, authorize: bytes = b"") -> bytes:
    """A response of SASL PLAIN."""
    return b64encode(b"\0".join((authorize, name, password)))


@pytest.mark.parametrize(
    "data",
    [
        b"a LOGIN ana secret\r\n",
        b'a login "ana" "secret"\r\n',
        b"a LOGIN ana {6}\r\nsecret\r\n",
        b"a LOGIN {3}\r\nana {6}\r\nsecret\r\n",
        b"a LOGIN {3+}\r\nana {6+}\r\nsecret\r\n",
        b"a LOGIN {3+}\r\nana secret\n",
        b"a AUTHENTICATE PLAIN " + plain(b"ana", b"secret") + b"\r\n",
        b"a AUTHENTICATE plain\r\n" + plain(b"ana", b"secret", b"ana") + b"\r\n",
    ],
)
def test_a_login_in_every_form_is_the_same_login(data: bytes) -> None:
    """LOGIN with atoms, quotes and literals, AUTHENTICATE with and without an initial response."""
    assert asked(ImapLogin(offer()), data) == ("ana", b"secret", "PLAIN")


def test_authenticate_login_asks_for_name_and_password() -> None:
    """The old LOGIN mechanism: two challenges."""
    core = ImapLogin(offer())
    assert said(drive(core, b"a AUTHENTICATE LOGIN\r\n")) == "+ VXNlcm5hbWU6\r\n"
    assert said(drive(core, b64encode(b"ana") + b"\r\n")) == "+ UGFzc3dvcmQ6\r\n"
    assert asked(core, b64encode(b"secret") + b"\r\n") == ("ana", b"secret", "LOGIN")


def test_quotes_and_bytes_outside_ascii_are_decoded() -> None:
    """Backslashes are taken away once; a password may be any bytes but NUL."""
    name, password, _ = asked(ImapLogin(offer()), 'a LOGIN "mü\\"ller" {4+}\r\n'.encode() + b"\xff\xfe{1\r\n")
    assert (name, password) == ('mü"ller', b"\xff\xfe{1")


def test_bearer_tokens_pass_as_they_are_where_they_are_offered() -> None:
    """The name is read from the response; the response itself is the secret."""
    core = ImapLogin(offer(mechanisms=("PLAIN", "XOAUTH2", "OAUTHBEARER")))
    xoauth2 = b"user=ana@example.edu\x01auth=Bearer abc\x01\x01"
    assert asked(core, b"a AUTHENTICATE XOAUTH2 " + b64encode(xoauth2) + b"\r\n") == (
        "ana@example.edu", xoauth2, "XOAUTH2",
    )  # fmt: skip
    core.refuse(Refusal.FAILED)
    bearer = b"n,a=ana=2Cb@example.edu,\x01auth=Bearer abc\x01\x01"
    assert asked(core, b"b AUTHENTICATE OAUTHBEARER " + b64encode(bearer) + b"\r\n")[0] == "ana,b@example.edu"
    assert "[CANNOT]" in said(drive(ImapLogin(offer()), b"a AUTHENTICATE XOAUTH2 eA==\r\n"))


def test_without_tls_a_password_is_refused_before_it_is_sent() -> None:
    """LOGINDISABLED is offered, a literal is not allowed, nothing asks the directory."""
    core = ImapLogin(offer(passwords=False, starttls=True))
    assert b"LOGINDISABLED" in core.greeting()
    assert b"AUTH=" not in core.greeting()
    for line in (b"a LOGIN ana secret\r\n", b"a LOGIN ana {6}\r\n", b"a AUTHENTICATE PLAIN\r\n"):
        assert said(drive(core, line)).startswith("a NO [PRIVACYREQUIRED]")


def test_only_what_was_offered_is_named() -> None:
    """Extras of the nodes are named before the login only if they are given."""
    assert b"LITERAL+" not in ImapLogin(offer()).greeting()
    assert b" IDLE " in ImapLogin(offer(extras=("IDLE",))).greeting()


def test_what_follows_a_login_belongs_to_the_node() -> None:
    """Pipelined commands are not read, and come out behind the answer."""
    core = ImapLogin(offer())
    drive(core, b"a LOGIN ana secret\r\nb SELECT INBOX\r\nc ")
    core.receive(b"NOOP\r\n")
    assert core.next_event() is None
    assert core.accept("IMAP4rev1 IDLE") == b"a OK [CAPABILITY IMAP4rev1 IDLE] logged in\r\n"
    assert core.leftover == b"b SELECT INBOX\r\nc NOOP\r\n"


def test_after_a_refusal_the_dialogue_goes_on() -> None:
    """The pipelined command is served, and the next login may be right."""
    core = ImapLogin(offer())
    drive(core, b"a LOGIN ana wrong\r\nb NOOP\r\n")
    assert core.refuse(Refusal.FAILED).startswith(b"a NO [AUTHENTICATIONFAILED]")
    assert said(drive(core, b"")) == "b OK done\r\n"
    assert asked(core, b"c LOGIN ana secret\r\n")[1] == b"secret"


@pytest.mark.parametrize(
    ("why", "code"),
    [
        (Refusal.FAILED, b"[AUTHENTICATIONFAILED]"),
        (Refusal.UNAVAILABLE, b"[UNAVAILABLE]"),
        (Refusal.DISABLED, b"[CONTACTADMIN]"),
        (Refusal.TOO_MANY, b"[LIMIT]"),
    ],
)
def test_each_refusal_has_its_response_code(why: Refusal, code: bytes) -> None:
    """Only a wrong password is called one: another code would make clients ask for the password again."""
    core = ImapLogin(offer())
    drive(core, b"a LOGIN ana secret\r\n")
    assert core.refuse(why).startswith(b"a NO " + code)


def test_farewells_are_bye() -> None:
    """Whatever ends the dialogue from our side."""
    assert all(ImapLogin(offer()).farewell(why).startswith(b"* BYE ") for why in Farewell)


def test_id_is_answered_and_kept_without_what_a_node_would_believe() -> None:
    """Fields that begin with x- are dropped, whatever their case; NIL values too."""
    core = ImapLogin(offer())
    fields = b'("name" "Thunderbird" "x-originating-ip" "10.0.0.1" "X-Session-ID" "1" "os" NIL "version" "1\\"2")'
    assert said(drive(core, b"a ID " + fields + b"\r\n")).endswith("a OK done\r\n")
    assert core.about == (("name", "Thunderbird"), ("version", '1"2'))
    assert said(drive(core, b"b ID NIL\r\n")).endswith("b OK done\r\n")
    assert not core.about


def test_starttls_with_a_byte_behind_it_ends_the_dialogue() -> None:
    """Somebody may have put a command in front of the client's TLS."""
    core = ImapLogin(offer(starttls=True))
    assert drive(core, b"a STARTTLS\r\n") == [StartTls(b"a OK begin TLS\r\n")]
    for residue in (b"b LOGIN eve x\r\n", b"b"):
        (event,) = drive(ImapLogin(offer(starttls=True)), b"a STARTTLS\r\n" + residue)
        assert isinstance(event, Closing)
        assert event.reason == "tls_residue"


def test_starttls_twice_or_unoffered_is_bad() -> None:
    """The dialogue goes on."""
    assert said(drive(ImapLogin(offer()), b"a STARTTLS\r\nb NOOP\r\n")).splitlines()[1] == "b OK done"


def test_logout_says_goodbye() -> None:
    """BYE, then OK, then the end."""
    (event,) = drive(ImapLogin(offer()), b"z LOGOUT\r\n")
    assert event == Closing(b"* BYE logging out\r\nz OK done\r\n", "logout")


# Hostile input: each has a clear answer, and nothing grows.


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"a" * 9000, "line_length", "* BYE the line is too long"),
        (b"a LOGIN " + b"x" * 8200 + b"\r\n", "line_length", "* BYE"),
        (b"a AUTHENTICATE PLAIN\r\n" + b"A" * 65536 + b"\r\n", "line_length", "* BYE"),
        (b"a LOGIN ana {9000+}\r\n" + b"x" * 9000, "literal_size", "* BYE [TOOBIG]"),
        (b"a LOGIN {8000+}\r\n" + b"x" * 8000 + b" {8000+}\r\n", "literal_size", "* BYE [TOOBIG]"),
        (b"a LOGIN ((((( {5+}\r\nhello\r\n", "syntax", "* BYE"),
        (b"a SELECT {9+}\r\nb NOOP\r\n", "syntax", "* BYE"),
    ],
    ids=[
        "no end",
        "long line",
        "64 KiB of base64",
        "literal bomb",
        "two literals",
        "literal behind a mistake",
        "other",
    ],
)
def test_what_cannot_be_bounded_ends_the_dialogue(data: bytes, reason: str, words: str) -> None:
    """A line without end, a literal that comes whatever we say."""
    events = drive(ImapLogin(offer()), data)
    assert isinstance(events[-1], Closing)
    assert events[-1].reason == reason
    assert words in said(events)


@pytest.mark.parametrize(
    "line",
    [
        b"a LOGIN " + b"(" * 4000,
        b"a LOGIN (ana secret)",
        b"a LOGIN ana",
        b"a LOGIN ana secret more",
        b'a LOGIN "ana secret',
        b'a LOGIN "ana""secret"',
        b"a LOGIN ana\0 secret",
        b'a LOGIN ana "sec\rret"',
        b"a LOGIN  ana secret",
        b"a LOGIN an\xc3\xa4 secret",
        b"a LOGIN {3}x ana",
        b"a AUTHENTICATE",
        b"a AUTHENTICATE PLAIN ====",
        b"a AUTHENTICATE PLAIN " + b64encode(b"ana\0secret"),
        b"a AUTHENTICATE PLAIN " + b64encode(b"\0an\na\0secret"),
        b"a AUTHENTICATE PLAIN " + b64encode(b"\0\0secret"),
        b"a ID (" + b'"a" "b" ' * 40 + b")",
        b'a ID ("a")',
        b"a SELECT INBOX",
        b"a STARTTLS now",
    ],
)
def test_a_malformed_command_is_bad_and_the_dialogue_goes_on(line: bytes) -> None:
    """BAD with the command's tag; the next command is served."""
    events = drive(ImapLogin(offer(starttls=True)), line + b"\r\nb NOOP\r\n")
    first, second = said(events).splitlines()
    assert first.startswith("a BAD ")
    assert second == "b OK done"


def test_a_nul_in_a_literal_is_bad() -> None:
    """It could end a name early for somebody."""
    core = ImapLogin(offer())
    assert said(drive(core, b"a LOGIN {4+}\r\nan\0a secret\r\n")).startswith("a BAD")


def test_a_synchronising_literal_that_is_too_large_is_not_allowed() -> None:
    """The client is not asked to send it; the next command is served."""
    events = drive(ImapLogin(offer()), b"a LOGIN ana {9000}\r\nb NOOP\r\n")
    assert said(events).splitlines()[0].startswith("a BAD")
    assert said(events).splitlines()[1] == "b OK done"


def test_bad_commands_are_counted() -> None:
    """After the allowed number the dialogue ends."""
    events = drive(ImapLogin(offer(bad_commands=3)), b"\r\n" * 10)
    assert [type(event) for event in events] == [ToClient, ToClient, ToClient, Closing]


def test_a_client_may_give_up_an_authentication() -> None:
    """`*` cancels."""
    events = drive(ImapLogin(offer()), b"a AUTHENTICATE PLAIN\r\n*\r\nb NOOP\r\n")
    assert said(events).splitlines()[1:] == ["a BAD the client gave up", "b OK done"]
