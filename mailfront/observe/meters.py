"""Counter, gauge and histogram over prometheus_client: declared at import, made at first use, children cached.

The kind of storage (this process only, or the shared directory) is chosen by `open_storage`, which may come after the
declarations. Label values are positional and in the order of the declaration. A value outside a closed set is a bug:
ValueError while storage is local (tests), counted as `other` in a running server. At most `MAX_CHILDREN` label
combinations are kept per metric, the rest is counted as `other`: no input can make the metrics grow.

Where an event loop runs, counters and histograms add up in plain numbers and reach their storage `FLUSH_EVERY_S` later
(and when the process ends, or `render_all` is called in it): a message counts some ten things, and each write to the
storage costs as much as parsing a command. A killed process loses what it had counted in that time.
"""

import asyncio
import atexit
import bisect
import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Literal, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, multiprocess, values

_log = logging.getLogger("mailfront.metrics")
MAX_CHILDREN = 2000
FLUSH_EVERY_S = 0.25
FROM_CONFIGURATION: tuple[str, ...] = ()
"""Marks a label whose values are names that the configuration gives."""

GaugeMode = Literal["livesum", "livemax"]
M = TypeVar("M", prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram)


class _Storage:
    """Where the values of this process live."""

    def __init__(self) -> None:
        self.directory: Path | None = None
        self.registry = CollectorRegistry()


_storage = _Storage()
CATALOGUE: "dict[str, Counter | Gauge | Histogram]" = {}


class _Meter(Generic[M]):
    """What the three kinds share: the declaration, and one child per combination of label values."""

    def __init__(self, name: str, help_text: str, labels: Mapping[str, tuple[str, ...]]) -> None:
        if name in CATALOGUE:
            raise ValueError(f"metric {name} is declared twice")
        self.name = name
        self.help_text = help_text
        self.labels = dict(labels)
        self._metric: M | None = None
        self._children: dict[tuple[str, ...], M] = {}

    def reset(self) -> None:
        """Forget what was made, because the storage changed."""
        self._metric = None
        self._children = {}

    def make_closed(self) -> None:
        """Make all children whose labels are known now, so that they are shown as 0 before the first event."""
        if all(self.labels.values()):
            for combination in itertools.product(*self.labels.values()):
                self._child(combination)

    def _make(self) -> M:
        raise NotImplementedError

    def _child(self, label_values: tuple[str, ...]) -> M:
        """Slow path: make the child of one combination, or find the one that stands for it."""
        if (child := self._children.get(label_values)) is not None:
            return child
        kept = self._checked(label_values)
        if kept != label_values and kept in self._children:
            return self._children[kept]
        if self._metric is None:
            self._metric = self._make()
        child = self._metric.labels(*kept) if kept else self._metric
        self._children[kept] = child
        return child

    def _checked(self, label_values: tuple[str, ...]) -> tuple[str, ...]:
        if len(label_values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {tuple(self.labels)}, not {label_values}")
        if len(self._children) >= MAX_CHILDREN:
            return ("other",) * len(label_values)
        kept = []
        for (label, allowed), value in zip(self.labels.items(), label_values, strict=True):
            if allowed and value not in allowed:
                if _storage.directory is None:
                    raise ValueError(f"{self.name}: {label}={value!r} is not declared; it has {allowed}")
                value = "other"
            kept.append(value)
        return tuple(kept)


class Counter(_Meter[prometheus_client.Counter]):
    """Counts what happened. Only goes up."""

    def __init__(self, name: str, help_text: str, /, **labels: tuple[str, ...]) -> None:
        super().__init__(name, help_text, labels)
        CATALOGUE[name] = self

    def inc(self, *label_values: str, amount: float = 1) -> None:
        """Add `amount`. Raises ValueError if it is negative: here, where the mistake is, and not in a flush later."""
        if amount < 0:
            raise ValueError(f"{self.name} only goes up, not by {amount}")
        child = self._children.get(label_values)
        if child is None:
            child = self._child(label_values)
        if _will_flush():
            _waiting_counts[child] = _waiting_counts.get(child, 0) + amount
        else:
            child.inc(amount)

    def _make(self) -> prometheus_client.Counter:
        return prometheus_client.Counter(self.name, self.help_text, tuple(self.labels), registry=_registry())


class Gauge(_Meter[prometheus_client.Gauge]):
    """A value that goes up and down. `mode`: how the processes' values become one: their sum, or the largest."""

    def __init__(self, name: str, help_text: str, mode: GaugeMode, /, **labels: tuple[str, ...]) -> None:
        super().__init__(name, help_text, labels)
        self._mode: GaugeMode = mode
        CATALOGUE[name] = self

    def set(self, value: float, *label_values: str) -> None:
        """Set the value of this process."""
        self._child(label_values).set(value)

    def inc(self, *label_values: str, amount: float = 1) -> None:
        """Change the value of this process; `amount` may be negative."""
        child = self._children.get(label_values)
        (child if child is not None else self._child(label_values)).inc(amount)

    def _make(self) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(
            self.name, self.help_text, tuple(self.labels), registry=_registry(), multiprocess_mode=self._mode
        )


class Histogram(_Meter[prometheus_client.Histogram]):
    """How values are spread. `buckets` are upper bounds, ascending."""

    def __init__(self, name: str, help_text: str, buckets: tuple[float, ...], /, **labels: tuple[str, ...]) -> None:
        super().__init__(name, help_text, labels)
        self._buckets = buckets
        CATALOGUE[name] = self

    def observe(self, value: float, *label_values: str) -> None:
        """Count one value."""
        child = self._children.get(label_values)
        if child is None:
            child = self._child(label_values)
        if not _will_flush():
            child.observe(value)
            return
        tally = _waiting_values.get(child)
        if tally is None:
            tally = _waiting_values[child] = _Tally(len(self._buckets) + 1)
        tally.counts[bisect.bisect_left(self._buckets, value)] += 1
        tally.total += value

    def _make(self) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            self.name, self.help_text, tuple(self.labels), registry=_registry(), buckets=self._buckets
        )


