"""Frames of the worker-keeper channel, cut anywhere."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.net.frames import HEADER, MAX_FRAME_BYTES, MAX_FRAME_FDS, FrameReader, encode_frame

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
MESSAGES = st.dictionaries(st.text(max_size=5), JSON, max_size=4)


@given(st.lists(MESSAGES, max_size=4), st.data())
def test_any_pieces_give_the_same_frames(messages: list[dict[str, Any]], data: st.DataObject) -> None:
    """Frames cut at any byte, or all of them byte by byte, are the frames that were sent."""
    stream = b"".join(encode_frame(message) for message in messages)
    cut = data.draw(st.integers(0, len(stream)))
    for pieces in ([stream[:cut], stream[cut:]], [stream[index : index + 1] for index in range(len(stream))]):
        reader = FrameReader()
        frames = [frame for piece in pieces for frame in reader.receive(piece)]
        assert [frame.message for frame in frames] == messages


@given(st.binary(max_size=200))
def test_garbage_raises_only_remote_protocol_errors(data: bytes) -> None:
    """Whatever arrives, the answer is frames or RemoteProtocolError; after it the reader is used up."""
    reader = FrameReader()
    try:
        reader.receive(data)
    except RemoteProtocolError:
        with pytest.raises(LocalProtocolError):
            reader.receive(b"")


@pytest.mark.parametrize(
    "head",
    [
        HEADER.pack(MAX_FRAME_BYTES + 1, 0),
        HEADER.pack(1, 0),
        HEADER.pack(0, 0),
        HEADER.pack(10, MAX_FRAME_FDS + 1),
        HEADER.pack(2, 0) + b"[]",
        HEADER.pack(2, 0) + b"{x",
        HEADER.pack(2, 1) + b"{}",
    ],
)
def test_bad_frames_are_refused_as_soon_as_they_show(head: bytes) -> None:
    """A frame that is too large is refused at its header, before its bytes are waited for."""
    with pytest.raises(RemoteProtocolError):
        FrameReader().receive(head)


def test_what_cannot_be_sent_is_our_own_mistake() -> None:
    """Too large, too many descriptors, not JSON."""
    with pytest.raises(LocalProtocolError, match="send a descriptor instead"):
        encode_frame({"p": "x" * MAX_FRAME_BYTES})
    with pytest.raises(LocalProtocolError, match="at most 4"):
        encode_frame({}, MAX_FRAME_FDS + 1)
    with pytest.raises(LocalProtocolError, match="not JSON"):
        encode_frame({"p": object()})


def is_open(fd: int) -> bool:
    """Whether a descriptor is open in this process."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_descriptors_belong_to_their_frame_and_none_is_leaked() -> None:
    """They are paired in order; what no frame took is closed, also when a later frame is broken."""
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
    reader = FrameReader()
    first, second = encode_frame({"a": 1}, 1), encode_frame({"b": 2}, 2)
    assert reader.receive(first[:7], fds[:1]) == []
    (frame, other) = reader.receive(first[7:] + second, fds[1:3])
    assert (frame.fds, other.fds) == ((fds[0],), (fds[1], fds[2]))
    with pytest.raises(RemoteProtocolError):
        reader.receive(encode_frame({"c": 3}, 1) + b"\xff\xff\xff\xff\xff", fds[3:])
    assert not is_open(fds[3])
    for fd in fds[:3]:
        os.close(fd)
    spare = os.open("/dev/null", os.O_RDONLY)
    waiting = FrameReader()
    waiting.receive(b"\0", [spare])
    waiting.close()
    assert not is_open(spare)


def test_descriptors_that_nobody_announced_are_refused() -> None:
    """A peer cannot fill our descriptor table."""
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(MAX_FRAME_FDS + 1)]
    reader = FrameReader()
    with pytest.raises(RemoteProtocolError, match="more descriptors"):
        reader.receive(b"\0", fds)
    reader.close()
    assert not any(is_open(fd) for fd in fds)
