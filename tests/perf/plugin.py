"""The plug-in package of the benchmark: its kinds of filters, and the folder that makes them known to mailfront."""

from pathlib import Path

KINDS = {"noop": "tests.perf.noop_filter:KIND", "local-dnsbl": "tests.perf.local_dnsbl:KIND"}


def install(folder: Path) -> Path:
    """Write the package's entry points into `folder`, which then belongs into PYTHONPATH. Returns the folder."""
    information = folder / "mailfront_bench-1.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mailfront-bench\nVersion: 1\n")
    lines = [f"{name} = {where}" for name, where in KINDS.items()]
    (information / "entry_points.txt").write_text("[mailfront.filters]\n" + "\n".join(lines) + "\n")
    return folder
