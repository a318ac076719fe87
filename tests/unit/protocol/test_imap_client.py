"""The IMAP client core: what it sends, what it understands, and what it refuses."""

from base64 import b64decode
from collections.abc import Callable
from datetime import date

import pytest

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.base.secret import Secret
from mailfront.protocol.imap_client import MAX_LINE_BYTES, ImapClient
from mailfront.protocol.imap_events import (
    BodyEnd,
    BodyPiece,
    BodyStart,
    Bye,
    Completed,
    Event,
    Folder,
    Greeting,
    SearchResult,
    Send,
)
from mailfront.protocol.imap_text import Status

SECRET = Secret(b"pass word")


def told(core: ImapClient, data: bytes) -> list[Event]:
    core.receive(data)
    events = []
    while (event := core.next_event()) is not None:
        events.append(event)
    return events


def ready(capabilities: str = "IMAP4rev1 UIDPLUS AUTH=PLAIN SASL-IR") -> ImapClient:
    core = ImapClient()
    told(core, f"* OK [CAPABILITY {capabilities}] ready\r\n".encode())
    return core


def test_greeting_teaches_capabilities() -> None:
    """The greeting is an event, its response code the first capabilities."""
    core = ImapClient()
    assert told(core, b"* OK [CAPABILITY IMAP4rev1 uidplus] hello\r\n") == [Greeting("hello")]
    assert core.capabilities == {"IMAP4REV1", "UIDPLUS"}


def test_long_capability_list_is_kept_whole() -> None:
    """A list of some hundred bytes, as Dovecot sends it after login, is not cut."""
    names = " ".join(f"X-CAPABILITY-{number}" for number in range(100))
    core = ready(names + " UIDPLUS")
    assert "UIDPLUS" in core.capabilities
    assert len(core.capabilities) == 101


@pytest.mark.parametrize(
    "line",
    [
        b"* PREAUTH you are in\r\n",
        b"* NO\r\n",
        b"220 smtp.example.edu ESMTP\r\n",
        b"+OK POP3\r\n",
        b"\r\n",
        b"a1 OK\r\n",
        b"* OK" + b"x" * MAX_LINE_BYTES,
    ],
)
def test_wrong_greeting_ends_it(line: bytes) -> None:
    """PREAUTH, another protocol, or a line without end: the connection is not used."""
    with pytest.raises(RemoteProtocolError):
        told(ImapClient(), line)


def test_node_that_is_full_says_bye() -> None:
    """A BYE instead of a greeting is an event with its text."""
    assert told(ImapClient(), b"* BYE [UNAVAILABLE] too many\r\n") == [Bye("UNAVAILABLE", "too many")]


def test_login_in_quotes() -> None:
    """Quotes and backslashes are escaped."""
    assert ready().login('a"b\\c', SECRET) == b'm1 LOGIN "a\\"b\\\\c" "pass word"\r\n'


def test_login_as_literals() -> None:
    """What cannot be quoted travels as literals, each after the server's go-ahead; a line end stays data."""
    core = ready()
    first = core.login("anä", Secret(b"x\r\nm2 DELETE INBOX"))
    assert first == b"m1 LOGIN {4}\r\n"
    assert told(core, b"+ go\r\n") == [Send("anä".encode() + b" {18}\r\n")]
    assert told(core, b"+\r\n") == [Send(b"x\r\nm2 DELETE INBOX\r\n")]
    assert told(core, b"m1 OK in\r\n") == [Completed(Status.OK, "", "in")]


def test_refused_literal() -> None:
    """A server that says NO instead of go-ahead ends the command; what was to come is not sent."""
    core = ready()
    core.login("anä", SECRET)
    assert told(core, b"m1 NO [AUTHENTICATIONFAILED] no\r\n") == [Completed(Status.NO, "AUTHENTICATIONFAILED", "no")]
    assert core.select("INBOX") == b'm2 SELECT "INBOX"\r\n'


