"""The table of open connections."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailfront.net import connections
from mailfront.net.connections import ConnectionTable, RefusedFor, make_table_fd

Maker = Callable[..., ConnectionTable]

CHILD = """
import sys
from mailfront.net.connections import ConnectionTable
table = ConnectionTable(int(sys.argv[1]), 1, 4, total_limit=0, per_ip_limit=0)
for _ in range(3):
    table.admit("192.0.2.1")
print("counted", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def table_of() -> Iterator[Maker]:
    """Makes views of one shared table for four workers."""
    fd = make_table_fd(4)
    made: list[ConnectionTable] = []

    def make(index: int | None, total: int = 0, per_ip: int = 0) -> ConnectionTable:
        made.append(ConnectionTable(fd, index, 4, total_limit=total, per_ip_limit=per_ip))
        return made[-1]

    make.fd = fd  # type: ignore[attr-defined]
    yield make
    for table in made:
        table.close()
    os.close(fd)


def test_limits_hold_across_workers(table_of: Maker) -> None:
    """Two workers together reach the limit per address and in total."""
    first, second = table_of(0, total=5, per_ip=3), table_of(3, total=5, per_ip=3)
    assert first.admit("192.0.2.1") is None
    assert second.admit("192.0.2.1") is None
    assert second.admit("::ffff:192.0.2.1") is None
    refusal = first.admit("192.0.2.1")
    assert refusal is not None
    assert (refusal.limit_name, refusal.limit, refusal.count) == (RefusedFor.PER_IP, 3, 3)
    assert first.admit("192.0.2.2") is None
    assert first.admit("") is None
    refusal = second.admit("198.51.100.1")
    assert refusal is not None
    assert refusal.limit_name is RefusedFor.TOTAL
    second.release("192.0.2.1")
    assert first.total() == 4
    assert first.admit("192.0.2.1") is None


def test_ipv6_clients_count_per_64(table_of: Maker) -> None:
    """One machine has a whole /64 of addresses; the neighbour network is another client."""
    table = table_of(0, per_ip=2)
    assert table.admit("2001:db8:0:1::1") is None
    assert table.admit("2001:db8:0:1:ffff::2") is None
    assert table.admit("2001:db8:0:1::3") is not None
    assert table.admit("2001:db8:0:2::1") is None


def test_a_unix_socket_has_no_limit_per_address(table_of: Maker) -> None:
    """Local peers count in the total only."""
    table = table_of(0, total=100, per_ip=1)
    assert [table.admit("") for _ in range(5)] == [None] * 5
    for _ in range(5):
        table.release("")
    assert table.total() == 0


def test_counts_never_go_below_zero(table_of: Maker) -> None:
    """A release too many is harmless."""
    table = table_of(0, per_ip=1)
    table.release("192.0.2.1")
    assert (table.total(), table.count("192.0.2.1")) == (0, 0)
    assert table.admit("192.0.2.1") is None
    assert table.count("192.0.2.1") == 1


def test_a_killed_workers_connections_vanish(table_of: Maker) -> None:
    """They are counted while its process lives, kept when it is killed, and gone when its place is cleared."""
    fd: int = table_of.fd  # type: ignore[attr-defined]
    keeper, other = table_of(None), table_of(0)
    other.admit("192.0.2.1")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(fd,),
        env={**os.environ, "PYTHONPATH": str(Path(connections.__file__).parents[2])},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"counted\n"
    assert (keeper.total(), keeper.count("192.0.2.1")) == (4, 4)
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert keeper.total() == 4
    keeper.clear(1)
    assert (keeper.total(), keeper.count("192.0.2.1")) == (1, 1)


def test_a_restarted_worker_begins_at_zero(table_of: Maker) -> None:
    """Mapping a worker's place clears what its predecessor left."""
    before = table_of(2)
    before.admit("192.0.2.1")
    after = table_of(2)
    assert after.total() == 0


def test_many_clients_are_kept_apart(table_of: Maker) -> None:
    """With 3,000 other clients connected, a client's own count is off by at most a few."""
    table = table_of(1)
    for number in range(3000):
        table.admit(f"10.{number >> 8}.{number & 255}.1")
    assert table.total() == 3000
    surplus = [table.count(f"203.0.113.{number}") for number in range(200)]
    assert max(surplus) <= 5
    assert sum(count == 0 for count in surplus) > 150


def test_only_a_worker_counts(table_of: Maker) -> None:
    """The supervisor's view reads and clears; a wrong place is refused."""
    with pytest.raises(ValueError, match="only a worker"):
        table_of(None).admit("192.0.2.1")
    with pytest.raises(ValueError, match="worker 4 of 4"):
        table_of(4)
