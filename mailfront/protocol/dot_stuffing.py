"""The data format of DATA (RFC 5321 section 4.5.2): dots at line starts doubled, CRLF.CRLF at the end. Sans-IO.

Works on whole pieces, never on lines; where the pieces are cut does not change the wire bytes. Bodies have CRLF line
ends (see `mail.body`). A dot after a bare LF is doubled all the same: some servers end a message at LF.LF, and no body
that slipped through may contain one.
"""

import re

DOTS_LOOKED_AT = 50
_LINE_DOTS = {line_end: re.compile(rb"\.(?<=%s\.)" % line_end) for line_end in (b"\n", b"\r\n")}


def find_line_dot(data: bytes, line_end: bytes) -> int:
    """Where the first line starts that begins with a dot, line end (`\\n` or `\\r\\n`) included; -1 if there is none.

    Most of what is long is base64, in which there is no dot, and nothing in Python finds a single byte as quickly as
    `find`. So the first dots are looked at one by one; only a text that has many is searched by a pattern.
    """
    dot = data.find(b".")
    for _ in range(DOTS_LOOKED_AT):
        if dot < 0:
            return -1
        if data.endswith(line_end, 0, dot):
            return dot - len(line_end)
        dot = data.find(b".", dot + 1)
    found = _LINE_DOTS[line_end].search(data, dot) if dot >= 0 else None
    return -1 if found is None else found.start() - len(line_end)


class DotStuffer:
    """Stuffs one message: `stuff` each piece in order, then send what `end` gives."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def stuff(self, piece: bytes) -> bytes:
        """The wire bytes of the next piece. A piece without such dots comes back as it is, not copied."""
        if not piece:
            return piece
        stuffed = piece.replace(b"\n.", b"\n..") if find_line_dot(piece, b"\n") >= 0 else piece
        if piece[0] == 0x2E and self._tail[-1] == 0x0A:
            stuffed = b"." + stuffed
        self._tail = piece[-2:] if len(piece) > 1 else self._tail[-1:] + piece
        return stuffed

    def end(self) -> bytes:
        """The final dot's line, with the CRLF before it that the body lacks."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"
