"""The IMAP dialogue with a node until it has logged somebody in: what is sent, what is believed."""

from base64 import b64decode

import pytest

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.secret import Secret
from mailfront.protocol.imap_node_login import ImapNodeLogin
from mailfront.protocol.login_dialogue import (
    ClientIdentity,
    LoggedIn,
    NodeCredentials,
    NodeEvent,
    Rejected,
    StartTls,
    ToNode,
    TryLater,
)

GREETING = b"* OK [CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN] node ready\r\n"


def core(*, starttls: bool = False, about: tuple[tuple[str, str], ...] = (), **credentials: object) -> ImapNodeLogin:
    """A login as ana from 192.0.2.7."""
    given = {"user": "ana", "secret": Secret(b"secret"), **credentials}
    client = ClientIdentity(
        ip="192.0.2.7", port=4711, local_ip="192.0.2.1", local_port=143, session="s1", encrypted=True, about=about
    )
    return ImapNodeLogin(NodeCredentials(**given), client, starttls)  # type: ignore[arg-type]


def drive(dialogue: ImapNodeLogin, data: bytes) -> list[NodeEvent]:
    """Give bytes to the core and take all events."""
    dialogue.receive(data)
    events = []
    while (event := dialogue.next_event()) is not None:
        events.append(event)
    return events


def sent(events: list[NodeEvent]) -> bytes:
    """All that goes to the node."""
    return b"".join(event.data for event in events if isinstance(event, ToNode))


def test_who_the_client_is_and_the_login_go_out_together() -> None:
    """ID in the fields that Dovecot reads, then AUTHENTICATE PLAIN with an initial response."""
    told = sent(drive(core(about=(("name", 'a"b'),)), GREETING))
    first, second, _ = told.split(b"\r\n")
    assert first.startswith(b'i ID ("name" "a\\"b" "x-originating-ip" "192.0.2.7" "x-originating-port" "4711"')
    assert b64decode(second.removeprefix(b"l AUTHENTICATE PLAIN ")) == b"\0ana\0secret"


def test_the_master_user_logs_in_for_somebody() -> None:
    """By the SASL authorization identity, never by a name put together."""
    told = sent(drive(core(user="master", authorize="ana"), GREETING))
    assert b64decode(told.split(b"PLAIN ")[1]) == b"ana\0master\0secret"


def test_without_auth_plain_login_is_used() -> None:
    """Quoted, or as a literal where quotes cannot hold it."""
    dialogue = core(secret=Secret(b"p\xfe"))
    assert sent(drive(dialogue, b"* OK [CAPABILITY IMAP4rev1] x\r\n")) == b'l LOGIN "ana" {2}\r\n'
    assert sent(drive(dialogue, b"+ ok\r\n")) == b"p\xfe\r\n"
    assert drive(dialogue, b"l OK in\r\n") == [LoggedIn("", b"")]


def test_without_sasl_ir_the_response_waits() -> None:
    """Until the node asks for it."""
    dialogue = core()
    assert sent(drive(dialogue, b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] x\r\n")) == b"l AUTHENTICATE PLAIN\r\n"
    assert b64decode(sent(drive(dialogue, b"+ \r\n"))) == b"\0ana\0secret"


def test_capabilities_are_asked_for_where_the_greeting_has_none() -> None:
    """Then the login follows."""
    dialogue = core()
    assert sent(drive(dialogue, b"* OK hello\r\n")) == b"c CAPABILITY\r\n"
    assert b"AUTHENTICATE PLAIN" in sent(drive(dialogue, b"* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\nc OK\r\n"))


def test_capabilities_after_the_login_are_the_sessions() -> None:
    """Those of the answer, or of an untagged response; not what only made sense before. The rest is the client's."""
    dialogue = core()
    drive(dialogue, GREETING)
    (event,) = drive(
        dialogue,
        b"* ID NIL\r\ni OK\r\nl OK [CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=PLAIN SASL-IR Idle] in\r\n* 3 EXISTS\r\n",
    )
    assert event == LoggedIn("IMAP4rev1 Idle", b"* 3 EXISTS\r\n")
    dialogue = core()
    drive(dialogue, GREETING)
    assert drive(dialogue, b"* CAPABILITY IMAP4rev1 MOVE\r\ni BAD no\r\nl OK in\r\n") == [
        LoggedIn("IMAP4rev1 MOVE", b"")
    ]


def test_tls_comes_first_and_what_was_said_before_is_forgotten() -> None:
    """STARTTLS, handshake, CAPABILITY, login."""
    dialogue = core(starttls=True)
    assert sent(drive(dialogue, GREETING)) == b"s STARTTLS\r\n"
    assert drive(dialogue, b"s OK go\r\n") == [StartTls()]
    dialogue.tls_started()
    assert sent(drive(dialogue, b"")) == b"c CAPABILITY\r\n"
    assert dialogue.capabilities == frozenset()


def test_a_node_that_refuses_tls_gets_no_password() -> None:
    """The login ends there."""
    dialogue = core(starttls=True)
    drive(dialogue, GREETING)
    (event,) = drive(dialogue, b"s NO not today\r\n")
    assert isinstance(event, TryLater)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"l NO [AUTHENTICATIONFAILED] no\r\n", Rejected),
        (b"l NO no\r\n", Rejected),
        (b"l NO [UNAVAILABLE] busy\r\n", TryLater),
        (b"l NO [INUSE] busy\r\n", TryLater),
        (b"l NO [LIMIT] too many\r\n", TryLater),
        (b"l NO [PRIVACYREQUIRED] tls\r\n", TryLater),
        (b"l BAD what\r\n", TryLater),
        (b"* BYE too many\r\n", TryLater),
    ],
)
def test_only_the_nodes_word_about_the_password_is_a_rejection(answer: bytes, expected: type) -> None:
    """Everything else is its trouble or ours."""
    dialogue = core()
    drive(dialogue, GREETING)
    (event,) = drive(dialogue, answer)
    assert isinstance(event, expected)


