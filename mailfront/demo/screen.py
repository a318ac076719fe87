"""What the demo prints: numbered headings and aligned lines. Colour only on a terminal, and not if NO_COLOR is set."""

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

_LABEL_CHARS = 10
_WIDTH = 100


class Screen:
    """Writes to one stream, at once. When nobody reads it any more, that is taken for Ctrl-C (KeyboardInterrupt)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colours = self._stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._steps_count = 0
        self._is_gone = False

    def title(self, text: str) -> None:
        """The first line, or that of a part without a number."""
        self._write(f"\n{self._styled(text, '1')}\n")

    def step(self, text: str) -> None:
        """Begin the next numbered step."""
        self._steps_count += 1
        self.title(f"{self._steps_count}. {text}")

    def row(self, label: str, text: str) -> None:
        """One fact under a label. An empty label continues the one above."""
        self._lines(self._styled(f"{label:<{_LABEL_CHARS}}", "2"), text)

    def checked(self, text: str) -> None:
        """Something that was claimed and found true."""
        self._lines(self._styled(f"{'checked':<{_LABEL_CHARS}}", "32"), text)

    def failed(self, text: str) -> None:
        """Something that was claimed and found false, or could not be done."""
        self._lines(self._styled(f"{'FAILED':<{_LABEL_CHARS}}", "31;1"), text)

    def table(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Rows in aligned columns; the first row names them."""
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for number, row in enumerate(rows):
            line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            self._write(f"  {self._styled(line, '2') if number == 0 else line}\n")

    def _lines(self, label: str, text: str) -> None:
        width = _WIDTH - _LABEL_CHARS - 3
        lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
        self._write(f"  {label} {lines[0]}\n")
        for line in lines[1:]:
            self._write(f"  {'':<{_LABEL_CHARS}} {line}\n")

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colours else text

    def _write(self, text: str) -> None:
        if self._is_gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError as error:
            self._is_gone = True
            raise KeyboardInterrupt from error
