"""POP3 towards a client, before its login."""

from base64 import b64encode

import pytest

from mailfront.base.secret import Secret
from mailfront.protocol.login_dialogue import Closing, Farewell, LoginAsked, Offer, Refusal, StartTls, ToClient
from mailfront.protocol.pop3_login import ASKED_FOR_UTF8, Pop3Login

IN_CLEAR = Offer(hostname="mx1.example.edu", starttls=True, passwords=False)
PRIVATE = Offer(hostname="mx1.example.edu", starttls=False, passwords=True)
BEARER = Offer(hostname="mx1.example.edu", starttls=False, passwords=True, mechanisms=("PLAIN", "XOAUTH2"))
UTF8 = Offer(hostname="mx1.example.edu", starttls=False, passwords=True, extras=("UTF8",))


def say(core: Pop3Login, data: bytes) -> list[object]:
    core.receive(data)
    return list(iter(core.next_event, None))


def plain(*parts: bytes) -> bytes:
    return b64encode(b"\0".join(parts))


def test_capabilities_name_what_may_be_done_now() -> None:
    """Before TLS only STLS is offered; afterwards passwords, and no STLS."""
    (before,) = say(Pop3Login(IN_CLEAR), b"capa\r\n")
    (after,) = say(Pop3Login(PRIVATE), b"CAPA\r\n")
    assert isinstance(before, ToClient)
    assert isinstance(after, ToClient)
    assert before.data.endswith(b"\r\nSTLS\r\n.\r\n")
    assert b"SASL" not in before.data
    assert b"USER\r\nSASL PLAIN LOGIN\r\n.\r\n" in after.data
    assert b"STLS" not in after.data


@pytest.mark.parametrize(
    "data", [b"USER ana\r\n", b"AUTH PLAIN\r\n", b"AUTH PLAIN " + plain(b"", b"ana", b"x") + b"\r\n"]
)
def test_a_password_in_clear_is_refused_before_it_is_asked_for(data: bytes) -> None:
    """A name or AUTH without TLS is refused at once, so that a careful client sends no password."""
    (answer,) = say(Pop3Login(IN_CLEAR), data)
    assert answer == ToClient(b"-ERR a password is taken here only after STLS\r\n")


ASKED = LoginAsked(name="ana", secret=Secret(b"se cret"))


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"USER ana\r\nPASS se cret\r\n", ASKED),
        (b"AUTH PLAIN " + plain(b"", b"ana", b"se cret") + b"\r\n", ASKED),
        (b"auth plain\r\n" + plain(b"ana", b"ana", b"se cret") + b"\r\n", ASKED),
        (b"AUTH PLAIN =\r\n", None),
        (
            b"AUTH LOGIN\r\n" + b64encode(b"ana") + b"\r\n" + b64encode(b"se cret") + b"\r\n",
            LoginAsked(name="ana", secret=Secret(b"se cret"), mechanism="LOGIN"),
        ),
        (
            b"AUTH PLAIN " + plain(b"boss", b"ana", b"p") + b"\r\n",
            LoginAsked(name="ana", secret=Secret(b"p"), authorize="boss"),
        ),
    ],
)  # fmt: skip
def test_every_way_to_log_in_is_understood(data: bytes, wanted: LoginAsked | None) -> None:
    """USER and PASS, PLAIN and LOGIN with and without initial response, an authorization identity."""
    asked = [event for event in say(Pop3Login(PRIVATE), data) if isinstance(event, LoginAsked)]
    assert asked == ([] if wanted is None else [wanted])


def test_a_bearer_token_goes_on_as_it_is() -> None:
    """XOAUTH2 is taken where it is offered; the secret is the client's whole response."""
    response = b"user=ana@example.edu\x01auth=Bearer abc\x01\x01"
    asked = LoginAsked(name="ana@example.edu", secret=Secret(response), mechanism="XOAUTH2")
    assert say(Pop3Login(BEARER), b"AUTH XOAUTH2 " + b64encode(response) + b"\r\n") == [asked]
    (refused,) = say(Pop3Login(PRIVATE), b"AUTH XOAUTH2 " + b64encode(response) + b"\r\n")
    assert refused == ToClient(b"-ERR this mechanism is not offered\r\n")


def test_what_follows_a_login_waits_for_its_answer() -> None:
    """Pipelined commands are served after a refusal and belong to the node after acceptance."""
    core = Pop3Login(PRIVATE)
    assert len(say(core, b"USER a\r\nPASS b\r\nUSER c\r\nPASS d\r\nSTAT\r\n")) == 2
    assert core.refuse(Refusal.FAILED).startswith(b"-ERR [AUTH] ")
    assert len(say(core, b"")) == 2
    assert core.accept("").startswith(b"+OK")
    assert core.leftover == b"STAT\r\n"
    assert say(core, b"QUIT\r\n") == []


