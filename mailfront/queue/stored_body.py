"""A queued message's bytes, read from the database piece by piece while they are sent.

Each piece is a short read of its own (about 0.2 ms for 256 KiB), so a slow node holds no read transaction open. Every
piece is checked against its CRC-32 and the whole against its length: `pieces` raises CorruptBody before the last byte
would have been given, that is, before a final dot. It raises StoreFailed if the database does not answer.
"""

from collections.abc import Iterator

from mailfront.base.ids import MessageId
from mailfront.store.errors import CorruptBody
from mailfront.store.message_rows import get_chunk
from mailfront.store.writer import Store


class StoredBody:
    """A `BodyRef` of a message in the queue."""

    __slots__ = ("_id", "_size_bytes", "_store")

    def __init__(self, store: Store, message_id: MessageId, size_bytes: int) -> None:
        self._store = store
        self._id = message_id
        self._size_bytes = size_bytes

    @property
    def size_bytes(self) -> int:
        """See `BodyRef`."""
        return self._size_bytes

    def pieces(self) -> Iterator[bytes]:
        """See `BodyRef`. Raises CorruptBody or StoreFailed."""
        left_bytes, number = self._size_bytes, 0
        while left_bytes > 0:
            piece = self._piece(number)
            left_bytes -= len(piece)
            if not piece or left_bytes < 0:
                raise CorruptBody(f"{self._id}: the stored body is not {self._size_bytes} bytes long")
            yield piece
            number += 1

    def head(self, limit_bytes: int) -> bytes:
        """See `BodyRef`. Raises CorruptBody or StoreFailed."""
        found = bytearray()
        for piece in self.pieces():
            found += piece
            if len(found) >= limit_bytes:
                break
        return bytes(found[:limit_bytes])

    def _piece(self, number: int) -> bytes:
        return self._store.read_now(lambda connection: get_chunk(connection, self._id, number)) or b""
