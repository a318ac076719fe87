"""What a server costs: CPU seconds and memory of its whole process tree, read from /proc.

CPU counts user and system time of every process that is alive, and of every one that has ended and was waited for by
its parent, so short-lived children are in it. The kernel gives both in ticks of 10 ms: take rows that cost some tenths
of a second. Memory is the proportional set size: a page that several processes share counts once altogether.
"""

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes and their ended children have used."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # it ended: its parent's line has it
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_PER_S


def memory_bytes(pids: Iterable[int]) -> int:
    """Memory that these processes hold now, shared pages counted once."""
    kib = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib * 1024
