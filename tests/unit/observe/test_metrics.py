"""The catalogue of metrics and how processes share it."""

import ast
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailfront.observe import meters, metrics

CHILD = """
import sys
from pathlib import Path
from mailfront.observe import metrics
metrics.start(Path(sys.argv[1]), sys.argv[2])
metrics.INTAKE_MESSAGES.inc("delivered", amount=int(sys.argv[3]))
metrics.EDGE_CONNECTIONS_OPEN.set(int(sys.argv[3]), "0.0.0.0:25")
metrics.STORE_COMMIT_SECONDS.observe(0.002)
print("counted", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _local_values() -> Iterator[None]:
    """Each test starts and ends with values of this process only."""
    meters.open_storage(None, "")
    yield
    meters.open_storage(None, "")


def value_of(name: str, rendered: bytes) -> float:
    """One sample's value."""
    (line,) = [line for line in rendered.decode().splitlines() if line.startswith(name + " ")]
    return float(line.rsplit(" ", 1)[1])


def test_names_follow_the_house_rule() -> None:
    """Every metric is mailfront_<package>_<what>_<unit> with a help text."""
    for name, meter in meters.CATALOGUE.items():
        prefix, package, *rest = name.split("_")
        assert prefix == "mailfront"
        assert package in {
            "net", "edge", "sessions", "intake", "filters", "directory", "delivery", "cluster", "store", "queue",
            "transfer", "observe", "app",
        }  # fmt: skip
        assert rest[-1] in {"total", "count", "seconds", "bytes"}, name
        assert meter.help_text.endswith("."), name


def uses() -> list[tuple[str, str, ast.Call]]:
    """Each `metrics.NAME.inc(...)`, `.set(...)` and `.observe(...)` in the source: place, NAME, the call."""
    package = Path(metrics.__file__).parent.parent
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(method := node.func, ast.Attribute):
                owner = method.value
                if (
                    method.attr in {"inc", "set", "observe"}
                    and isinstance(owner, ast.Attribute)
                    and getattr(owner.value, "id", "") == "metrics"
                ):
                    found.append((f"{path.relative_to(package.parent)}:{node.lineno}", owner.attr, node))
    return found


def test_every_use_in_the_source_fits_its_declaration() -> None:
    """Each metric that is counted is declared, has the right number of labels, and values of its closed sets."""
    wrong = []
    for place, name, call in uses():
        meter = getattr(metrics, name, None)
        if meter is None:
            wrong.append(f"{place}: {name} is not declared")
            continue
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        labels = call.args if method == "inc" else call.args[1:]
        if any(isinstance(label, ast.Starred) for label in labels):
            continue
        if len(labels) != len(meter.labels):
            wrong.append(f"{place}: {name} has the labels {tuple(meter.labels)}")
        for (label, allowed), given in zip(meter.labels.items(), labels, strict=False):
            if allowed and isinstance(given, ast.Constant) and given.value not in allowed:
                wrong.append(f"{place}: {name} {label}={given.value!r} is not one of {allowed}")
    assert wrong == []


def test_values_count_in_this_process_without_start() -> None:
    """Without shared storage counters, gauges and histograms work and render."""
    metrics.INTAKE_MESSAGES.inc("delivered")
    metrics.INTAKE_MESSAGES.inc("delivered", amount=2)
    metrics.ALARMS_ACTIVE.set(3)
    metrics.ALARMS_ACTIVE.inc(amount=-1)
    metrics.INTAKE_SECONDS.observe(0.003, "total")
    rendered = metrics.render()
    assert value_of('mailfront_intake_messages_total{result="delivered"}', rendered) == 3
    assert value_of("mailfront_observe_alarms_active_count", rendered) == 2
    assert value_of('mailfront_intake_stage_seconds_count{stage="total"}', rendered) == 1


def test_labels_come_from_closed_sets(tmp_path: Path) -> None:
    """An undeclared label value raises in tests, and is counted as `other` in a running server."""
    with pytest.raises(ValueError, match="not declared"):
        metrics.INTAKE_MESSAGES.inc("ana@example.edu")
    with pytest.raises(ValueError, match="has the labels"):
        metrics.INTAKE_MESSAGES.inc()
    metrics.start(tmp_path, "worker-0")
    metrics.INTAKE_MESSAGES.inc("ana@example.edu")
    metrics.INTAKE_MESSAGES.inc("bo@example.edu")
    rendered = metrics.render()
    assert b"ana@" not in rendered
    assert value_of('mailfront_intake_messages_total{result="other"}', rendered) == 2


