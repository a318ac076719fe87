"""Run everything that `make test` promises, in order, and print one plain closing count.

First what costs seconds and finds most (lint, types, layers, module lengths), then the tests: those that share the
machine in parallel, those marked `serial` (load and fault) one after the other. Fails at the first step that fails.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
MOST_LINES = 700
LINTS = (
    ("ruff", "check", "--quiet", "mailfront", "tests"),
    ("ruff", "format", "--check", "--quiet", "mailfront", "tests"),
    ("mypy", "mailfront", "tests"),
    ("lint-imports",),
)
SUITES = (
    ("-n", "2", "--dist", "loadfile", "-m", "not serial"),
    ("-m", "serial"),
)


def main() -> int:
    """Run all steps. Returns the exit status."""
    for command in LINTS:
        step(*command)
    long = [path for path in TOP.glob("mailfront/**/*.py") if len(path.read_text().splitlines()) > MOST_LINES]
    if long:
        print(f"longer than {MOST_LINES} lines: {', '.join(map(str, long))}")
        return 1
    if "--lint-only" in sys.argv:
        return 0
    # The suite starts some thousand processes: without compiled modules each one compiles the whole product first.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    totals = {"passed": 0, "failed": 0}
    for suite in SUITES:
        started_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "--durations=10", *suite, "tests"],
            cwd=TOP,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        status = process.wait()
        closing = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), "")
        for count, word in re.findall(r"(\d+) (passed|failed|error)", closing):
            totals["failed" if word == "error" else word] += int(count)
        print(f"-- {' '.join(suite)}: {time.monotonic() - started_s:.0f} s", flush=True)
        if status != 0 and not totals["failed"]:
            totals["failed"] += 1
    print(f"{totals['passed']} passed, {totals['failed']} failed")
    return 1 if totals["failed"] or not totals["passed"] else 0


def step(*command: str) -> None:
    """Run one checker; end the whole run if it complains."""
    started_s = time.monotonic()
    done = subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], cwd=TOP, check=False)
    verdict = "ok" if done.returncode == 0 else "FAILED"
    print(f"-- {' '.join(command)}: {verdict} ({time.monotonic() - started_s:.0f} s)", flush=True)
    if done.returncode != 0:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
