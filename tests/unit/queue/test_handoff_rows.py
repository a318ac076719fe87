"""Handed-off copies: every state and every way from one to another."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailfront.base.clock import ManualClock
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.rows import HandoffRow, HandoffState
from mailfront.queue.wire import CopyRecipientValue, HandoffCopyValue
from mailfront.store.writer import Store
from tests.support.queue_rows import RETRY_S, A, B, C, message_id, open_store

_ID = message_id(1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, clock)
    yield opened
    await opened.close()


@pytest.fixture
def table(store: Store) -> HandoffTable:
    return HandoffTable(store, retry_s=RETRY_S, chance=lambda: 0.5)


def _copy(number: int = 1, *users: str, home: NodeId = A, first: int = 0) -> HandoffCopyValue:
    recipients = tuple(
        CopyRecipientValue(
            number=index,
            address=f"{user}@example.edu",
            mailbox_key=MailboxKey(user),
            node_user=NodeUser(user),
            options=RecipientOptions(notify="FAILURE", orcpt=None),
        )
        for index, user in enumerate(users or ("ana", "bob"), first)
    )
    return HandoffCopyValue(
        id=message_id(number), home=home, reverse_path="s@out.example", arrived_s=500.0, recipients=recipients
    )


async def _states(table: HandoffTable) -> dict[tuple[str, int], HandoffState]:
    return {(row.holder, row.number): row.state for row in await table.find([_ID])}


async def _claim(table: HandoffTable, target: NodeId | None = A, limit: int = 10) -> list[HandoffRow]:
    return await table.claim(B, A, limit=limit, owner="me", target=lambda row: target)


async def test_from_stored_to_forgotten(table: HandoffTable, clock: ManualClock) -> None:
    """The good way: begun, claimed, at home, expunged, and forgotten after thirty days."""
    await table.begin(_copy(), B)
    assert await table.counts() == {(B, A, HandoffState.STORED): 2}
    assert await table.oldest_arrived_s() == 500.0
    rows = await _claim(table)
    assert [(row.address, row.state, row.node) for row in rows] == [
        ("ana@example.edu", HandoffState.STORED, A),
        ("bob@example.edu", HandoffState.STORED, A),
    ]
    assert rows[0].options.notify == "FAILURE"
    assert set((await _states(table)).values()) == {HandoffState.DRAINING}
    await table.at_home(_ID, B, [0, 1])
    assert await table.oldest_arrived_s() is None
    await table.expunged(_ID, B)
    assert set((await _states(table)).values()) == {HandoffState.EXPUNGED}
    clock.advance(30 * 86400 - 1)
    assert await table.sweep() == 0
    clock.advance(2)
    assert await table.sweep() == 2
    assert await _states(table) == {}


async def test_a_claimed_row_is_claimed_once(table: HandoffTable) -> None:
    """Two drains never bring the same copy home at the same time."""
    await table.begin(_copy(), B)
    assert len(await _claim(table, limit=1)) == 1
    assert len(await _claim(table)) == 1
    assert await _claim(table) == []


async def test_a_row_without_a_target_waits_a_minute(table: HandoffTable, clock: ManualClock) -> None:
    """The mailbox's present owner is down: leave the row and look at it again later."""
    await table.begin(_copy(), B)
    assert await _claim(table, target=None) == []
    assert set((await _states(table)).values()) == {HandoffState.STORED}
    assert await _claim(table) == []
    clock.advance(61.0)
    assert len(await _claim(table, target=C)) == 2


async def test_a_dead_process_leaves_unknown_rows_at_their_node(table: HandoffTable) -> None:
    """A claim whose process died is found as draining, with the node where it may be, even if the owner changed."""
    await table.begin(_copy(), B)
    await _claim(table)
    assert await table.lease_owners() == ["me"]
    assert await table.release_leases_of("me") == 2
    again = await _claim(table, target=C)
    assert {(row.state, row.node) for row in again} == {(HandoffState.DRAINING, A)}


async def test_a_lapsed_lease_is_unknown_too(table: HandoffTable, clock: ManualClock) -> None:
    """Without renewal a claim ends after 15 minutes; with it, it lives."""
    await table.begin(_copy(), B)
    await _claim(table)
    clock.advance(800.0)
    assert await table.renew("me") == 2
    clock.advance(800.0)
    assert await _claim(table) == []
    clock.advance(101.0)
    assert {row.state for row in await _claim(table)} == {HandoffState.DRAINING}