def test_the_number_of_children_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More names than the bound are counted together as `other`."""
    monkeypatch.setattr(meters, "MAX_CHILDREN", 10)
    for number in range(50):
        metrics.MAP_BUCKETS.set(1, f"store{number}")
    assert metrics.render().count(b"\nmailfront_cluster_buckets_count{") == 11


def test_processes_share_one_directory_and_survive_a_kill(tmp_path: Path) -> None:
    """Counters of a killed process stay and go on under its name; its gauges leave the sum."""
    metrics.prepare(tmp_path)
    metrics.start(tmp_path, "keeper")
    metrics.INTAKE_MESSAGES.inc("delivered")
    metrics.EDGE_CONNECTIONS_OPEN.set(1, "0.0.0.0:25")
    message_total, open_count = (
        'mailfront_intake_messages_total{result="delivered"}',
        'mailfront_edge_connections_open_count{listener="0.0.0.0:25"}',
    )
    for seen_total, seen_open in ((11, 11), (21, 11)):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), "worker-0", "10"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(metrics.__file__).parents[2])},
        )
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"counted\n"
        rendered = metrics.render()
        assert value_of(message_total, rendered) == seen_total
        assert value_of(open_count, rendered) == seen_open
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    metrics.process_gone(tmp_path, "worker-0")
    rendered = metrics.render()
    assert value_of(open_count, rendered) == 1
    assert value_of(message_total, rendered) == 21
    assert value_of("mailfront_store_commit_seconds_count", rendered) == 2


def test_closed_counters_are_shown_as_zero_from_the_start(tmp_path: Path) -> None:
    """An alert on a rate needs the series to exist before the first event."""
    metrics.start(tmp_path, "worker-0")
    assert value_of('mailfront_intake_messages_total{result="queued"}', metrics.render()) == 0


def test_prepare_empties_and_bad_names_are_refused(tmp_path: Path) -> None:
    """A new start of the server begins at zero; a process name with an underscore is refused."""
    metrics.start(tmp_path, "worker-0")
    metrics.INTAKE_MESSAGES.inc("queued")
    meters.open_storage(None, "")
    metrics.prepare(tmp_path)
    assert list(tmp_path.glob("*.db")) == []
    with pytest.raises(ValueError, match="underscore"):
        metrics.start(tmp_path, "worker_0")


_EDGES = (0.0, 0.001, 0.0010001, 0.3, 300.0, 1e6)
_SAMPLES = b"mailfront_store_commit_seconds"


def _histogram() -> list[bytes]:
    lines = metrics.render().splitlines()
    return [line for line in lines if line.startswith(_SAMPLES) and b"_created" not in line]


async def test_what_is_added_up_in_a_loop_is_what_would_have_been_counted_at_once() -> None:
    """Every bucket, the sum and the counter are the same, also for values on an edge and beyond the last one."""

    def count() -> None:
        for value in _EDGES:
            metrics.STORE_COMMIT_SECONDS.observe(value)
            metrics.STORE_OPERATIONS.inc(amount=2)

    count()
    in_the_loop, operations = _histogram(), value_of("mailfront_store_operations_total", metrics.render())
    meters.open_storage(None, "")
    await asyncio.to_thread(count)  # no loop runs there: counted at once
    assert in_the_loop == _histogram()
    assert operations == value_of("mailfront_store_operations_total", metrics.render()) == 2 * len(_EDGES)


async def test_counts_reach_the_storage_soon_without_being_asked_for(tmp_path: Path) -> None:
    """Another process sees them: they are in the shared file a moment later."""
    metrics.start(tmp_path, "worker-0")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    metrics.STORE_OPERATIONS.inc(amount=7)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    async with asyncio.timeout(20):
        while {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before:
            await asyncio.sleep(0.02)


def test_a_counter_refuses_to_go_down_where_the_mistake_is_made() -> None:
    """Not later, in the middle of something else."""
    with pytest.raises(ValueError, match="only goes up"):
        metrics.STORE_OPERATIONS.inc(amount=-1)


async def test_numbers_that_cannot_be_written_fail_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A delivery that counts itself while the storage fails goes on; the loss is logged, once, and counting goes on."""

    def broken(*_args: float) -> None:
        raise OSError("no space left")

    metrics.STORE_OPERATIONS.inc(amount=1)
    counter = next(iter(meters._waiting_counts))
    monkeypatch.setattr(type(counter), "inc", broken)
    meters.flush()
    assert [record.getMessage() for record in caplog.records] == ["metrics of the last moments are lost"]
    monkeypatch.undo()
    metrics.STORE_OPERATIONS.inc(amount=3)
    assert value_of("mailfront_store_operations_total", metrics.render()) == 3
