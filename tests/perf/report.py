"""Shows a run: a table for people, and plots."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.perf.load import Sample
from tests.perf.run import Report, RowResult


def show(report: Report, console: Console) -> None:
    """Print the table, and below it how many targets were reached."""
    machine = report.machine
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, "
        f"Postfix {machine['postfix']}; load before: {machine['load_before']}; fsync: {machine['fsyncs_per_s']}/s"
    )
    table = Table(title="mailfront beside other servers (medians; CPU of the whole process tree)")
    for heading, justify in (("row", "left"), ("system", "left"), ("per second", "right"), ("CPU ms", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("also")
    table.add_column("target: reached")
    for result in report.results:
        _add(table, result)
    console.print(table)
    targets = sum(len(result.row.targets) for result in report.results)
    console.print(f"{targets - report.short_count} of {targets} targets reached")


def _add(table: Table, result: RowResult) -> None:
    row = result.row
    verdicts = "\n".join(_verdicts(result))
    for number, name in enumerate(row.systems):
        rate = result.median(name, lambda sample: sample.rate)
        cpu_ms = result.median(name, lambda sample: sample.cpu_ms)
        also = []
        for figure in row.shows:
            value = result.median(name, lambda sample, figure=figure: sample.extra.get(figure))  # type: ignore[misc]
            also.append(f"{figure} {value:.4g}" if value is not None else "")
        table.add_row(
            f"[bold]{row.name}[/bold]\n{row.title}" if number == 0 else "",
            name,
            "-" if rate is None else f"{rate:,.0f}",
            "-" if cpu_ms is None else f"{cpu_ms:.3f}",
            " ".join(also),
            "\n".join((verdicts, escape(result.failure))).strip() if number == 0 else "",
        )
    table.add_section()


def _verdicts(result: RowResult) -> list[str]:
    lines = []
    for target in result.row.targets:
        reached = result.reached(target)
        if reached is None:
            lines.append(f"[red]not measured[/red] {target.text}")
        else:
            word = "[green]pass[/green]" if reached[1] else "[red]short[/red]"
            lines.append(f"{word} {target.text}: {reached[0]:.2f}")
    return lines


def plot(report: Report, directory: Path, endings: Sequence[str] = ("svg", "png")) -> Sequence[Path]:
    """Draw the rates and the CPU costs as bars, and good mail in a flood over time, as SVG and PNG. Needs the extra
    `bench`."""
    directory.mkdir(parents=True, exist_ok=True)
    return [
        *_figure(report, directory, endings, "rate", "per second", lambda sample: sample.rate),
        *_figure(report, directory, endings, "cpu", "CPU milliseconds for each", lambda sample: sample.cpu_ms),
        *_flood(report, directory, endings),
    ]


def _figure(
    report: Report,
    directory: Path,
    endings: Sequence[str],
    name: str,
    label: str,
    value: Callable[[Sample], float | None],
) -> list[Path]:
    pyplot = _pyplot()
    results = [each for each in report.results if each.rounds]
    columns = 3
    lines = -(-len(results) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4 * columns, 2.4 * lines), squeeze=False)
    for axis in axes.flat[len(results) :]:
        axis.set_visible(False)
    for axis, result in zip(axes.flat, results, strict=False):
        medians = {system: result.median(system, value) for system in result.row.systems}
        shown = {system: median for system, median in medians.items() if median is not None}
        colors = ["#c0392b" if system.startswith("mailfront") else "#7f8c8d" for system in shown]
        axis.barh(list(shown), list(shown.values()), color=colors)
        axis.invert_yaxis()
        axis.set_title(result.row.title, fontsize=8)
        axis.set_xlabel(label, fontsize=7)
        axis.tick_params(labelsize=7)
    return _written(figure, directory, endings, name)


def _flood(report: Report, directory: Path, endings: Sequence[str]) -> list[Path]:
    """The denial of service that is none: how long good mail takes while listed clients come, in the last round."""
    found = [(result.row, sample.series) for result in report.results for sample in _last(result) if sample.series]
    if not found:
        return []
    figure, axes = _pyplot().subplots(
        2, len(found), sharex="col", sharey="row", squeeze=False, figsize=(1 + 5 * len(found), 4), height_ratios=(2, 1)
    )
    for (row, series), (times, counts) in zip(found, axes.T, strict=True):
        times.plot(series["at_s"], series["worst_ms"], color="#e59866", label="the slowest of each quarter second")
        times.plot(series["at_s"], series["median_ms"], color="#c0392b", label="median")
        times.set_yscale("log")
        times.set_title(row.title, fontsize=7)
        counts.fill_between(series["at_s"], series["refused_per_s"], step="mid", color="#7f8c8d")
        counts.set_xlabel("seconds", fontsize=7)
        for axis in (times, counts):
            axis.tick_params(labelsize=7)
    axes[0][0].set_ylabel("ms for a good message", fontsize=7)
    axes[0][0].legend(fontsize=7)
    axes[1][0].set_ylabel("refused in a second", fontsize=7)
    return _written(figure, directory, endings, "flood")


def _last(result: RowResult) -> Sequence[Sample]:
    return list(result.rounds[-1].values()) if result.rounds else ()


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    # Text as text, and no ids made at random: the files stay small, and a new run changes what has changed.
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "mailfront"
    from matplotlib import pyplot

    return pyplot


def _written(figure: Any, directory: Path, endings: Sequence[str], name: str) -> list[Path]:
    figure.tight_layout()
    written = [directory / f"bench-{name}.{ending}" for ending in endings]
    for path in written:
        figure.savefig(path, dpi=80)
    _pyplot().close(figure)
    return written
