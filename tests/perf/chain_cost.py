"""What the chain of filters itself costs for one message, without a server: filters that have no objection.

    python -m tests.perf.chain_cost FILTERS COUNT

Prints one JSON object. Measured is all that happens at the end of a message on behalf of filters: the view that they
are shown, asking them, their metrics, the ruling. CPU time of this process, in batches; the median batch counts.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time

from mailfront.base.ids import MessageId
from mailfront.filters.chain import Chain
from mailfront.filters.contract import Recipient, Stage
from mailfront.filters.settings import FilterSettings
from mailfront.filters.step import Step
from mailfront.intake.filtering import Screening
from mailfront.mail.address import Address
from mailfront.mail.body import MemoryBody
from mailfront.mail.client import ClientInfo
from mailfront.mail.envelope import Envelope, RecipientOptions
from tests.perf.flood import message
from tests.perf.load import LoadFailed, Sample
from tests.perf.noop_filter import NoopFilter
from tests.support.mailfront_server import ROOT

CHAIN_LENGTHS = (0, 1, 3, 5)
BATCH_COUNT = 200
SIZE_BYTES = 30_000
LIMIT_S = 120.0


class NoServer:
    """Stands for a system in the rows that need none."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to end."""

    def endpoint(self, role: str = "smtp") -> tuple[str, int]:
        """There is none."""
        raise LoadFailed(f"{self.name} listens nowhere")

    def pids(self) -> list[int]:
        """See `System`."""
        return []

    def queued_count(self) -> int:
        """See `System`."""
        return 0


def chain_cost(filters_count: int, count: int) -> Sample:
    """Measure it in a process of its own, which has nothing else to do."""
    command = [sys.executable, "-m", "tests.perf.chain_cost", str(filters_count), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        raise LoadFailed(f"chain of {filters_count}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    found = json.loads(done.stdout)
    return Sample(
        seconds=found["seconds"], count=count, cpu_s=found["each_us"] * count / 1e6, extra={"each_us": found["each_us"]}
    )


async def _measure(filters_count: int, count: int) -> dict[str, float]:
    steps = [
        Step(number, FilterSettings(name=f"noop{number}", kind="noop"), frozenset({Stage.DATA}), NoopFilter())
        for number in range(filters_count)
    ]
    screening = Screening(Chain(steps, {}), "mx1.example.edu")
    data = message(SIZE_BYTES)
    header, body = data[: data.index(b"\r\n\r\n") + 2], MemoryBody(data)
    ana = Address("ana", "example.edu")
    envelope = Envelope(
        id=MessageId("0" * 20),
        client=ClientInfo(ip="192.0.2.1", port=25, helo="client.example.org", protocol="ESMTP"),
        reverse_path=Address("ann", "example.org"),
        recipients=((ana, RecipientOptions()),),
        arrived_s=time.time(),
    )
    recipients = [Recipient(address=ana)]
    deadline_s = asyncio.get_running_loop().time() + LIMIT_S
    begun_s, batches = time.perf_counter(), []
    for _ in range(max(1, count // BATCH_COUNT)):
        before_s = time.process_time()
        for _ in range(BATCH_COUNT):
            await screening.data(envelope, header, body, recipients, (), deadline_s=deadline_s, per_recipient=False)
        batches.append((time.process_time() - before_s) / BATCH_COUNT)
    return {"seconds": time.perf_counter() - begun_s, "each_us": statistics.median(batches) * 1e6}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(int(sys.argv[1]), int(sys.argv[2])))))
