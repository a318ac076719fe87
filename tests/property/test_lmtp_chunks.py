"""The LMTP core and the dot-stuffer do not care where the bytes are cut."""

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.errors import RemoteProtocolError
from mailfront.mail.envelope import NO_OPTIONS
from mailfront.protocol.dot_stuffing import DotStuffer
from mailfront.protocol.lmtp import EnvelopeAnswered, Event, LmtpClient, LmtpEnvelope
from mailfront.protocol.replies import ReplyReader

_CODES = st.sampled_from([b"220", b"250", b"354", b"421", b"451", b"550", b"571", b"199", b"2x0", b""])
_LINES = st.tuples(_CODES, st.sampled_from([b" ", b"-", b""]), st.binary(max_size=12)).map(b"".join)
_STREAMS = st.lists(_LINES, max_size=20).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
_LIKELY = st.lists(
    st.sampled_from(
        [b"250 ok", b"250-x", b"250 PIPELINING", b"354 go", b"451 4.2.0 later", b"550 5.1.1 no", b"421 bye"]
    ),
    max_size=12,
).map(lambda lines: b"220 hi\r\n250-x\r\n250 PIPELINING\r\n" + b"".join(line + b"\r\n" for line in lines))


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut bytes at these places (any numbers)."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def run(pieces: Sequence[bytes]) -> tuple[list[Event], bool]:
    """Drive a core through a transaction; return its events and whether it ended in an error."""
    core, events = LmtpClient("mx.example.edu", starttls=False), list[Event]()
    envelope = LmtpEnvelope(reverse_path="", recipients=[("a", NO_OPTIONS), ("b", NO_OPTIONS)])
    begun = False
    for piece in pieces:
        core.receive(piece)
        try:
            while (event := core.next_event()) is not None:
                events.append(event)
                # The driver's next step follows at once, as if the peer's bytes had come one reply at a time.
                if type(event).__name__ == "Ready" and not begun:
                    begun = True
                    core.begin(envelope)
                if isinstance(event, EnvelopeAnswered) and event.go:
                    core.body_ended()
        except RemoteProtocolError:
            return events, True
    return events, False


@given(stream=_STREAMS | _LIKELY, places=st.lists(st.integers(0, 4000), max_size=12))
def test_any_chunking_gives_the_same_events(stream: bytes, places: list[int]) -> None:
    """However the peer's bytes arrive, the same events come out, and the same error if there is one."""
    whole = run([stream[at : at + 1] for at in range(len(stream))])
    assert run(cut(stream, places)) == whole


@given(stream=st.binary(max_size=600) | _STREAMS, places=st.lists(st.integers(0, 600), max_size=8))
def test_garbage_raises_only_remote_errors(stream: bytes, places: list[int]) -> None:
    """Whatever a peer sends, nothing but RemoteProtocolError leaves the reader."""
    reader = ReplyReader()
    for piece in cut(stream, places):
        reader.receive(piece)
        try:
            while reader.next_reply() is not None:
                pass
        except RemoteProtocolError:
            return


_BODIES = st.lists(st.sampled_from([b"\r\n", b".", b"..", b"x", b"\r\n.", b"\r\n.\r\n", b"abc"]), max_size=30).map(
    b"".join
)


@given(body=_BODIES, places=st.lists(st.integers(0, 200), max_size=12))
def test_stuffing_at_every_seam(body: bytes, places: list[int]) -> None:
    """Any piece boundaries give the same wire bytes, and the peer gets the original back."""
    stuffer = DotStuffer()
    wire = b"".join([stuffer.stuff(piece) for piece in cut(body, places)]) + stuffer.end()
    whole = DotStuffer()
    assert wire == whole.stuff(body) + whole.end()
    assert wire.find(b"\r\n.\r\n") in (-1, len(wire) - 5)
    lines = wire.split(b"\r\n")
    assert lines[-2:] == [b".", b""]
    received = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:-2])
    assert received == body + (b"" if body.endswith(b"\r\n") or not body else b"\r\n")


@given(
    body=st.lists(st.sampled_from([b"\n", b"\r", b".", b"a"]), max_size=40).map(b"".join),
    places=st.lists(st.integers(0, 50)),
)
def test_no_peer_can_see_an_early_end(body: bytes, places: list[int]) -> None:
    """Even in a body with bare line ends there is no dot alone on a line, by any server's idea of a line end."""
    stuffer = DotStuffer()
    wire = b"".join([stuffer.stuff(piece) for piece in cut(body, places)]) + stuffer.end()
    message = wire[: -len(b".\r\n")]
    for early in (b"\n.\n", b"\n.\r\n", b"\n.\r", b"\r\n.\n"):
        assert early not in message
    assert not message.startswith((b".\n", b".\r"))