@pytest.mark.parametrize(
    ("why", "code"),
    [
        (Refusal.FAILED, b"[AUTH]"),
        (Refusal.DISABLED, b"[SYS/PERM]"),
        (Refusal.IN_USE, b"[IN-USE]"),
        (Refusal.UNAVAILABLE, b"[SYS/TEMP]"),
        (Refusal.TOO_MANY, b"[SYS/TEMP]"),
    ],
)
def test_reasons_of_a_refusal_are_kept_apart(why: Refusal, code: bytes) -> None:
    """Only a wrong password is [AUTH]: everything else must not make a client ask for a new one."""
    core = Pop3Login(PRIVATE)
    say(core, b"USER a\r\nPASS b\r\n")
    assert core.refuse(why).startswith(b"-ERR " + code + b" ")


def test_a_byte_behind_stls_ends_the_connection() -> None:
    """What was sent in clear behind STLS is never read as if it had come through TLS."""
    assert say(Pop3Login(IN_CLEAR), b"STLS\r\n") == [StartTls(b"+OK begin TLS\r\n")]
    (closing,) = say(Pop3Login(IN_CLEAR), b"STLS\r\nUSER ana\r\n")
    assert isinstance(closing, Closing)
    assert closing.reason == "tls_residue"


@pytest.mark.parametrize(
    "data",
    [
        b"USER " + b"x" * 9000 + b"\r\n",
        b"x" * 9000,
        b"AUTH PLAIN " + b"QUFB" * 16384 + b"\r\n",
        b"AUTH PLAIN\r\n" + b"QUFB" * 16384,
    ],
)
def test_an_endless_line_ends_the_connection(data: bytes) -> None:
    """A line over 8 KiB, with or without an end, command or SASL response, is not kept but refused."""
    assert say(Pop3Login(PRIVATE), data)[-1] == Closing(b"-ERR line too long\r\n", "line_length")


def test_bad_commands_are_counted() -> None:
    """Ten commands that nobody knows end the connection, each answered."""
    events = say(Pop3Login(PRIVATE), b"STAT\r\n\0\r\nNOOP\r\n" * 10)
    assert len(events) == 10
    assert events[-1] == Closing(b"-ERR too many bad commands\r\n", "bad_commands")


@pytest.mark.parametrize(
    "data",
    [
        b"USER \xff\r\nPASS x\r\n",
        b"USER a\0b\r\nPASS x\r\n",
        b"USER " + b"(" * 4000 + b"\r\nPASS x\r\n",
        b"USER ana\r\nPASS a\0b\r\n",
        b"AUTH PLAIN " + plain(b"", b"ana", b"x", b"y") + b"\r\n",
        b"AUTH PLAIN " + plain(b"", b"ana\r\nRCPT", b"x") + b"\r\n",
        b"AUTH PLAIN !!!\r\n",
        b"AUTH PLAIN\r\n*\r\n",
    ],
)
def test_names_and_responses_that_cannot_be_read_are_refused(data: bytes) -> None:
    """NUL, broken UTF-8, line ends inside a name, no base64, a cancelled exchange: -ERR, and no login is asked for."""
    events = say(Pop3Login(PRIVATE), data)
    assert isinstance(events[-1], ToClient)
    assert events[-1].data.startswith(b"-ERR ")


def test_utf8_is_offered_only_if_the_nodes_can() -> None:
    """UTF8 is refused where nodes lack it; where they have it, the node is told that the client asked."""
    without, with_it = Pop3Login(PRIVATE), Pop3Login(UTF8)
    (no,) = say(without, b"UTF8\r\n")
    (yes,) = say(with_it, b"UTF8\r\n")
    assert isinstance(no, ToClient)
    assert isinstance(yes, ToClient)
    assert (no.data[:4], yes.data[:3]) == (b"-ERR", b"+OK")
    assert (without.about, with_it.about) == ((), (ASKED_FOR_UTF8,))


def test_quit_and_farewells() -> None:
    """QUIT is answered; a client that is sent away hears a POP3 answer."""
    core = Pop3Login(PRIVATE)
    assert all(core.farewell(why).startswith(b"-ERR [") for why in Farewell)
    assert say(core, b"quit\r\n") == [Closing(b"+OK bye\r\n", "logout")]
