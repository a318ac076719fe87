"""Writes the figures of a run into a page of the documentation, between two marks, with its plots beside the page."""

from pathlib import Path

from tests.perf.report import plot
from tests.perf.run import Report, RowResult

BEGIN, END = "<!-- figures: written by tests.perf -->", "<!-- end of figures -->"
PLOTS = "plots"


def write_page(report: Report, page: Path) -> None:
    """Replace what stands between the marks. Raises ValueError if the page has no marks."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: the marks {BEGIN} and {END} are missing")
    plot(report, page.parent / PLOTS, endings=("svg",))
    page.write_text(f"{before}{BEGIN}\n\n{_figures(report)}\n{END}{after}")


def _figures(report: Report) -> str:
    machine = report.machine
    lines = [
        f"Measured on {machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, Python "
        f"{machine['python']}, Postfix {machine['postfix']}, {machine['fsyncs_per_s']} fsyncs in a second, load of the "
        f"machine before the run {machine['load_before']}, {len(report.results[0].rounds)} round(s).",
        "",
        f"![CPU time for each message, login, session or MiB]({PLOTS}/bench-cpu.svg)",
        "",
        f"![Messages, logins, sessions or MiB per second]({PLOTS}/bench-rate.svg)",
        "",
        "| load | system | per second | CPU ms each | also |",
        "|---|---|---|---|---|",
    ]
    for result in report.results:
        lines += _rows(result)
    lines += ["", "| load | target | reached | |", "|---|---|---|---|"]
    for result in report.results:
        for target in result.row.targets:
            reached = result.reached(target)
            value, verdict = ("-", "not measured") if reached is None else (f"{reached[0]:.2f}", _word(reached[1]))
            lines.append(f"| {result.row.title} | {target.text} | {value} | {verdict} |")
    return "\n".join(lines) + "\n"


def _word(reached: bool) -> str:
    return "pass" if reached else "**short**"


def _rows(result: RowResult) -> list[str]:
    lines = []
    for number, name in enumerate(result.row.systems):
        rate = result.median(name, lambda sample: sample.rate)
        cpu_ms = result.median(name, lambda sample: sample.cpu_ms)
        also = [
            f"{figure} {value:.4g}"
            for figure in result.row.shows
            if (value := result.median(name, lambda sample, figure=figure: sample.extra.get(figure))) is not None  # type: ignore[misc]
        ]
        title = result.row.title if number == 0 else ""
        shown_rate = "-" if rate is None else f"{rate:,.0f}"
        shown_cpu = "-" if cpu_ms is None else f"{cpu_ms:.2f}"
        lines.append(f"| {title} | {name} | {shown_rate} | {shown_cpu} | {', '.join(also)} |")
    return lines
