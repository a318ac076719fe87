"""How often logins have failed lately, per client address and per account, over all workers of this front end.

The counts live in shared memory that the supervisor makes (`make_failure_fd`) and every worker maps, so guesses that
spread over workers are counted together, without asking anybody, and a worker's crash forgets nothing. A count halves
every `HALF_LIFE_S`; a success takes the account's count away.

What is counted is not stored: a cell is found by a hash with a random key, and holds a second hash, the count, and when
that was. Each thing has `_WAYS` cells that it may use; when all are taken, the smallest count makes room. So memory is
fixed whatever an attacker does, and filling it takes failed logins, which are slow. Two workers that write one cell in
the same moment may lose one of two counts, which does not matter here.

Limits: `CELLS` cells, 1 MiB; each worker keeps where the last 4,096 names and addresses are counted. Cost: about 5 us
per login. Survives no restart of the supervisor.
"""

import hashlib
import mmap
import os
import struct
from functools import lru_cache

from mailfront.net.connections import counted_as

HALF_LIFE_S = 300.0
CELLS = 65536
_WAYS = 4
_KEY_BYTES = 16
_HEADER_BYTES = 4096
_CELL = struct.Struct("<QfI")
"""Hash of what is counted; count at that time; monotonic time in seconds, the same in all processes of a machine."""
_LEAST_COUNT = 0.05


def make_failure_fd() -> int:
    """Make the shared memory, all counts zero. Returns a descriptor to be inherited by the workers."""
    fd = os.memfd_create("mailfront-failures", os.MFD_CLOEXEC)
    try:
        os.truncate(fd, _HEADER_BYTES + CELLS * _CELL.size)
        os.pwrite(fd, os.urandom(_KEY_BYTES), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


class FailureTable:
    """One process' view of the table."""

    def __init__(self, fd: int) -> None:
        """Map the table. The descriptor may be closed afterwards."""
        self._memory = mmap.mmap(fd, _HEADER_BYTES + CELLS * _CELL.size)
        self._key = self._memory[:_KEY_BYTES]
        # One login asks up to three times about the same two names.
        self._find_address = lru_cache(maxsize=4096)(lambda ip: self._find(b"a" + counted_as(ip)))
        self._find_account = lru_cache(maxsize=4096)(lambda login: self._find(_account(login)))

    def close(self) -> None:
        """Unmap the table."""
        self._memory.close()

    def of_address(self, ip: str, now_s: float) -> float:
        """Failed logins from an address (IPv6: from its /64), the older ones counted less."""
        return self._count(self._find_address(ip), now_s)

    def of_account(self, login: str, now_s: float) -> float:
        """Failed logins at an account, from anywhere. `login` in the form in which accounts are compared."""
        return self._count(self._find_account(login), now_s)

    def address_failed(self, ip: str, now_s: float) -> None:
        """A login from there failed because of what the client sent."""
        self._add(self._find_address(ip), now_s)

    def account_failed(self, login: str, now_s: float) -> None:
        """A login at this account failed because of what the client sent."""
        self._add(self._find_account(login), now_s)

    def account_succeeded(self, login: str) -> None:
        """A login went well: forget what was counted for the account."""
        hashed, places = self._find_account(login)
        for place in places:
            if _CELL.unpack_from(self._memory, place)[0] == hashed:
                _CELL.pack_into(self._memory, place, 0, 0.0, 0)

    def _count(self, where: tuple[int, range], now_s: float) -> float:
        hashed, places = where
        for place in places:
            found, count, at_s = _CELL.unpack_from(self._memory, place)
            if found == hashed:
                return _decayed(count, at_s, now_s)
        return 0.0

    def _add(self, where: tuple[int, range], now_s: float) -> None:
        hashed, places = where
        smallest: tuple[float, int] | None = None
        for place in places:
            found, count, at_s = _CELL.unpack_from(self._memory, place)
            left = _decayed(count, at_s, now_s)
            if found == hashed:
                _CELL.pack_into(self._memory, place, hashed, left + 1.0, int(now_s))
                return
            if smallest is None or left < smallest[0]:
                smallest = (left, place)
        assert smallest is not None
        _CELL.pack_into(self._memory, smallest[1], hashed, 1.0, int(now_s))

    def _find(self, what: bytes) -> tuple[int, range]:
        """The hash that stands for it, and the cells that it may be in."""
        digest = hashlib.blake2b(what, key=self._key, digest_size=16).digest()
        first = int.from_bytes(digest[8:], "little") % (CELLS // _WAYS) * _WAYS
        begin = _HEADER_BYTES + first * _CELL.size
        # 0 marks a free cell.
        hashed = int.from_bytes(digest[:8], "little") or 1
        return hashed, range(begin, begin + _WAYS * _CELL.size, _CELL.size)


def _account(login: str) -> bytes:
    return b"n" + login.encode("utf-8", "surrogatepass")


def _decayed(count: float, at_s: int, now_s: float) -> float:
    left: float = count * 0.5 ** (max(0.0, now_s - at_s) / HALF_LIFE_S)
    return left if left >= _LEAST_COUNT else 0.0
