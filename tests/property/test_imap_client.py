"""The IMAP client core under any chunking, and against any bytes."""

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.secret import Secret
from mailfront.protocol.imap_client import ImapClient
from mailfront.protocol.imap_events import BodyPiece, Completed, Event, Send

BODY = b"Subject: x\r\n\r\n* BYE\r\nm1 OK\r\n{5}\r\n"
DIALOGUES = {
    "greeting": b"* OK [CAPABILITY IMAP4rev1 UIDPLUS] ready {4}\r\n",
    "login": b"+ go\r\n* OK [ALERT] note\r\n+ go\r\nm1 OK [CAPABILITY IMAP4rev1 UIDPLUS] in\r\n",
    "search": b"* 3 EXISTS\r\n* SEARCH 1 22 333\r\n* SEARCH\r\nm2 OK found\r\n",
    "fetch": b"* 2 FETCH (FLAGS ())\r\n* 1 FETCH (X {3}\r\nabc UID 22 BODY[] {%d}\r\n%b Y {0}\r\n)\r\nm3 OK\r\n"
    % (len(BODY), BODY),
    "expunge": b"* 1 EXPUNGE\r\n* 2 EXISTS\r\nm4 OK gone\r\n",
}


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted({place % len(data) for place in cuts}), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


def run(cuts: list[int]) -> list[Event]:
    """The whole dialogue with each answer cut at the given places; pieces of the body joined."""
    core = ImapClient()
    events: list[Event] = []
    for step, answer in DIALOGUES.items():
        if step == "login":
            core.login("ü", Secret("ß".encode()))
        elif step == "search":
            core.search_all()
        elif step == "fetch":
            core.fetch(22, 1000)
        elif step == "expunge":
            core.expunge([22])
        for piece in cut(answer, cuts):
            core.receive(piece)
            while (event := core.next_event()) is not None:
                if isinstance(event, BodyPiece) and events and isinstance(events[-1], BodyPiece):
                    event = BodyPiece(events.pop().data + event.data)  # type: ignore[union-attr]
                events.append(event)
    return events


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_any_chunking_gives_the_same_events(cuts: list[int]) -> None:
    """However the bytes are cut, the events are the same."""
    assert run(cuts) == run([])


def test_byte_by_byte() -> None:
    """Single bytes too; and the dialogue contains what it should."""
    whole = run([])
    assert run(list(range(2000))) == whole
    assert BodyPiece(BODY) in whole
    assert sum(isinstance(event, Completed) for event in whole) == 4
    assert sum(isinstance(event, Send) for event in whole) == 2


WORDS = [
    *(b"* ", b"+ ", b"m1 ", b"OK ", b"NO", b"BYE", b"1 FETCH (", b"UID 7 ", b"BODY[] ", b"{3}\r\n", b"{99999}\r\n"),
    *(
        b"abc",
        b'"',
        b"\\",
        b")",
        b"\r\n",
        b"\n",
        b"\0",
        b"[",
        b"]",
        b"SEARCH ",
        b"LIST () NIL ",
        b"1 2",
        b"NIL",
        b"<0>",
        b"\xff",
        b" ",
    ),
]
hostile = st.lists(st.sampled_from(WORDS) | st.binary(max_size=6), max_size=40)


@given(hostile, st.sampled_from(["greeting", "fetch", "search", "list", "login", "starttls"]))
def test_nothing_but_a_protocol_error(pieces: list[bytes], verb: str) -> None:
    """Whatever a server sends, the core gives events or RemoteProtocolError, and what it keeps is bounded."""
    core = ImapClient()
    if verb != "greeting":
        core.receive(b"* OK hi\r\n")
        core.next_event()
        if verb == "fetch":
            core.fetch(7, 100)
        elif verb == "search":
            core.search_all()
        elif verb == "list":
            core.list_folders()
        elif verb == "login":
            core.login("ü", Secret(b"x"))
        else:
            core.starttls()
    body_bytes = 0
    try:
        for piece in pieces:
            core.receive(piece)
            while (event := core.next_event()) is not None:
                body_bytes += len(event.data) if isinstance(event, BodyPiece) else 0
    except RemoteProtocolError:
        pass
    assert body_bytes <= 100
