"""Runs rows round by round, and keeps what was measured.

Within a round every system of a row is measured once, one after the other, each time in another order; what disturbs
the machine for a while disturbs all of them. Results are medians over the rounds, and medians of the ratios inside a
round. Nothing is thrown away.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.perf.lab import WARM_COUNT, Lab
from tests.perf.load import LoadFailed, Sample
from tests.perf.rows import Row, Target, fsyncs_per_s
from tests.support.processes import ServerDidNotStart

Tell = Callable[[str], None]


@dataclass(slots=True)
class RowResult:
    """The samples of one row, by round and system. `failure` says why there are not all of them."""

    row: Row
    rounds: list[dict[str, Sample]] = field(default_factory=list)
    failure: str = ""

    def median(self, system: str, value: Callable[[Sample], float | None]) -> float | None:
        """The median of one figure of one system."""
        found = [figure for each in self.rounds if system in each and (figure := value(each[system])) is not None]
        return statistics.median(found) if found else None

    def reached(self, target: Target) -> tuple[float, bool] | None:
        """The median over the rounds, and whether it is enough. None: it was not measured."""
        needed = len(self.row.systems)
        values = [target.value(each) for each in self.rounds if len(each) == needed]
        if not values:
            return None
        middle = statistics.median(values)
        return middle, middle >= target.bound if target.at_least else middle <= target.bound


@dataclass(slots=True)
class Report:
    """One run of the benchmark."""

    machine: Mapping[str, Any]
    results: list[RowResult]

    @property
    def short_count(self) -> int:
        """How many targets were not reached, or not measured."""
        found = [result.reached(target) for result in self.results for target in result.row.targets]
        return sum(each is None or not each[1] for each in found)

    def as_json(self) -> str:
        """Everything, for a program or another plot."""
        return json.dumps(
            {
                "machine": dict(self.machine),
                "rows": [
                    {
                        "name": result.row.name,
                        "title": result.row.title,
                        "unit": result.row.unit,
                        "failure": result.failure,
                        "rounds": [
                            {
                                name: {**asdict(sample), "rate": sample.rate, "cpu_ms": sample.cpu_ms}
                                for name, sample in each.items()
                            }
                            for each in result.rounds
                        ],
                        "targets": [_target(result, target) for target in result.row.targets],
                    }
                    for result in self.results
                ],
            },
            indent=1,
        )


def _target(result: RowResult, target: Target) -> dict[str, Any]:
    reached = result.reached(target)
    return {
        "text": target.text,
        "bound": target.bound,
        "at_least": target.at_least,
        "value": None if reached is None else reached[0],
        "verdict": "not measured" if reached is None else "pass" if reached[1] else "short",
    }


def from_json(text: str, rows: Sequence[Row]) -> Report:
    """A report that `as_json` has written. Rows that are no more are left out."""
    document = json.loads(text)
    known = {row.name: row for row in rows}
    fields = ("seconds", "count", "cpu_s", "extra", "series")
    results = [
        RowResult(
            known[found["name"]],
            [
                {name: Sample(**{key: sample[key] for key in fields if key in sample}) for name, sample in each.items()}
                for each in found["rounds"]
            ],
            found["failure"],
        )
        for found in document["rows"]
        if found["name"] in known
    ]
    return Report(document["machine"], results)


def run_rows(rows: Sequence[Row], *, rounds: int, scale: float, tell: Tell) -> Report:
    """Measure. `scale` multiplies every row's count. `tell` is called before each sample. A row that fails is reported
    and the others go on."""
    results = [RowResult(row) for row in rows]
    with Lab(max(20, round(WARM_COUNT * min(1.0, scale)))) as lab:
        machine = _machine(str(lab.directory))
        lab.start(dict.fromkeys(name for row in rows for name in row.systems))
        for number in range(rounds):
            for result in results:
                if not result.failure:
                    _measure(lab, result, number, scale, tell)
    return Report(machine, results)


def _measure(lab: Lab, result: RowResult, number: int, scale: float, tell: Tell) -> None:
    row = result.row
    samples: dict[str, Sample] = {}
    result.rounds.append(samples)
    turn = number % len(row.systems)
    for name in (*row.systems[turn:], *row.systems[:turn]):
        tell(f"{row.name}: {name}, round {number + 1}")
        try:
            samples[name] = row.run(lab, lab.system(name), max(1, round(row.count * scale)))
        except (LoadFailed, ServerDidNotStart, TimeoutError, OSError, subprocess.SubprocessError) as error:
            result.failure = f"{name}: {error}"
            return


def _machine(directory: str) -> dict[str, Any]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "fsyncs_per_s": round(fsyncs_per_s(directory)),
        "postfix": subprocess.run(
            ["postconf", "-dh", "mail_version"], capture_output=True, text=True, check=False
        ).stdout.strip(),
    }
