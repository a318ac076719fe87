"""ManageSieve towards a client, before its login."""

from base64 import b64encode

import pytest

from mailfront.base.secret import Secret
from mailfront.protocol.login_dialogue import Closing, Farewell, LoginAsked, Offer, Refusal, StartTls, ToClient
from mailfront.protocol.sieve_login import SieveLogin

IN_CLEAR = Offer(hostname="mx1.example.edu", starttls=True, passwords=False, extras=("fileinto", "vacation"))
PRIVATE = Offer(hostname="mx1.example.edu", starttls=False, passwords=True)
ANA = b64encode(b"\0ana\0secret")
ASKED = LoginAsked(name="ana", secret=Secret(b"secret"))


def say(core: SieveLogin, data: bytes) -> list[object]:
    core.receive(data)
    return list(iter(core.next_event, None))


def test_capabilities_name_what_may_be_done_now() -> None:
    """Before TLS no mechanism is offered, after it no STARTTLS; the extensions are those of the nodes."""
    before, after = SieveLogin(IN_CLEAR).greeting(), SieveLogin(PRIVATE).greeting_after_tls()
    assert b'"SASL" ""\r\n"SIEVE" "fileinto vacation"\r\n"STARTTLS"\r\n' in before
    assert b'"SASL" "PLAIN LOGIN"\r\n' in after
    assert b"STARTTLS" not in after
    assert before.endswith(b'OK "ready"\r\n')
    assert say(SieveLogin(PRIVATE), b"capability\r\n") == [ToClient(after)]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b'AUTHENTICATE "PLAIN" "%b"\r\n' % ANA, ASKED),
        (b'authenticate "plain" {%d+}\r\n%b\r\n' % (len(ANA), ANA), ASKED),
        (b'AUTHENTICATE {5+}\r\nPLAIN "%b"\r\n' % ANA, ASKED),
        (b'AUTHENTICATE "PLAIN"\r\n"%b"\r\n' % ANA, ASKED),
        (b'AUTHENTICATE "PLAIN"\r\n{%d+}\r\n%b\r\n' % (len(ANA), ANA), ASKED),
        (
            b'AUTHENTICATE "LOGIN"\r\n"%b"\r\n"%b"\r\n' % (b64encode(b"ana"), b64encode(b"secret")),
            LoginAsked(name="ana", secret=Secret(b"secret"), mechanism="LOGIN"),
        ),
    ],
)
def test_every_way_to_log_in_is_understood(data: bytes, wanted: LoginAsked) -> None:
    """PLAIN and LOGIN, with and without initial response, in quotes or as literals."""
    assert say(SieveLogin(PRIVATE), data)[-1] == wanted


def test_a_password_in_clear_is_refused_before_it_is_asked_for() -> None:
    """Without TLS the client hears that it needs encryption."""
    (answer,) = say(SieveLogin(IN_CLEAR), b'AUTHENTICATE "PLAIN"\r\n')
    assert isinstance(answer, ToClient)
    assert answer.data.startswith(b"NO (ENCRYPT-NEEDED) ")


def test_what_follows_a_login_waits_for_its_answer() -> None:
    """Pipelined commands are served after a refusal and belong to the node after acceptance."""
    core = SieveLogin(PRIVATE)
    line = b'AUTHENTICATE "PLAIN" "%b"\r\n' % ANA
    assert say(core, line + line + b"LISTSCRIPTS\r\n") == [ASKED]
    assert core.refuse(Refusal.FAILED).startswith(b'NO "')
    assert say(core, b"") == [ASKED]
    assert core.accept("").startswith(b"OK ")
    assert core.leftover == b"LISTSCRIPTS\r\n"
    assert say(core, b"LOGOUT\r\n") == []


@pytest.mark.parametrize("why", [Refusal.UNAVAILABLE, Refusal.IN_USE, Refusal.TOO_MANY])
def test_our_trouble_is_trylater(why: Refusal) -> None:
    """Nothing but a wrong password sounds like one."""
    core = SieveLogin(PRIVATE)
    say(core, b'AUTHENTICATE "PLAIN" "%b"\r\n' % ANA)
    assert core.refuse(why).startswith(b"NO (TRYLATER) ")


def test_a_byte_behind_starttls_ends_the_connection() -> None:
    """What was sent in clear behind STARTTLS is never read as if it had come through TLS."""
    assert say(SieveLogin(IN_CLEAR), b"STARTTLS\r\n") == [StartTls(b'OK "Begin TLS."\r\n')]
    (closing,) = say(SieveLogin(IN_CLEAR), b"STARTTLS\r\nNOOP\r\n")
    assert isinstance(closing, Closing)
    assert closing.reason == "tls_residue"


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 9000,
        b'AUTHENTICATE "PLAIN" {90000+}\r\n',
        b'AUTHENTICATE "PLAIN" {9999999999+}\r\n',
        b'AUTHENTICATE "PLAIN" {10}\r\n',
        b'AUTHENTICATE "PLAIN"\r\n"' + b"QUFB" * 16384 + b'"\r\n',
        b'NOOP "a' + b"\0" + b'"\r\n',
        b'NOOP "open\r\n',
        b"{4096+}\r\n" + b"a" * 4096 + b"{4096+}\r\n" + b"a" * 4096 + b"\r\n",
        b"x " * 100 + b"\r\n",
    ],
)
def test_what_has_no_end_or_cannot_be_read_ends_the_connection(data: bytes) -> None:
    """Endless lines, literal bombs, synchronising literals, NUL, open quotes, many literals in one command."""
    closing = say(SieveLogin(PRIVATE), data)[-1]
    assert isinstance(closing, Closing)
    assert closing.reason == "syntax"
    assert closing.data.startswith(b"BYE ")


def test_four_thousand_parentheses_are_refused() -> None:
    """Nothing is nested here: a line has at most 64 words, and a parenthesis is one."""
    (closing,) = say(SieveLogin(PRIVATE), b"NOOP " + b"(" * 4000 + b"\r\n")
    assert isinstance(closing, Closing)


def test_bad_commands_are_counted() -> None:
    """Ten commands that nobody knows end the connection, each answered."""
    events = say(SieveLogin(PRIVATE), b"LISTSCRIPTS\r\n\r\n" * 10)
    assert len(events) == 10
    assert isinstance(events[-1], Closing)


def test_noop_echoes_its_tag() -> None:
    """NOOP with a string gives it back (RFC 5804 section 2.13)."""
    assert say(SieveLogin(PRIVATE), b'NOOP "STARTTLS-SYNC-42"\r\n') == [
        ToClient(b'OK (TAG "STARTTLS-SYNC-42") "Done."\r\n')
    ]


def test_logout_and_farewells() -> None:
    """LOGOUT is answered; a client that is sent away hears BYE."""
    core = SieveLogin(PRIVATE)
    assert all(core.farewell(why).startswith(b"BYE ") for why in Farewell)
    assert say(core, b"logout\r\n") == [Closing(b'OK "Bye."\r\n', "logout")]
