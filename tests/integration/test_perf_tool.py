"""The benchmark still runs: one small sample of each kind of row, on the real servers. No speed is asserted."""

import json
import subprocess
import sys
from pathlib import Path

from tests.perf.flood import BUCKET_S
from tests.support.mailfront_server import ROOT

SMALL = "new-4k,fan-out,starttls,queue,drain,chain-cost,flood-mail,login,idle-tls,relay"


def test_the_benchmark_measures_a_small_sample_of_each_kind_of_row(tmp_path: Path) -> None:
    """Every system of the row has a rate, and one with processes has CPU and a verdict on each target."""
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.perf", "--rows", SMALL, "--rounds", "1", "--scale", "0.01"]
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
    assert [row["name"] for row in found["rows"]] == SMALL.split(",")
    for row in found["rows"]:
        assert row["failure"] == "", row
        assert all(sample["rate"] > 0 for samples in row["rounds"] for sample in samples.values()), row
        assert all(target["verdict"] in ("pass", "short") for target in row["targets"]), row
    targets_count = sum(len(row["targets"]) for row in found["rows"])
    assert targets_count > 0
    assert f"of {targets_count} targets reached" in done.stdout
    flood = next(row for row in found["rows"] if row["name"] == "flood-mail")["rounds"][0]["mailfront-dnsbl"]
    assert flood["extra"]["refused_count"] == 100
    assert sum(flood["series"]["refused_per_s"]) * BUCKET_S == 100
