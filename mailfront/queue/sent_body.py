"""A message's bytes on their way from a worker to the keeper: a descriptor, and a few bytes beside it.

A body in a spool file travels as that very file: what is in front of it (our trace header) goes along in the request,
and what was cut off its start is said as a number. Any other body is copied into memory: in the loop if it is small
(bodies in memory are at most 256 KiB), in a thread if not.

The worker's file is never written again, and both ends read it by position. Nothing here survives a crash; the keeper
has its own descriptor, so the worker may be gone while the body is being committed.
"""

import asyncio
import base64
import os
from typing import Any

from mailfront.mail.body import BodyRef, PrefixedBody, RestOfBody
from mailfront.net.body import FileBody, body_from_fd
from mailfront.net.channel import memory_file

MOST_PREFIX_BYTES = 256 * 1024
"""What goes along in the request. A header is shorter; anything longer is copied with its body."""
_SMALL_BYTES = 512 * 1024


class SentBody:
    """One body that is being sent: `fd` and `wire` go into a request. Made by `send`; `close` it after the request."""

    def __init__(self, body: BodyRef, fd: int, wire: dict[str, Any], *, is_copy: bool) -> None:
        self._body: BodyRef | None = body  # holds the file open
        self.fd = fd
        self.wire = wire
        self._is_copy = is_copy

    @classmethod
    async def send(cls, body: BodyRef) -> "SentBody":
        """Make a body ready. Raises OSError if there is no memory or no descriptor for a copy.

        Cancellation: safe; a copy under way in a thread is closed by it.
        """
        prefix, skip_bytes, inner = b"", 0, body
        if isinstance(inner, PrefixedBody):
            prefix, inner = inner.prefix, inner.body
        if isinstance(inner, RestOfBody):
            skip_bytes, inner = inner.skip_bytes, inner.body
        if isinstance(inner, FileBody) and len(prefix) <= MOST_PREFIX_BYTES:
            wire = _wire(inner.size_bytes, skip_bytes, prefix)
            return cls(body, inner.fileno(), wire, is_copy=False)
        if body.size_bytes <= _SMALL_BYTES:
            fd = memory_file(body.pieces())
        else:
            fd = await _copied_in_a_thread(body)
        return cls(body, fd, _wire(body.size_bytes, 0, b""), is_copy=True)

    def close(self) -> None:
        """The request is over. Harmless when repeated."""
        if self._body is not None and self._is_copy:
            os.close(self.fd)
        self._body = None


def received_body(fd: int, wire: dict[str, Any]) -> BodyRef:
    """The keeper's end: the body of a request. Owns `fd` now. Raises ValueError if the request makes no sense."""
    body: BodyRef = body_from_fd(fd, int(wire["size_bytes"]))
    skip_bytes = int(wire["skip_bytes"])
    if not 0 <= skip_bytes <= body.size_bytes:
        raise ValueError(f"a body of {body.size_bytes} bytes without its first {skip_bytes}")
    if skip_bytes:
        body = RestOfBody(body, skip_bytes)
    prefix = base64.b64decode(wire["prefix"])
    return PrefixedBody(prefix, body) if prefix else body


def _wire(size_bytes: int, skip_bytes: int, prefix: bytes) -> dict[str, Any]:
    return {"size_bytes": size_bytes, "skip_bytes": skip_bytes, "prefix": base64.b64encode(prefix).decode("ascii")}


async def _copied_in_a_thread(body: BodyRef) -> int:
    copying = asyncio.get_running_loop().run_in_executor(None, lambda: memory_file(body.pieces()))
    try:
        return await asyncio.shield(copying)
    except asyncio.CancelledError:
        copying.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(copying: "asyncio.Future[int]") -> None:
    if not copying.cancelled() and copying.exception() is None:
        os.close(copying.result())
