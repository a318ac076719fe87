"""Frames of the worker-keeper channel (sans-IO): a length, a number of file descriptors, JSON.

    4 bytes  length of the JSON in bytes, big-endian, 2..8 MiB
    1 byte   how many file descriptors belong to the frame, 0..4
    JSON     one object, UTF-8

Descriptors travel beside the bytes (SCM_RIGHTS), attached to the first byte of their frame, so they are always here
when the frame is complete. `FrameReader` pairs them; what it was given and nobody took is closed by `close()`.
"""

import os
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError

MAX_FRAME_BYTES = 8 * 1024 * 1024
MAX_FRAME_FDS = 4
HEADER = struct.Struct(">IB")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. Whoever takes it owns its descriptors and must close them."""

    message: dict[str, Any]
    fds: tuple[int, ...]


def encode_frame(message: dict[str, Any], fds_count: int = 0) -> bytes:
    """Make the bytes of a frame. Raises LocalProtocolError for what is too large or not JSON."""
    if fds_count > MAX_FRAME_FDS:
        raise LocalProtocolError(f"{fds_count} descriptors in a frame; at most {MAX_FRAME_FDS}")
    try:
        data = orjson.dumps(message)
    except TypeError as error:
        raise LocalProtocolError(f"not JSON: {error}") from error
    if len(data) > MAX_FRAME_BYTES:
        raise LocalProtocolError(f"frame of {len(data)} bytes; at most {MAX_FRAME_BYTES}; send a descriptor instead")
    return HEADER.pack(len(data), fds_count) + data


class FrameReader:
    """Turns received bytes and descriptors into frames. After an error nothing more is read."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._fds: deque[int] = deque()
        self._broken = False

    def receive(self, data: bytes, fds: Iterable[int] = ()) -> list[Frame]:
        """Take what one receive call gave. Returns the frames that are complete now.

        Raises RemoteProtocolError if the peer breaks the format; call `close()` and drop the connection.
        """
        self._fds.extend(fds)
        if self._broken:
            raise LocalProtocolError("receive() after an error")
        self._data += data
        frames: list[Frame] = []
        try:
            position = self._read_frames(frames)
        except RemoteProtocolError:
            self._broken = True
            for frame in frames:
                close_fds(frame.fds)
            raise
        if position:
            del self._data[:position]
        return frames

    def close(self) -> None:
        """Close descriptors that no frame has taken."""
        close_fds(self._fds)
        self._fds.clear()
        self._data.clear()

    def _read_frames(self, frames: list[Frame]) -> int:
        position, end = 0, len(self._data)
        while end - position >= HEADER.size:
            length, fds_count = HEADER.unpack_from(self._data, position)
            if not 2 <= length <= MAX_FRAME_BYTES:
                raise RemoteProtocolError(f"frame of {length} bytes; allowed are 2 to {MAX_FRAME_BYTES}")
            if fds_count > MAX_FRAME_FDS:
                raise RemoteProtocolError(f"frame with {fds_count} descriptors; at most {MAX_FRAME_FDS}")
            after = position + HEADER.size + length
            if after > end:
                break
            try:
                message = orjson.loads(memoryview(self._data)[position + HEADER.size : after])
            except ValueError as error:
                raise RemoteProtocolError("frame is not JSON") from error
            if not isinstance(message, dict):
                raise RemoteProtocolError("frame is not a JSON object")
            if len(self._fds) < fds_count:
                raise RemoteProtocolError("descriptors of a frame are missing")
            frames.append(Frame(message, tuple(self._fds.popleft() for _ in range(fds_count))))
            position = after
        if len(self._fds) > MAX_FRAME_FDS:
            raise RemoteProtocolError("more descriptors than frames announced")
        return position


def close_fds(fds: Iterable[int]) -> None:
    """Close descriptors; one that is already closed is a bug and raises OSError."""
    for fd in fds:
        os.close(fd)
