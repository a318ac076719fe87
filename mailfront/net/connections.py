"""How many connections are open, in total and per client address, over all workers of this front end.

The counts live in one block of shared memory that the supervisor makes (`make_table_fd`) and every worker maps. Each
worker has a column of its own and writes only there; all read all. So there is no lock, and the counts of a worker
that died vanish when its column is cleared: by the supervisor (`clear`), or by the next worker in that place.

Addresses are not stored. Each one counts in one cell of each of two rows, chosen by a hash with a random key; its
count is the smaller of the two sums. Two addresses that share both cells may be counted together, which with 5,000
connections adds one now and then; nobody outside can aim at it. IPv6 clients count per /64, since a single machine has
so many addresses. Two workers that admit at the same moment may exceed a limit by one each.

Limits: 64 workers, 65,535 connections per worker and cell. Cost: about 5 us per connection. Survives no restart.
"""

import hashlib
import ipaddress
import mmap
import os
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from mailfront.net.networks import canonical_ip

MAX_WORKERS = 64
_CELLS = 32768
_KEY_BYTES = 16
_HEADER_BYTES = 4096
_MOST = 65535


class RefusedFor(Enum):
    """Which limit a connection met."""

    TOTAL = "refused_total"
    PER_IP = "refused_per_ip"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection was not admitted."""

    limit_name: RefusedFor
    limit: int
    count: int


def make_table_fd(workers_count: int = MAX_WORKERS) -> int:
    """Make the shared memory, all counts zero. Returns a descriptor to be inherited by the workers."""
    fd = os.memfd_create("mailfront-connections", os.MFD_CLOEXEC)
    try:
        os.truncate(fd, _size_bytes(workers_count))
        os.pwrite(fd, os.urandom(_KEY_BYTES), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _size_bytes(workers_count: int) -> int:
    # Each row has its cells, and in front of the first row the workers' totals take one more cell.
    return _HEADER_BYTES + (1 + 2 * _CELLS) * workers_count * 2


class ConnectionTable:
    """One process' view of the table. `worker_index` None (supervisor, keeper): may read and clear, not admit."""

    def __init__(
        self,
        fd: int,
        worker_index: int | None,
        workers_count: int = MAX_WORKERS,
        *,
        total_limit: int,
        per_ip_limit: int,
    ) -> None:
        """Map the table and clear the own column. `workers_count` must be what the table was made for.

        A limit of 0 means none. The descriptor may be closed afterwards.
        """
        if worker_index is not None and not 0 <= worker_index < workers_count:
            raise ValueError(f"worker {worker_index} of {workers_count}")
        self._memory = mmap.mmap(fd, _size_bytes(workers_count))
        self._key = self._memory[:_KEY_BYTES]
        self._bytes = memoryview(self._memory)[_HEADER_BYTES:]
        self._counts = self._bytes.cast("H")
        self._index = worker_index
        self._width = workers_count
        self._total_limit = total_limit
        self._per_ip_limit = per_ip_limit
        self._cells = lru_cache(maxsize=8192)(self._find_cells)
        if worker_index is not None:
            self.clear(worker_index)

    def admit(self, ip: str) -> Refusal | None:
        """Count a new connection, or say which limit it meets; then it is not counted.

        `ip` '' (a UNIX socket) has no limit per address. Each admitted connection is released once, with the same `ip`.
        """
        total = self.total()
        if 0 < self._total_limit <= total:
            return Refusal(RefusedFor.TOTAL, self._total_limit, total)
        if ip and self._per_ip_limit:
            count = self.count(ip)
            if count >= self._per_ip_limit:
                return Refusal(RefusedFor.PER_IP, self._per_ip_limit, count)
        self._add(ip, 1)
        return None

    def release(self, ip: str) -> None:
        """Forget a connection that was admitted."""
        self._add(ip, -1)

    def total(self) -> int:
        """Open connections of all workers."""
        return sum(self._counts[: self._width])

    def count(self, ip: str) -> int:
        """Open connections of one address (IPv6: of its /64) at all workers; never too small."""
        width = self._width
        return min(sum(self._counts[cell : cell + width]) for cell in self._cells(ip))

    def clear(self, worker_index: int) -> None:
        """Forget all connections of a worker that has ended."""
        zeros = memoryview(bytes(2 * (1 + 2 * _CELLS))).cast("H")
        self._counts[worker_index :: self._width] = zeros

    def close(self) -> None:
        """Unmap the table."""
        self._counts.release()
        self._bytes.release()
        self._memory.close()

    def _add(self, ip: str, change: int) -> None:
        if self._index is None:
            raise ValueError("only a worker counts connections")
        for cell in (0, *self._cells(ip)) if ip else (0,):
            position = cell + self._index
            self._counts[position] = min(_MOST, max(0, self._counts[position] + change))

    def _find_cells(self, ip: str) -> tuple[int, int]:
        digest = hashlib.blake2b(counted_as(ip), key=self._key, digest_size=8).digest()
        first = int.from_bytes(digest[:4], "big") % _CELLS
        second = int.from_bytes(digest[4:], "big") % _CELLS
        return (1 + first) * self._width, (1 + _CELLS + second) * self._width


def counted_as(ip: str) -> bytes:
    """What an address is counted under: itself, or the /64 of an IPv6 address. Raises ValueError."""
    address = ipaddress.ip_address(canonical_ip(ip))
    return address.packed if address.version == 4 else address.packed[:8]