class _Tally:
    """What one histogram has seen since the last flush: a count per bucket (the last one has no upper bound)."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets_count: int) -> None:
        self.counts = [0] * buckets_count
        self.total = 0.0


_waiting_counts: dict[prometheus_client.Counter, float] = {}
_waiting_values: dict[prometheus_client.Histogram, _Tally] = {}
_flush_loop: asyncio.AbstractEventLoop | None = None


def _will_flush() -> bool:
    """Whether a flush is to come in this thread's loop, which is then the only one that adds up. False: no loop."""
    global _flush_loop
    loop = asyncio._get_running_loop()
    if loop is None:
        return False
    if _flush_loop is not loop:
        flush()
        _flush_loop = loop
        loop.call_later(FLUSH_EVERY_S, _timed_flush)
    return True


def _timed_flush() -> None:
    global _flush_loop
    _flush_loop = None
    flush()


@atexit.register
def flush() -> None:
    """Write what was added up since the last time. Never raises: it may run in the middle of a delivery, and a number
    that cannot be written is no reason to fail that. Such numbers are lost, and the log says so."""
    try:
        for counter, amount in _waiting_counts.items():
            counter.inc(amount)
        for histogram, tally in _waiting_values.items():
            # What `observe` does for each value, once for all of them.
            histogram._sum.inc(tally.total)
            for bucket, count in zip(histogram._buckets, tally.counts, strict=True):
                if count:
                    bucket.inc(count)
    except Exception:
        _log.exception("metrics of the last moments are lost")
    finally:
        _waiting_counts.clear()
        _waiting_values.clear()


def _registry() -> CollectorRegistry | None:
    return _storage.registry if _storage.directory is None else None


def open_storage(directory: Path | None, process: str) -> None:
    """Keep values in `directory` under the name `process`, or (None) in this process only. Forgets earlier values of
    this process' gauges; counters of the same name go on."""
    flush()
    _storage.directory = directory
    _storage.registry = CollectorRegistry()
    if directory is None:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        values.ValueClass = values.MutexValue
    else:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
        forget_gauges(directory, process)
        values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]
    for meter in CATALOGUE.values():
        meter.reset()
        if isinstance(meter, Counter) and directory is not None:
            meter.make_closed()


def forget_gauges(directory: Path, process: str) -> None:
    """Remove the gauges of a process that is gone; its counters stay."""
    for path in directory.glob(f"gauge_live*_{process}.db"):
        path.unlink(missing_ok=True)


def render_all() -> bytes:
    """All values of all processes in Prometheus' text format."""
    flush()
    if _storage.directory is None:
        return prometheus_client.generate_latest(_storage.registry)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(_storage.directory))  # type: ignore[no-untyped-call]
    return prometheus_client.generate_latest(registry)


def totals(name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The samples of one counter or histogram over all processes, by their labels; for a histogram its buckets, each
    with `le`. Reads all files: 5-20 ms."""
    flush()
    registry = _storage.registry
    if _storage.directory is not None:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=str(_storage.directory))  # type: ignore[no-untyped-call]
    wanted = {name, f"{name}_bucket"}
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name in wanted
    }