@pytest.mark.parametrize(
    "attempt",
    [
        lambda core: core.login("a\0b", SECRET),
        lambda core: core.login("a", Secret(b"\0")),
        lambda core: core.login("\ud800", SECRET),
        lambda core: core.login("a" * 9000, SECRET),
        lambda core: core.authenticate_plain("a\0b", "m", SECRET),
        lambda core: core.select("Entwürfe"),
        lambda core: core.search_header("X: y\r\nz", "v"),
        lambda core: core.search_header("Name", "ü"),
        lambda core: core.delete([]),
        lambda core: core.delete([0]),
        lambda core: core.tls_started(),
    ],
)
def test_what_cannot_be_sent(attempt: Callable[[ImapClient], object]) -> None:
    """A NUL, a name that breaks the syntax, an empty set: our mistake, and the connection is still good."""
    core = ready()
    with pytest.raises(LocalProtocolError):
        attempt(core)
    assert core.capability().endswith(b" CAPABILITY\r\n")


def test_one_command_at_a_time() -> None:
    """A second command, or one before the greeting, is our mistake."""
    core = ready()
    core.capability()
    with pytest.raises(LocalProtocolError):
        core.capability()
    with pytest.raises(LocalProtocolError):
        ImapClient().capability()


def test_plain_with_initial_response() -> None:
    """With SASL-IR the response goes along: act as ana, with the master's name and password."""
    sent = ready().authenticate_plain("ana", "master", SECRET)
    assert sent.startswith(b"m1 AUTHENTICATE PLAIN ")
    assert b64decode(sent.split()[-1]) == b"ana\0master\0pass word"


def test_plain_without_initial_response() -> None:
    """Without SASL-IR the response waits for the server's go-ahead."""
    core = ready("AUTH=PLAIN")
    assert core.authenticate_plain("", "ana", SECRET) == b"m1 AUTHENTICATE PLAIN\r\n"
    (event,) = told(core, b"+ \r\n")
    assert isinstance(event, Send)
    assert b64decode(event.data) == b"\0ana\0pass word"


def test_login_forgets_capabilities() -> None:
    """What was promised before the login is not believed after it, unless said again."""
    core = ready()
    core.login("a", SECRET)
    told(core, b"m1 OK in\r\n")
    assert core.capabilities == frozenset()
    core = ready()
    core.login("a", SECRET)
    told(core, b"m1 OK [CAPABILITY IMAP4rev1 MOVE] in\r\n")
    assert core.capabilities == {"IMAP4REV1", "MOVE"}


def test_starttls() -> None:
    """After OK comes TLS; nothing else may be sent before, and all that was learned is forgotten."""
    core = ready()
    assert core.starttls() == b"m1 STARTTLS\r\n"
    assert told(core, b"m1 OK begin\r\n") == [Completed(Status.OK, "", "begin")]
    with pytest.raises(LocalProtocolError):
        core.capability()
    core.tls_started()
    assert core.capabilities == frozenset()
    assert core.capability() == b"m2 CAPABILITY\r\n"


@pytest.mark.parametrize("pieces", [[b"m1 OK go\r\n* OK injected\r\n"], [b"m1 OK go\r\n", b"m"], [b"m1 OK go\r\n\n"]])
def test_starttls_residue(pieces: list[bytes]) -> None:
    """A byte behind the answer to STARTTLS ends the connection, in the same packet or the next."""
    core = ready()
    core.starttls()
    for piece in pieces[:-1]:
        told(core, piece)
    with pytest.raises(RemoteProtocolError, match="TLS"):
        told(core, pieces[-1])


def test_search() -> None:
    """Numbers come out, other news is passed over, an empty result is no result."""
    core = ready()
    assert core.search_header("Mailfront-Id", "abc") == b'm1 UID SEARCH HEADER Mailfront-Id "abc"\r\n'
    events = told(core, b"* 3 EXISTS\r\n* SEARCH 5 17 \r\n* SEARCH\r\n* search 9\r\nm1 OK done\r\n")
    assert events == [SearchResult((5, 17)), SearchResult((9,)), Completed(Status.OK, "", "done")]


