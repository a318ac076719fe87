"""The handoff rows against a model that is a dictionary: any order of calls, from any number of processes."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mailfront.base.clock import ManualClock
from mailfront.mail.envelope import NO_OPTIONS
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.queue.handoff_rows import TOMBSTONE_S, HandoffTable
from mailfront.queue.rows import HandoffState
from mailfront.queue.wire import CopyRecipientValue, HandoffCopyValue
from tests.support.queue_rows import RETRY_S, A, B, C, message_id, open_store

T = TypeVar("T")

D = NodeId("d")

_HOLDERS = st.sampled_from([B, C])
_NUMBERS = st.integers(1, 3)
_HOME = {0: A, 1: A, 2: D}
_HOMES = st.sampled_from([A, D])
_SOME = st.sets(st.integers(0, 2), min_size=1)
_LIVE = (HandoffState.STORED, HandoffState.DRAINING, HandoffState.HELD)
_OVER = (HandoffState.SUPERSEDED, HandoffState.DONE, HandoffState.EXPUNGED)
_LEASE_S = 900.0


@dataclass
class _Hint:
    """What the model knows of one row."""

    state: HandoffState
    changed_s: float
    next_s: float = 0.0
    attempts: int = 0
    node: NodeId | None = None
    until_s: float | None = None

    def become(self, state: HandoffState, now_s: float) -> None:
        self.state, self.changed_s, self.until_s = state, now_s, None


class HandoffMachine(RuleBasedStateMachine):
    """Every message has two recipients whose home is `a`, 0 and 1, and one whose home is `d`, 2: two copies."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        shared = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
        self.clock = ManualClock()
        self.rows: dict[tuple[int, NodeId, int], _Hint] = {}
        self._open()

    def _open(self) -> None:
        self.store = open_store(self.directory, self.clock)
        self.table = HandoffTable(self.store, retry_s=RETRY_S, lease_s=_LEASE_S, chance=lambda: 0.5)

    def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run_async(self.store.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    @property
    def now_s(self) -> float:
        return self.clock.wall_s()

    def _hints(self, number: int, holder: NodeId, numbers: set[int] | None = None) -> list[_Hint]:
        return [
            hint
            for (of, at, which), hint in self.rows.items()
            if of == number and at == holder and (numbers is None or which in numbers)
        ]

    @rule(number=_NUMBERS, holder=_HOLDERS, home=_HOMES)
    def begin(self, number: int, holder: NodeId, home: NodeId) -> None:
        numbers = [which for which, where in _HOME.items() if where == home]
        recipients = tuple(
            CopyRecipientValue(
                number=which,
                address=f"u{which}@example.edu",
                mailbox_key=MailboxKey(f"u{which}"),
                node_user=NodeUser(f"u{which}"),
                options=NO_OPTIONS,
            )
            for which in numbers
        )
        copy = HandoffCopyValue(
            id=message_id(number), home=home, reverse_path=None, arrived_s=self.now_s, recipients=recipients
        )
        self.run_async(self.table.begin(copy, holder))
        for which in numbers:
            hint = self.rows.setdefault((number, holder, which), _Hint(HandoffState.STORED, self.now_s))
            if hint.state in _OVER:
                hint.become(HandoffState.STORED, self.now_s)
                hint.next_s = 0.0

    @rule(holder=_HOLDERS, limit=st.integers(1, 5), owner=st.sampled_from([A, B, None]))
    def claim(self, holder: NodeId, limit: int, owner: NodeId | None) -> None:
        due = {
            key
            for key, hint in self.rows.items()
            if key[1] == holder
            and _HOME[key[2]] == A
            and hint.next_s <= self.now_s
            and (
                hint.state is HandoffState.STORED
                or (hint.state is HandoffState.DRAINING and (hint.until_s is None or hint.until_s < self.now_s))
            )
        }
        claimed = self.run_async(self.table.claim(holder, A, limit=limit, owner="me", target=lambda row: owner))
        found = {(int(row.id), row.holder, row.number): row for row in claimed}
        assert found.keys() <= due
        left = due.difference(found)
        if owner is not None:
            assert len(found) == min(limit, len(due))
        else:
            assert all(row.state is HandoffState.DRAINING for row in claimed)
            self._refresh(left)
        for key, row in found.items():
            hint = self.rows[key]
            assert row.state is hint.state
            if hint.state is HandoffState.STORED:
                hint.node = owner
            hint.state, hint.changed_s = HandoffState.DRAINING, self.now_s
            hint.attempts, hint.until_s = hint.attempts + 1, self.now_s + _LEASE_S
            assert row.node == hint.node

    def _refresh(self, keys: set[tuple[int, NodeId, int]]) -> None:
        """Rows without a target wait a minute; which of them were looked at is the table's choice."""
        for number, holder, which in keys:
            (row,) = [
                row for row in self.run_async(self.table.find([message_id(number)], holder)) if row.number == which
            ]
            hint = self.rows[number, holder, which]
            assert row.next_attempt_s in (hint.next_s, self.now_s + 60.0)
            hint.next_s = row.next_attempt_s

    @rule(number=_NUMBERS, holder=_HOLDERS, which=_SOME)
    def at_home(self, number: int, holder: NodeId, which: set[int]) -> None:
        self.run_async(self.table.at_home(message_id(number), holder, sorted(which)))
        for hint in self._hints(number, holder, which):
            if hint.state in _LIVE:
                hint.become(HandoffState.DONE, self.now_s)

    @rule(number=_NUMBERS, holder=_HOLDERS, which=_SOME, is_unknown=st.booleans())
    def try_later(self, number: int, holder: NodeId, which: set[int], is_unknown: bool) -> None:
        texts = dict.fromkeys(which, "later")
        work = self.table.unknown if is_unknown else self.table.deferred
        self.run_async(work(message_id(number), holder, texts))
        for hint in self._hints(number, holder, which):
            if hint.state is HandoffState.DRAINING:
                hint.become(HandoffState.DRAINING if is_unknown else HandoffState.STORED, self.now_s)
                hint.next_s = self.now_s + RETRY_S[min(max(hint.attempts, 1), len(RETRY_S)) - 1]

    @rule(number=_NUMBERS, holder=_HOLDERS, which=_SOME)
    def refused(self, number: int, holder: NodeId, which: set[int]) -> None:
        self.run_async(self.table.refused(message_id(number), holder, dict.fromkeys(which, "no")))
        for hint in self._hints(number, holder, which):
            if hint.state in _LIVE:
                hint.become(HandoffState.HELD, self.now_s)

    @rule(number=_NUMBERS, places=st.sets(st.tuples(_HOLDERS, _HOMES), min_size=1))
    def supersede(self, number: int, places: set[tuple[NodeId, NodeId]]) -> None:
        self.run_async(self.table.supersede(message_id(number), sorted(places)))
        for holder, home in places:
            for hint in self._hints(number, holder, {which for which, where in _HOME.items() if where == home}):
                if hint.state in _LIVE:
                    hint.become(HandoffState.SUPERSEDED, self.now_s)

    @rule(number=_NUMBERS, holder=_HOLDERS)
    def expunged(self, number: int, holder: NodeId) -> None:
        self.run_async(self.table.expunged(message_id(number), holder))
        for hint in self._hints(number, holder):
            if hint.state in _OVER:
                hint.become(HandoffState.EXPUNGED, self.now_s)

    @rule(number=_NUMBERS, holder=_HOLDERS)
    def drop(self, number: int, holder: NodeId) -> None:
        self.run_async(self.table.drop(message_id(number), holder))
        for which in _HOME:
            self.rows.pop((number, holder, which), None)

    @rule()
    def process_died(self) -> None:
        held = [hint for hint in self.rows.values() if hint.state is HandoffState.DRAINING and hint.until_s is not None]
        assert self.run_async(self.table.release_leases_of("me")) == len(held)
        for hint in held:
            hint.until_s = None

    @rule()
    def home_is_back(self) -> None:
        self.run_async(self.table.wake(A))
        for (_, _, which), hint in self.rows.items():
            if _HOME[which] == A and hint.state in (HandoffState.STORED, HandoffState.DRAINING):
                hint.next_s = 0.0

    @rule()
    def sweep(self) -> None:
        self.run_async(self.table.sweep())
        for key, hint in list(self.rows.items()):
            if hint.state in _OVER and hint.changed_s < self.now_s - TOMBSTONE_S:
                del self.rows[key]

    @rule(seconds=st.sampled_from([1.0, 61.0, 1000.0, TOMBSTONE_S + 1]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.run_async(self.store.close())
        self._open()

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        found = {
            (int(row.id), row.holder, row.number): (row.state, row.next_attempt_s, row.attempts)
            for row in self.run_async(self.table.find([message_id(number) for number in (1, 2, 3)]))
        }
        assert found == {key: (hint.state, hint.next_s, hint.attempts) for key, hint in self.rows.items()}

    @invariant()
    def counts_are_right(self) -> None:
        expected: dict[tuple[NodeId, NodeId, HandoffState], int] = {}
        for (_, holder, which), hint in self.rows.items():
            if hint.state in _LIVE:
                key = (holder, _HOME[which], hint.state)
                expected[key] = expected.get(key, 0) + 1
        assert self.run_async(self.table.counts()) == expected


TestHandoffMachine = HandoffMachine.TestCase
TestHandoffMachine.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
