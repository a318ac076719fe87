"""Runs a load against one system and says what it cost. One `Sample` is one system in one round of one row."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.perf.accounting import cpu_s, memory_bytes
from tests.perf.systems import DOMAIN, System
from tests.support.mailfront_server import ROOT
from tests.support.postfix import smtp_source
from tests.support.processes import wait_until

DRAIN_LIMIT_S = 120.0
GENERATOR_LIMIT_S = 270.0
CONNECTIONS_COUNT = 20


class LoadFailed(Exception):
    """The load did not come to its end: the system refused something that it should take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one system did in one round. `cpu_s` None: there is no front end whose CPU could be counted."""

    seconds: float
    count: int
    cpu_s: float | None
    extra: dict[str, float] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    """What is drawn over time."""

    @property
    def rate(self) -> float:
        """Messages, logins or MiB in a second."""
        return self.count / self.seconds

    @property
    def cpu_ms(self) -> float | None:
        """CPU milliseconds for each."""
        return None if self.cpu_s is None else self.cpu_s / self.count * 1000


def measured(system: System, work: Callable[[], tuple[float, int, dict[str, float]]]) -> Sample:
    """Run `work` (which returns seconds, count and more figures) and add the CPU of the system's processes."""
    before_s = cpu_s(system.pids())
    seconds, count, extra = work()
    used_s = cpu_s(system.pids()) - before_s
    return Sample(seconds=seconds, count=count, cpu_s=used_s if system.pids() else None, extra=extra)


def messages(
    system: System, *, count: int, size_bytes: int, options: tuple[str, ...] = ("-N",), until_handed_on: bool = True
) -> Sample:
    """`count` messages by smtp-source over 20 connections at once, one message each unless `options` has -d. The time
    ends when the system has handed on the last one; a system that queues has by then answered long ago."""

    def work() -> tuple[float, int, dict[str, float]]:
        begun_s = time.monotonic()
        result = smtp_source(
            *system.endpoint(),
            messages=count,
            recipient=f"user@{DOMAIN}",
            sessions=CONNECTIONS_COUNT,
            size_bytes=size_bytes,
            options=options,
        )
        if not result.ok:
            raise LoadFailed(result.output.strip()[-300:])
        answered_s = time.monotonic() - begun_s
        if until_handed_on and system.queued_count():
            wait_until(lambda: not system.queued_count(), DRAIN_LIMIT_S, f"the end of {system.name}'s queue")
        return time.monotonic() - begun_s, count, {"answered_s": answered_s}

    return measured(system, work)


def generated(system: System, spec: dict[str, Any]) -> Sample:
    """One run of `tests.perf.generator` against the system."""
    series: dict[str, list[float]] = {}

    def work() -> tuple[float, int, dict[str, float]]:
        with _generator(_addressed(system, spec)) as process:
            output, errors = process.communicate(timeout=GENERATOR_LIMIT_S)
        if process.returncode:
            raise LoadFailed(f"{spec['kind']}: {(errors.strip().splitlines() or ['no word'])[-1][-300:]}")
        result = json.loads(output.splitlines()[-1])
        series.update(result.pop("series", {}))
        return result.pop("seconds"), result.pop("count"), result

    return replace(measured(system, work), series=series)


def held(system: System, spec: dict[str, Any], first_crowds: dict[str, float]) -> Sample:
    """Let the generator hold its crowd, and measure the memory that the system needs for it.

    A server keeps some of that for the next crowd, which then seems to need less: so `each_kib` is always that of the
    first one of its kind, which is written down in `first_crowds`.
    """
    before_bytes = memory_bytes(system.pids())

    def work() -> tuple[float, int, dict[str, float]]:
        with _generator(_addressed(system, spec)) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            during_bytes = memory_bytes(system.pids())
            output, errors = process.communicate("", timeout=GENERATOR_LIMIT_S)
        if process.returncode or not line:
            raise LoadFailed(f"{spec['kind']}: {(errors.strip().splitlines() or ['no word'])[-1][-300:]}")
        result = json.loads(output.splitlines()[-1])
        kind = f"{system.name} {spec['kind']} {spec.get('role', 'smtp')}"
        each_kib = first_crowds.setdefault(kind, (during_bytes - before_bytes) / 2**10 / result["count"])
        figures = {"memory_mib": during_bytes / 2**20, "each_kib": each_kib}
        return result["seconds"], result["count"], figures

    return measured(system, work)


def _addressed(system: System, spec: dict[str, Any]) -> dict[str, Any]:
    host, port = system.endpoint(spec.get("role", "smtp"))
    return {"host": host, "port": port, **spec}


@contextmanager
def _generator(spec: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.perf.generator", json.dumps(spec)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