def test_search_since_a_day() -> None:
    """Months are in English whatever the locale, and messages that are marked as deleted are found too."""
    sent = ready().search_header("Mailfront-Id", "abc", date(2026, 3, 7))
    assert sent == b'm1 UID SEARCH SINCE 7-Mar-2026 HEADER Mailfront-Id "abc"\r\n'
    assert ready().search_all() == b"m1 UID SEARCH ALL\r\n"


def test_folders() -> None:
    """Folders that can be selected come out as the server writes them; the others do not."""
    core = ready()
    assert core.list_folders() == b'm1 LIST "" "*"\r\n'
    events = told(
        core,
        b'* LIST (\\HasNoChildren) "." INBOX\r\n'
        b'* LIST (\\Noselect) "/" Parent\r\n'
        b'* LIST () "/" "a \\"b\\" {3}"\r\n'
        b"* LIST () NIL Entw&APw-rfe\r\n"
        b"* 3 EXISTS\r\n"
        b'* LIST () "/" {5}\r\nhello\r\n'
        b"m1 OK\r\n",
    )
    names = [event.name for event in events if isinstance(event, Folder)]
    assert names == ["INBOX", 'a "b" {3}', "Entw&APw-rfe"]
    assert events[-1] == Completed(Status.OK, "", "")


def test_search_result_may_be_long() -> None:
    """100,000 hits in one line are taken; other lines stay short."""
    core = ready()
    core.search_all()
    uids = tuple(range(1, 100_001))
    line = b"* SEARCH " + b" ".join(b"%d" % uid for uid in uids) + b"\r\n"
    assert told(core, line) == [SearchResult(uids)]
    with pytest.raises(RemoteProtocolError, match="longer"):
        told(core, b"* SEARCH " + b"1 " * 600_000)


def fetched(answer: bytes, *, limit_bytes: int = 1000) -> list[Event]:
    core = ready()
    assert core.fetch(7, limit_bytes) == b"m1 UID FETCH 7 (UID BODY.PEEK[])\r\n"
    return told(core, answer)


@pytest.mark.parametrize(
    "response",
    [
        b"* 1 FETCH (UID 7 BODY[] {5}\r\nhello)\r\n",
        b"* 1 FETCH (BODY[] {5}\r\nhello UID 7)\r\n",
        b"* 1 fetch (uid 7 body[] {5}\r\nhello FLAGS (\\Seen))\r\n",
        b'* 1 FETCH (UID 7 BODY[] "hello")\r\n',
        b"* 1 FETCH (FLAGS () UID 7 BODY[]<0> {5}\r\nhello)\r\n",
        b"* 4 FETCH (FLAGS (\\Seen))\r\n* 1 FETCH (UID 7 X {3}\r\nabc BODY[] {5}\r\nhello)\r\n",
        b"* 1 FETCH (BODY[] {5}\r\nhello X {3}\r\nabc UID 7)\r\n",
        b'* 1 FETCH (X "UID 9 BODY[] {9}" UID 7 BODY[] {5}\r\nhello)\r\n',
        b"* OK still here {5}\r\n* 1 FETCH (UID 7 BODY[] ~{5}\r\nhello)\r\n",
    ],
)
def test_fetch(response: bytes) -> None:
    """A message is found wherever the server puts it in its answer; other literals and news are passed over."""
    assert fetched(response + b"m1 OK done\r\n") == [
        BodyStart(5),
        BodyPiece(b"hello"),
        BodyEnd(7),
        Completed(Status.OK, "", "done"),
    ]


@pytest.mark.parametrize("value", [b"{0}\r\n", b"NIL", b'""'])
def test_fetch_empty(value: bytes) -> None:
    """An empty message is a message."""
    events = fetched(b"* 1 FETCH (UID 7 BODY[] " + value + b")\r\nm1 OK\r\n")
    assert events == [BodyStart(0), BodyEnd(7), Completed(Status.OK, "", "")]


