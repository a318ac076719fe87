"""The data format of DATA (RFC 5321 section 4.5.2): dots at line starts doubled, CRLF.CRLF at the end. Sans-IO.

Works on whole pieces, never on lines; where the pieces are cut does not change the wire bytes. Bodies have CRLF line
ends (see `mail.body`). A dot after a bare LF is doubled all the same: some servers end a message at LF.LF, and no body
that slipped through may contain one.
"""

import re

_LINE_STARTS_WITH_DOT = re.compile(rb"\n\.")


class DotStuffer:
    """Stuffs one message: `stuff` each piece in order, then send what `end` gives."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def stuff(self, piece: bytes) -> bytes:
        """The wire bytes of the next piece. A piece without such dots comes back as it is, not copied."""
        if not piece:
            return piece
        # Most pieces have no such dot, and the search costs a third of a replace that finds nothing.
        stuffed = piece.replace(b"\n.", b"\n..") if _LINE_STARTS_WITH_DOT.search(piece) is not None else piece
        if piece[0] == 0x2E and self._tail[-1] == 0x0A:
            stuffed = b"." + stuffed
        self._tail = piece[-2:] if len(piece) > 1 else self._tail[-1:] + piece
        return stuffed

    def end(self) -> bytes:
        """The final dot's line, with the CRLF before it that the body lacks."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"
