"""The benchmark still runs: one small sample of each kind of row, on the real servers. No speed is asserted."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.mailfront_server import ROOT

ROWS = "new-4k,starttls,queue,drain,idle,relay"


def test_the_benchmark_measures_a_small_sample_of_each_kind_of_row(tmp_path: Path) -> None:
    """Every system of the row has a rate, and one with processes has CPU and a verdict on each target."""
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.perf", "--rows", ROWS, "--rounds", "1", "--scale", "0.02"]
    done = subprocess.run(
        [*command, "--json", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert [row["name"] for row in found["rows"]] == ROWS.split(",")
    for row in found["rows"]:
        assert row["failure"] == "", row
        assert all(sample["rate"] > 0 for samples in row["rounds"] for sample in samples.values()), row
        assert all(target["verdict"] in ("pass", "short") for target in row["targets"]), row
    assert "of 5 targets reached" in done.stdout