def test_fetch_of_nothing() -> None:
    """No such message: the command ends, and no body came."""
    assert fetched(b"m1 OK nothing\r\n") == [Completed(Status.OK, "", "nothing")]


def test_body_is_never_read_as_protocol() -> None:
    """Whatever a message contains, it is data."""
    evil = b")\r\nm1 OK done\r\n* BYE\r\n* 1 FETCH (UID 7 BODY[] {3}\r\n"
    events = fetched(b"* 1 FETCH (UID 7 BODY[] {%d}\r\n%b)\r\nm1 OK end\r\n" % (len(evil), evil))
    assert events == [BodyStart(len(evil)), BodyPiece(evil), BodyEnd(7), Completed(Status.OK, "", "end")]


@pytest.mark.parametrize(
    "answer",
    [
        b"* 1 FETCH (UID 8 BODY[] {5}\r\nhello)\r\n",
        b"* 1 FETCH (BODY[] {5}\r\nhello)\r\n",
        b"* 1 FETCH (UID 7 BODY[] {1001}\r\n",
        b"* 1 FETCH (UID 7 BODY[] {99999999999}\r\n",
        b"* 1 FETCH (UID 7 BODY[] {2}\r\nab BODY[] {2}\r\nab)\r\n",
        b"* 1 FETCH (UID 7 BODY[] {2}\r\nab)\r\n* 1 FETCH (UID 7 BODY[] {2}\r\nab)\r\n",
        b"* 1 FETCH (UID 7 X {8193}\r\n",
        b"* 1 FETCH (UID 7 " + b"X" * 9000,
        b"* 1 FETCH (UID 7" + b" X {1}\r\na" * 3000,
        b"m2 OK done\r\n",
        b"m1 WHAT\r\n",
        b"m1 PREAUTH hello\r\n",
        b"* PREAUTH hello\r\n",
        b"+ go on\r\n",
        b"nonsense\r\n",
        b"\r\n",
        b"m1 OK done\r\nm1 OK again\r\n",
    ],
)
def test_broken_answers(answer: bytes) -> None:
    """Another message, too much, too many, a wrong tag, nonsense: the connection cannot be trusted any more."""
    with pytest.raises(RemoteProtocolError):
        fetched(answer)


def test_partial_fetch() -> None:
    """The head of a message can be asked for."""
    assert ready().fetch(7, 1000, head_bytes=500) == b"m1 UID FETCH 7 (UID BODY.PEEK[]<0.500>)\r\n"


def test_delete_and_expunge() -> None:
    """Messages are named in one set; EXPUNGE names them only where the server has UIDPLUS."""
    core = ready()
    assert core.delete([3, 5]) == b"m1 UID STORE 3,5 +FLAGS.SILENT (\\Deleted)\r\n"
    told(core, b"m1 OK\r\n")
    assert core.expunge([3, 5]) == b"m2 UID EXPUNGE 3,5\r\n"
    assert ready("IMAP4rev1").expunge([3, 5]) == b"m1 EXPUNGE\r\n"


def test_logout() -> None:
    """BYE, then the end of the command."""
    core = ready()
    assert core.logout() == b"m1 LOGOUT\r\n"
    assert told(core, b"* BYE bye\r\nm1 OK\r\n") == [Bye("", "bye"), Completed(Status.OK, "", "")]


def test_early_ok_is_refused() -> None:
    """OK before the whole command was sent is no answer that can be trusted."""
    core = ready()
    core.login("anä", SECRET)
    with pytest.raises(RemoteProtocolError, match="whole command"):
        told(core, b"m1 OK in\r\n")


def test_text_is_fit_to_print() -> None:
    """Escape sequences in a server's text go no further."""
    core = ready()
    core.capability()
    assert told(core, b"m1 NO \x1b[31mred\x07\r\n") == [Completed(Status.NO, "", "?[31mred?")]