def test_a_refused_token_is_asked_about_once() -> None:
    """The node explains in a challenge; the empty answer brings its refusal."""
    dialogue = core(mechanism="XOAUTH2", secret=Secret(b"token"))
    assert b"l AUTHENTICATE XOAUTH2 dG9rZW4=" in sent(drive(dialogue, GREETING))
    assert sent(drive(dialogue, b"+ eyJzdGF0dXMiOiI0MDAifQ==\r\n")) == b"\r\n"
    assert isinstance(drive(dialogue, b"l NO [AUTHENTICATIONFAILED] bad token\r\n")[0], Rejected)


@pytest.mark.parametrize(
    "answer",
    [
        b"x OK another tag\r\n",
        b"* PREAUTH welcome\r\n",
        b"l NO [REFERRAL imap://eve@evil.example/] there\r\n",
        b"l OK [REFERRAL imap://eve@evil.example/] there\r\n",
        b"+ more\r\n",
        b"s OK tls\r\n",
        b"l WHAT\r\n",
        b"y" * 9000,
        b"* OK x\r\n" * 20000,
        b"* X {60000}\r\n" + b"z" * 60000 + b"\r\n* X {60000}\r\n" + b"z" * 60000,
    ],
    ids=["tag", "preauth", "referral", "ok referral", "+", "starttls", "no status", "long", "endless", "literals"],
)
def test_what_a_node_must_not_say_ends_the_dialogue(answer: bytes) -> None:
    """Nothing is logged in, nothing is sent on."""
    dialogue = core()
    drive(dialogue, GREETING)
    with pytest.raises(RemoteProtocolError):
        drive(dialogue, answer)


@pytest.mark.parametrize("greeting", [b"* PREAUTH hello\r\n", b"+OK POP3\r\n", b"* NO go away\r\n", b"220 smtp\r\n"])
def test_a_greeting_that_cannot_be_used_ends_the_dialogue(greeting: bytes) -> None:
    """PREAUTH above all: whose mailbox would that be?"""
    with pytest.raises(RemoteProtocolError):
        drive(core(), greeting)


@pytest.mark.parametrize("moment", ["with the answer", "before the handshake"])
def test_bytes_between_starttls_and_the_handshake_end_the_dialogue(moment: str) -> None:
    """Somebody in between could answer in the node's name."""
    dialogue = core(starttls=True)
    drive(dialogue, GREETING)
    answer, early = b"s OK go\r\n", b"* CAPABILITY IMAP4rev1\r\n"
    if moment == "before the handshake":
        drive(dialogue, answer)
        answer = b""
    with pytest.raises(RemoteProtocolError):
        drive(dialogue, answer + early)


def test_a_node_without_plain_serves_no_master_user() -> None:
    """The name is never put together as user*master."""
    (event,) = drive(core(user="master", authorize="ana"), b"* OK [CAPABILITY IMAP4rev1] x\r\n")
    assert isinstance(event, TryLater)
    (event,) = drive(core(), b"* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] x\r\n")
    assert isinstance(event, TryLater)
