"""The shared counts of failed logins."""

import os
from collections.abc import Iterator

import pytest

from mailfront.net import failures
from mailfront.net.failures import HALF_LIFE_S, FailureTable, make_failure_fd


@pytest.fixture
def tables() -> Iterator[tuple[FailureTable, FailureTable]]:
    """The views of two workers."""
    fd = make_failure_fd()
    first, second = FailureTable(fd), FailureTable(fd)
    os.close(fd)
    yield first, second
    first.close()
    second.close()


def fail(table: FailureTable, ip: str, login: str, now_s: float) -> None:
    """One wrong password."""
    table.address_failed(ip, now_s)
    table.account_failed(login, now_s)


def test_failures_at_all_workers_are_counted_together(tables: tuple[FailureTable, FailureTable]) -> None:
    """Per address and per account, and not for others."""
    first, second = tables
    fail(first, "192.0.2.1", "ana", 1000.0)
    fail(second, "192.0.2.1", "bob", 1000.0)
    assert first.of_address("192.0.2.1", 1000.0) == second.of_address("192.0.2.1", 1000.0) == 2.0
    assert second.of_account("ana", 1000.0) == 1.0
    assert second.of_account("eve", 1000.0) == second.of_address("192.0.2.2", 1000.0) == 0.0


def test_ipv6_addresses_count_by_their_network(tables: tuple[FailureTable, FailureTable]) -> None:
    """A machine with a whole /64 is one machine; an IPv4 address written in IPv6 is that address."""
    table = tables[0]
    fail(table, "2001:db8::1", "ana", 0.0)
    fail(table, "::ffff:192.0.2.1", "ana", 0.0)
    assert table.of_address("2001:db8::2", 0.0) == table.of_address("192.0.2.1", 0.0) == 1.0


def test_counts_decay_until_nothing_is_left(tables: tuple[FailureTable, FailureTable]) -> None:
    """Half is left after the half-life, and after an hour nothing."""
    table = tables[0]
    for _ in range(4):
        fail(table, "192.0.2.1", "ana", 1000.0)
    assert table.of_account("ana", 1000.0 + HALF_LIFE_S) == 2.0
    assert table.of_account("ana", 1000.0 + 12 * HALF_LIFE_S) == 0.0


def test_a_success_clears_the_account_and_not_the_address(tables: tuple[FailureTable, FailureTable]) -> None:
    """An attacker with one account of their own gains nothing for others."""
    table = tables[0]
    fail(table, "192.0.2.1", "ana", 0.0)
    tables[1].account_succeeded("ana")
    assert table.of_account("ana", 0.0) == 0.0
    assert table.of_address("192.0.2.1", 0.0) == 1.0


def test_memory_is_bounded_and_the_worst_are_kept(
    tables: tuple[FailureTable, FailureTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all cells taken, a new name takes the place of the smallest count."""
    monkeypatch.setattr(failures, "CELLS", 4)
    table = tables[0]
    for _ in range(3):
        fail(table, "192.0.2.1", "ana", 0.0)
    for number in range(100):
        fail(table, "192.0.2.1", f"name{number}", 0.0)
    assert table.of_account("ana", 0.0) == 3.0
    assert table.of_address("192.0.2.1", 0.0) == 103.0
    assert sum(table.of_account(f"name{number}", 0.0) > 0 for number in range(100)) <= 2


@pytest.mark.parametrize("login", ["", "\udcff", "x" * 5000])
def test_any_name_can_be_counted(tables: tuple[FailureTable, FailureTable], login: str) -> None:
    """Names come from the wire: none of them is an error."""
    fail(tables[0], "192.0.2.1", login, 0.0)
    assert tables[0].of_account(login, 0.0) == 1.0
