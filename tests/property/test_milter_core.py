"""The milter core does not care where the bytes are cut, and a filter's garbage is nothing but a protocol error."""

import itertools
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.errors import RemoteProtocolError
from mailfront.protocol.milter import MilterClient
from mailfront.protocol.milter_packets import Answer, PacketReader, decode, pack

_NEGOTIATION = pack(b"O", bytes.fromhex("00000006000000bf00000400"))
_CONTENTS = st.sampled_from(
    [b"", b"\0", b"X-Field\0value\0", b"\0\0\0\1Subject\0\0", b"550 5.7.1 no\0", b"550-5.7.1 a\r\n550 5.7.1 b\0",
     b"<ana@example.test>\0", b"\xff\0", b"a:b\0x\0", b"X\0a\nb\0", b"\0\0\0\6\0\0\0\0\0\0\0\0"]
)  # fmt: skip
_COMMANDS = st.sampled_from([bytes([code]) for code in b"acdrstpfyhimb+2-e4qOZ\0"])
_PACKETS = st.builds(pack, _COMMANDS, _CONTENTS | st.binary(max_size=40))
_STREAMS = st.lists(_PACKETS | st.binary(max_size=6), max_size=12).map(b"".join)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def run(pieces: Sequence[bytes]) -> tuple[list[Answer], bool]:
    """Drive a core to the end of a message; return the answers, and whether it ended in an error."""
    core, answers = MilterClient(), list[Answer]()
    steps: list[Callable[[], bytes]] = [
        lambda: core.connect("[192.0.2.1]", "192.0.2.1", 25, {}),
        lambda: core.helo("client", {}),
        lambda: core.mail("a@example.org", (), {"i": "id"}),
        lambda: core.recipient("b@example.test", (), {}),
        lambda: core.data({}),
        lambda: core.header(b"Subject", b" x"),
        lambda: core.end_of_headers({}),
        lambda: core.body(b"text\r\n"),
        lambda: core.end_of_message({}),
    ]
    calls = iter(steps)
    core.negotiate()
    for piece in pieces:
        core.receive(piece)
        try:
            while not core.closed:
                if not core.waiting:
                    step = next(calls, None)
                    if step is None:
                        return answers, False
                    step()
                    continue
                answer = core.next_answer()
                if answer is None:
                    break
                answers.append(answer)
        except RemoteProtocolError:
            return answers, True
    return answers, False


@given(stream=_STREAMS, places=st.lists(st.integers(0, 2000), max_size=12))
def test_any_chunking_gives_the_same_answers(stream: bytes, places: list[int]) -> None:
    """However a filter's bytes arrive, the same answers come out, and the same error if there is one."""
    stream = _NEGOTIATION + stream
    assert run(cut(stream, places)) == run([stream[at : at + 1] for at in range(len(stream))])


@given(stream=st.binary(max_size=400) | _STREAMS)
def test_garbage_gives_only_protocol_errors(stream: bytes) -> None:
    """No bytes of a filter raise anything but RemoteProtocolError."""
    run([stream])
    run([_NEGOTIATION + stream])


@given(command=st.binary(min_size=1, max_size=1), content=st.binary(max_size=100) | _CONTENTS)
def test_any_packet_is_decoded_or_refused(command: bytes, content: bytes) -> None:
    """Whatever one packet holds, it is decoded or refused by a protocol error."""
    try:
        decode(command, content)
    except RemoteProtocolError:
        pass


@given(packets=st.lists(st.tuples(_COMMANDS, st.binary(max_size=50)), max_size=8))
def test_packets_come_out_as_they_went_in(packets: list[tuple[bytes, bytes]]) -> None:
    """Framing is exact."""
    reader = PacketReader()
    reader.receive(b"".join(pack(*each) for each in packets))
    assert [reader.next_packet() for _ in packets] == packets
    assert reader.next_packet() is None
