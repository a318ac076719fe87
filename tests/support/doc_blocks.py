"""Fenced blocks of Markdown pages, and the commands in them.

The info string says what a block is:

    console            commands behind `$` or `#`, and between them sample output; runnable
    console may-fail   runnable, and a failure found (exit status 1) is a good answer too
    console elsewhere  needs root, a network or another machine; only its syntax is looked at
    toml               a piece of mailfront.toml

A command goes on in the next line after a backslash, or if that is indented by four. Blocks may be indented, as in
lists.
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^[$#] (.*(?:(?:(?<=\\)\n|\n {4}).*)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block. `line` is where it begins, from 1."""

    page: Path
    line: int
    info: str
    text: str

    @property
    def commands(self) -> tuple[str, ...]:
        """What stands behind the prompts."""
        return tuple(_PROMPT.findall(self.text))


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start()) + 1,
            info=match["info"].strip(),
            text=textwrap.dedent(match["text"]),
        )
        for match in _BLOCK.finditer(text)
    ]
