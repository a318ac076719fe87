"""`make bench-growth`: how mailfront's costs grow with what it has to do. Up to 90 minutes; not for CI.

    python -m tests.perf.growth [--series NAME,NAME] [--most N] [--json FILE] [--plots DIRECTORY]

Each series changes one thing and leaves the rest: size of the message, rows in the queue, users, nodes, open sessions,
stalled uploads, a node that is well, hangs or is dead. `--most` leaves out the steps that are larger. A series whose
verdict can be said says it; the numbers of a busy machine are worth little. Needs root and the test packages.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.perf import growth_steps
from tests.perf.growth_steps import Figures, Step
from tests.perf.lab import Lab
from tests.support.processes import remove_run_directory

Found = list[tuple[int | str, Figures]]
KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One thing that grows. `verdict` says (text, reached) from all steps."""

    name: str
    title: str
    steps: Sequence[int | str]
    measure: Step
    verdict: Callable[[Found], tuple[str, bool]] | None = None
    found: Found = field(default_factory=list)


def _flat_per_mib(found: Found) -> tuple[str, bool]:
    costs = [figures["cpu_ms_per_mib"] for size, figures in found if isinstance(size, int) and size >= MIB]
    growth = max(costs[1:]) / costs[0]
    most = max(figures["memory_mib"] for _, figures in found)
    text = f"CPU per MiB of larger messages at most 1.5x that of 1 MiB: {growth:.2f}; memory at most {most:.0f} MiB"
    return text, growth <= 1.5 and most < 600


def _flat_claims(found: Found) -> tuple[str, bool]:
    ratio = found[-1][1]["claim_us"] / found[0][1]["claim_us"]
    return f"a claim with most rows costs at most 3x one with the fewest: {ratio:.2f}", ratio <= 3


def _bounded(found: Found) -> tuple[str, bool]:
    most_mb = max(figures["memory_mib"] for _, figures in found) * MIB / 1e6
    return f"memory of all processes below 400 MB: {most_mb:.0f}", most_mb < 400


def _unhurt(found: Found) -> tuple[str, bool]:
    by_step = {str(step): figures for step, figures in found}
    well, ill = by_step["well"], [by_step[fault] for fault in ("hangs", "dead")]
    slowest = min(each["others_per_s"] for each in ill) / well["others_per_s"]
    longest = max(each["p99_ms"] for each in ill) / well["p99_ms"]
    text = f"the others' rate at least 0.9 of before: {slowest:.2f}; their p99 at most 1.5 of before: {longest:.2f}"
    return text, slowest >= 0.9 and longest <= 1.5


def all_series() -> list[Series]:
    """Every series, nothing measured yet."""
    return [
        Series(
            name="size",
            title="size of the message, bytes",
            steps=(4 * KIB, 30 * KIB, 200 * KIB, MIB, 5 * MIB, 20 * MIB, 49 * MIB),
            measure=growth_steps.message_size,
            verdict=_flat_per_mib,
        ),
        Series(
            name="stalled",
            title="uploads of 50 MB that stopped",
            steps=(100, 1000),
            measure=growth_steps.stalled_uploads,
            verdict=_bounded,
        ),
        Series(
            name="bad-node",
            title="one node of three",
            steps=("well", "hangs", "dead"),
            measure=growth_steps.bad_node,
            verdict=_unhurt,
        ),
        Series(
            name="connections",
            title="idle IMAP sessions",
            steps=(10, 100, 1000, 5000),
            measure=growth_steps.connections,
        ),
        Series(name="nodes", title="storage nodes", steps=(2, 4, 8, 16, 32, 64), measure=growth_steps.nodes),
        Series(
            name="users",
            title="users in the directory",
            steps=(1_000, 10_000, 100_000, 1_000_000),
            measure=growth_steps.users,
        ),
        Series(
            name="queue",
            title="rows in the queue",
            steps=(1_000, 10_000, 100_000, 1_000_000),
            measure=growth_steps.queue_rows,
            verdict=_flat_claims,
        ),
    ]


def main(arguments: list[str]) -> int:
    """Measure what was asked for. Returns the exit status: 0 measured, 1 a step failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.growth", description="how mailfront's costs grow")
    parser.add_argument("--series", default="", help="only these series, with commas between them")
    parser.add_argument("--most", type=int, default=None, help="leave out steps larger than this")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plots", type=Path, help="draw into this folder (needs the extra `bench`)")
    options = parser.parse_args(arguments)
    known = {series.name: series for series in all_series()}
    names = [name for name in options.series.split(",") if name] or list(known)
    if unknown := set(names) - known.keys():
        print(f"no such series: {', '.join(sorted(unknown))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    chosen = [known[name] for name in names]
    console = Console() if sys.stdout.isatty() else Console(width=140)
    failures: list[str] = []
    try:
        _measure(chosen, options.most, console, failures, options.json)
    finally:
        remove_run_directory()
    for series in chosen:
        _show(series, console)
    for failure in failures:
        console.print(failure, markup=False)
    if options.plots is not None:
        _plot([series for series in chosen if series.found], options.plots)
    return 1 if failures else 0


def _measure(
    chosen: Sequence[Series], most: int | None, console: Console, failures: list[str], output: Path | None
) -> None:
    """Measure step by step; what was found so far is in `output` after each."""
    steps = {
        series.name: [step for step in series.steps if most is None or isinstance(step, str) or step <= most]
        for series in chosen
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, Lab() as lab:
        task = progress.add_task("starting", total=sum(map(len, steps.values())))
        for series in chosen:
            for step in steps[series.name]:
                progress.update(task, description=f"{series.name}: {step}")
                try:
                    series.found.append((step, series.measure(lab, step)))
                    if output is not None:
                        output.write_text(json.dumps({each.name: each.found for each in chosen}, indent=1))
                except Exception as error:  # whatever it was, the other series are still worth measuring
                    failures.append(f"{series.name} {step}: {error}")
                    break
                finally:
                    progress.advance(task)


def _show(series: Series, console: Console) -> None:
    if not series.found:
        return
    table = Table(title=series.title)
    names = list(series.found[0][1])
    for heading in (series.name, *names):
        table.add_column(heading, justify="right")
    for step, figures in series.found:
        table.add_row(f"{step:,}" if isinstance(step, int) else step, *(f"{figures[name]:,.4g}" for name in names))
    console.print(table)
    if series.verdict is not None and len(series.found) == len(series.steps):
        text, reached = series.verdict(series.found)
        console.print(f"{'[green]pass[/green]' if reached else '[red]short[/red]'} {text}")


def _plot(series_found: Sequence[Series], directory: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "mailfront"
    from matplotlib import pyplot

    directory.mkdir(parents=True, exist_ok=True)
    lines = -(-len(series_found) // 3)
    figure, axes = pyplot.subplots(lines, 3, figsize=(12, 2.8 * lines), squeeze=False)
    for axis in axes.flat[len(series_found) :]:
        axis.set_visible(False)
    for axis, series in zip(axes.flat, series_found, strict=False):
        steps = [step for step, _ in series.found]
        for name in series.found[0][1]:
            axis.plot([str(step) for step in steps], [figures[name] for _, figures in series.found], "o-", label=name)
        axis.set_yscale("log")
        axis.set_title(series.title, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6)
    figure.tight_layout()
    for ending in ("svg", "png"):
        figure.savefig(directory / f"bench-growth.{ending}", dpi=80)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
