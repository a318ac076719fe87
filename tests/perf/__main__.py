"""`make bench`: mailfront beside Postfix, nginx, Dovecot and HAProxy, in one run.

    python -m tests.perf [--rows NAME,NAME] [--rounds 3] [--scale 1.0] [--json FILE] [--plots DIRECTORY]
                         [--page FILE] [--from FILE] [--list]

Needs root (Postfix does) and the packages of tests/install-packages. Loads loopback addresses only, is bounded in
count and time, and ends every server that it started. Exit status: 0 all was measured (also when a target was missed:
the table says so), 1 a row failed, 2 wrong usage.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.perf.page import write_page
from tests.perf.report import plot, show
from tests.perf.rows import ROWS, Row, chosen
from tests.perf.run import Report, from_json, run_rows
from tests.support.processes import remove_run_directory


def main(arguments: list[str]) -> int:
    """Run the benchmark. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf", description="mailfront beside other servers")
    parser.add_argument("--rows", default="", help="only these rows, with commas between them")
    parser.add_argument("--rounds", type=int, default=3, help="how often each row is measured (3)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the count of each row (1.0)")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    parser.add_argument("--plots", type=Path, help="draw into this folder (needs the extra `bench`)")
    parser.add_argument("--page", type=Path, help="write figures and plots into this page of the documentation")
    parser.add_argument("--from", dest="source", type=Path, help="measure nothing: show what --json has written")
    parser.add_argument("--list", action="store_true", help="show the rows and end")
    options = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if options.list:
        for row in ROWS:
            console.print(f"{row.name:<12} {row.title} ({', '.join(row.systems)})")
        return 0
    try:
        rows = chosen([name for name in options.rows.split(",") if name])
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    if options.source is not None:
        report = from_json(options.source.read_text(), ROWS)
    else:
        report = _measured(rows, options, console)
    show(report, console)
    if options.json is not None:
        options.json.write_text(report.as_json())
    if options.plots is not None:
        for path in plot(report, options.plots):
            console.print(f"wrote {path}")
    if options.page is not None:
        write_page(report, options.page)
    return 1 if any(result.failure for result in report.results) else 0


def _measured(rows: Sequence[Row], options: argparse.Namespace, console: Console) -> Report:
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    try:
        with progress:
            task = progress.add_task("starting", total=options.rounds * sum(len(row.systems) for row in rows))

            def tell(what: str) -> None:
                progress.update(task, description=what, advance=1)

            return run_rows(rows, rounds=options.rounds, scale=options.scale, tell=tell)
    finally:
        remove_run_directory()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