async def test_deferred_and_unknown_wait_for_the_schedule(table: HandoffTable, clock: ManualClock) -> None:
    """Deferred is stored again, unknown stays draining; both are tried again after the first wait."""
    await table.begin(_copy(), B)
    await _claim(table)
    await table.deferred(_ID, B, {0: "451 4.3.0 later"})
    await table.unknown(_ID, B, {1: "lost after the dot"})
    assert await _states(table) == {("b", 0): HandoffState.STORED, ("b", 1): HandoffState.DRAINING}
    clock.advance(59.0)
    assert await _claim(table) == []
    clock.advance(2.0)
    rows = await _claim(table)
    assert {row.number: (row.state, row.last_reply, row.attempts) for row in rows} == {
        0: (HandoffState.STORED, "451 4.3.0 later", 2),
        1: (HandoffState.DRAINING, "lost after the dot", 2),
    }


async def test_home_is_back(table: HandoffTable) -> None:
    """Waking a home makes everything that waits for it due now."""
    await table.begin(_copy(), B)
    await _claim(table)
    await table.deferred(_ID, B, {0: "x", 1: "y"})
    assert await table.wake(C) == 0
    assert await table.wake(A) == 2
    assert len(await _claim(table)) == 2


async def test_refused_is_held(table: HandoffTable) -> None:
    """Home refused it for good: it is not tried again, and not forgotten."""
    await table.begin(_copy(), B)
    await _claim(table)
    await table.refused(_ID, B, {0: "550 5.7.1 no", 1: "550 5.7.1 no"})
    assert await table.counts() == {(B, A, HandoffState.HELD): 2}
    await table.wake(A)
    assert await _claim(table) == []
    await table.expunged(_ID, B)
    assert await table.counts() == {(B, A, HandoffState.HELD): 2}


async def test_superseded_copies_are_not_brought_home(table: HandoffTable) -> None:
    """Another holder has it: the first one's rows only say that a copy found there is to go."""
    await table.begin(_copy(), B)
    await table.begin(_copy(), C)
    await table.supersede(_ID, [(B, A)])
    assert await _claim(table) == []
    assert set((await _states(table)).items()) >= {(("b", 0), HandoffState.SUPERSEDED), (("c", 0), HandoffState.STORED)}
    await table.supersede(_ID, [(B, A)])
    await table.at_home(_ID, B, [0])
    assert (await _states(table))["b", 0] is HandoffState.SUPERSEDED


async def test_superseding_one_copy_leaves_another_homes_copy_alone(table: HandoffTable) -> None:
    """One holder keeps a message for two homes: the end of one copy is not the end of the other."""
    await table.begin(_copy(), B)
    await table.begin(_copy(1, "eve", home=C, first=2), B)
    await table.supersede(_ID, [(B, C)])
    assert await _states(table) == {
        ("b", 0): HandoffState.STORED,
        ("b", 1): HandoffState.STORED,
        ("b", 2): HandoffState.SUPERSEDED,
    }


async def test_what_is_over_is_not_counted(table: HandoffTable) -> None:
    """Tombstones of a month would make a look at what is away slower and slower."""
    await table.begin(_copy(), B)
    await table.at_home(_ID, B, [0])
    assert await table.counts() == {(B, A, HandoffState.STORED): 1}


async def test_beginning_again(table: HandoffTable) -> None:
    """A request that is sent again leaves live rows alone; a new copy after a superseded one begins anew."""
    await table.begin(_copy(), B)
    await _claim(table)
    await table.begin(_copy(), B)
    assert set((await _states(table)).values()) == {HandoffState.DRAINING}
    await table.supersede(_ID, [(B, A)])
    await table.begin(_copy(), B)
    assert set((await _states(table)).values()) == {HandoffState.STORED}
    assert len(await _claim(table)) == 2


async def test_dropping(table: HandoffTable) -> None:
    """The holder surely has no copy: its rows go, other holders' stay."""
    await table.begin(_copy(), B)
    await table.begin(_copy(), C)
    await table.drop(_ID, B)
    assert {holder for holder, _ in await _states(table)} == {"c"}
    assert await table.find([_ID], B) == []
