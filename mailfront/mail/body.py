"""A message's bytes, wherever they are.

`BodyRef` hides whether the bytes are in memory, in an unlinked temporary file or in the queue database. Line ends are
always CRLF, dots are not stuffed. Nothing changes a body: a header that we add travels beside it, in front.
"""

from collections.abc import Iterator
from typing import Protocol

PIECE_BYTES = 256 * 1024


class BodyRef(Protocol):
    """Read access to one message's bytes. Any number of readers, each from the start."""

    @property
    def size_bytes(self) -> int:
        """How many bytes there are."""
        ...

    def pieces(self) -> Iterator[bytes]:
        """All the bytes in order, in pieces of at most `PIECE_BYTES` where they come from a file."""
        ...

    def head(self, limit_bytes: int) -> bytes:
        """The first bytes, at most `limit_bytes` of them."""
        ...


class MemoryBody:
    """A body held in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        """See `BodyRef`."""
        return len(self._data)

    def pieces(self) -> Iterator[bytes]:
        """See `BodyRef`: one piece."""
        if self._data:
            yield self._data

    def head(self, limit_bytes: int) -> bytes:
        """See `BodyRef`."""
        return self._data[:limit_bytes]


class PrefixedBody:
    """Our own trace header in front of a body that somebody else holds; nothing is copied."""

    __slots__ = ("_body", "_prefix")

    def __init__(self, prefix: bytes, body: BodyRef) -> None:
        self._prefix = prefix
        self._body = body

    @property
    def prefix(self) -> bytes:
        """What stands in front."""
        return self._prefix

    @property
    def body(self) -> BodyRef:
        """The body behind the prefix."""
        return self._body

    @property
    def size_bytes(self) -> int:
        """See `BodyRef`."""
        return len(self._prefix) + self._body.size_bytes

    def pieces(self) -> Iterator[bytes]:
        """See `BodyRef`: the prefix, then the body's own pieces."""
        yield self._prefix
        yield from self._body.pieces()

    def head(self, limit_bytes: int) -> bytes:
        """See `BodyRef`."""
        if limit_bytes <= len(self._prefix):
            return self._prefix[:limit_bytes]
        return self._prefix + self._body.head(limit_bytes - len(self._prefix))


class RestOfBody:
    """A body without its first `skip_bytes`; nothing is copied but the piece where the rest begins."""

    __slots__ = ("_body", "_skip_bytes")

    def __init__(self, body: BodyRef, skip_bytes: int) -> None:
        self._body = body
        self._skip_bytes = skip_bytes

    @property
    def skip_bytes(self) -> int:
        """How many bytes are left out at the start."""
        return self._skip_bytes

    @property
    def body(self) -> BodyRef:
        """The whole body."""
        return self._body

    @property
    def size_bytes(self) -> int:
        """See `BodyRef`."""
        return self._body.size_bytes - self._skip_bytes

    def pieces(self) -> Iterator[bytes]:
        """See `BodyRef`."""
        skip_bytes = self._skip_bytes
        for piece in self._body.pieces():
            if skip_bytes < len(piece):
                yield piece[skip_bytes:] if skip_bytes else piece
                skip_bytes = 0
            else:
                skip_bytes -= len(piece)

    def head(self, limit_bytes: int) -> bytes:
        """See `BodyRef`."""
        return self._body.head(self._skip_bytes + limit_bytes)[self._skip_bytes :]
