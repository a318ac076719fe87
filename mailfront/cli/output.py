"""How verbs show what they found: tables and colours on a terminal, tab-separated lines elsewhere, JSON on demand.

What comes from outside is made printable here once more, so that no address can move the cursor. rich is imported
when something is drawn.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click
import orjson

from mailfront.base.printable import printable
from mailfront.base.units import show_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from mailfront.admin.wire import Progress

_MAX_CELL_CHARS = 1000
_IN_ONE_PIECE = ("id", "age", "size", "state", "next")
_STATE_COLOURS = {
    "ok": "green",
    "up": "green",
    "active": "green",
    "deliver": "green",
    "found": "green",
    "degraded": "yellow",
    "warning": "yellow",
    "suspect": "yellow",
    "draining": "yellow",
    "handoff": "yellow",
    "deferred": "yellow",
    "note": "cyan",
    "maintenance": "cyan",
    "held": "red",
    "down": "red",
    "failed": "red",
}


def show_json(value: Any) -> None:
    """Print JSON, indented, with everything in full; what a terminal might obey is written as `\\uXXXX`."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
    click.echo("\n".join(line if line.isprintable() else _escaped(line) for line in text.split("\n")))


def _escaped(json_line: str) -> str:
    """All that is not printable stands inside strings: there it may be written so."""
    return "".join(
        each if each.isprintable() else f"\\u{ord(each):04x}" if each.isascii() else json.dumps(each)[1:-1]
        for each in json_line
    )


def on_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def console() -> "Console":
    """rich's console on standard output."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Show rows. `right`: columns of numbers. On a pipe: a line of names, then one line per row, tabs between."""
    if not on_terminal():
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join(_text(cell).replace("\t", " ") for cell in row))
        return
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE, pad_edge=False, header_style="bold")
    for column in columns:
        # An id is copied by a double click, a state is read at a glance: they stay in one piece.
        justify: Literal["right", "left"] = "right" if column in right else "left"
        drawn.add_column(column, justify=justify, overflow="fold", no_wrap=column in _IN_ONE_PIECE)
    for row in rows:
        drawn.add_row(*(Text(text, style=_STATE_COLOURS.get(text.split(" ")[0], "")) for text in map(_text, row)))
    console().print(drawn)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Show names with their values, one per line; what is empty is left out."""
    shown = [(name, _text(value)) for name, value in pairs if value not in (None, "", (), [])]
    width = max((len(name) for name, _ in shown), default=0)
    for name, text in shown:
        if on_terminal():
            text = click.style(text, fg=_STATE_COLOURS.get(text.split(" ")[0]))
            click.echo(f"{click.style(name.rjust(width), bold=True)}  {text}")
        else:
            click.echo(f"{name}: {text}")


def line(text: str) -> None:
    """Show one line."""
    click.echo(printable(text, _MAX_CELL_CHARS))


def aside(text: str) -> None:
    """Say something to people on standard error."""
    click.echo(f"mailfront: {text}", err=True)


def bar(value: float, most: float, width: int) -> str:
    """Draw a value as a bar of at most `width` characters."""
    eighths = round(8 * width * value / most) if most > 0 else 0
    full, part = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")


def sparkline(values: Sequence[int], most: int) -> str:
    """Draw values as columns of one line; what is there at all can be seen."""
    return "".join(" " if value <= 0 else "▁▂▃▄▅▆▇█"[min(7, (8 * value - 1) // max(most, 1))] for value in values)


def age(seconds: float | None) -> str:
    """Write a time span for people."""
    return "" if seconds is None else show_duration(max(seconds, 0.0))


def moment(wall_s: float | None) -> str:
    """Write a point in time in local time."""
    return "" if wall_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_s))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_text(each) for each in value)
    return printable(str(value), _MAX_CELL_CHARS)


class ProgressBar:
    """A bar on standard error while the server works; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._drawn: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn is not None:
            self._drawn.stop()

    def show(self, note: "Progress") -> None:
        """Show how far the server's work has come."""
        self.show_count(note.done, note.total, note.what)

    def show_count(self, done: int, total: int, what: str) -> None:
        """Show how far our own work has come. `total` 0: not known."""
        if not sys.stderr.isatty():
            return
        if self._drawn is None or self._task is None:
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            self._drawn = RichProgress(console=Console(stderr=True), transient=True)
            self._task = self._drawn.add_task(printable(what), total=None)
            self._drawn.start()
        self._drawn.update(self._task, completed=done, total=total or None)
