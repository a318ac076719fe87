"""The queue against a model that is a dictionary: any order of calls and of administrators' verbs, restarts included.

No order loses a message: each accepted recipient is in the queue, or ended once: delivered, told of by a notice, or
deleted by a verb that the audit counts. Only an import of what the queue has forgotten brings one back that ended.
"""

import asyncio
import base64
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mailfront.admin.queue_exchange import ImportRequest, QueueExchange, show_exported
from mailfront.base.clock import ManualClock
from mailfront.mail.body import MemoryBody
from mailfront.mail.envelope import NO_OPTIONS
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RESOLVE
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Outcome, Unknown
from mailfront.mail.reply import reply
from mailfront.queue.check import check_queue
from mailfront.queue.exports import ExportedMessage, QueueExport
from mailfront.queue.imports import MEMORY_S, Places, QueueImport
from mailfront.queue.lifetimes import Lifetimes
from mailfront.queue.operations import Order, QueueOperations, Verb
from mailfront.queue.queue import ORPHAN_S, Queue
from mailfront.queue.rows import Claimed, Place, RecipientState
from mailfront.queue.views import QueueViews
from mailfront.store.audit_rows import latest_audits
from mailfront.store.queue_queries import FIRST_KEY, Selector
from tests.support.queue_rows import (
    HOPS,
    NOTICES,
    RETRY_S,
    A,
    B,
    FakeHomes,
    message_id,
    open_store,
    queued_message,
    queued_recipient,
)

T = TypeVar("T")

_MAPS = (
    FakeHomes(pins=HOPS),
    FakeHomes(nodes=(B, A), pins=HOPS),
    FakeHomes(pins={**HOPS, **{(n, MailboxKey(f"u{n}")): B for n in range(0, 6, 2)}}),
)
_TARGETS = ("new@example.edu", "u1@example.edu")
_LEASE_S, _LIFETIME_S = 900.0, 20_000.0
_NOTICES = replace(NOTICES, lifetime_s=1e9)
_CLUSTER = "example"


def _bucket_of(key: MailboxKey) -> int:
    return 7 + int(key[3:]) if key.startswith("new") else int(key[1:])


_HERE = Places({A, B, RESOLVE}, _bucket_of)
_WITHOUT_B = Places({A, RESOLVE}, _bucket_of)


@dataclass
class _Row:
    """What the model knows of one recipient."""

    key: MailboxKey
    bucket: int
    state: str
    next_s: float
    attempts: int
    expires_s: float
    address: str
    node: NodeId | None = None
    owner: str | None = None
    until_s: float = 0.0


@dataclass(frozen=True)
class _Written:
    """A message in an exported file, and what the model knew of its recipients then."""

    document: str
    body: bytes
    rows: dict[int, _Row]


class QueueMachine(RuleBasedStateMachine):
    """See the module. Jitter is off, so that the model can say every time exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        shared = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
        self.clock = ManualClock()
        self.homes = _MAPS[0]
        self.rows: dict[tuple[int, int], _Row] = {}
        self.accepted = 0
        self.accepted_s: dict[int, float] = {}
        self.expired: set[int] = set()
        self.notices_count = 0
        self.fates: dict[tuple[int, int], str] = {}
        self.ended: Counter[str] = Counter()
        self.done_s: dict[int, float] = {}
        self.imported: dict[int, dict[int, float]] = {}
        self.files: list[dict[int, _Written]] = []
        self.changed: Counter[Verb] = Counter()
        self.lifetimes: Lifetimes
        self.reports: list[tuple[int, dict[int, Outcome], dict[int, int]]] = []
        self._open()

    def _open(self) -> None:
        self.store = open_store(self.directory, self.clock)
        self.queue = Queue(
            self.store,
            self.homes,
            retry_s=RETRY_S,
            notices=_NOTICES,
            alarm=lambda name, text: None,
            lease_s=_LEASE_S,
            chance=lambda: 0.5,
        )
        self.lifetimes = Lifetimes(self.queue)
        self.views = QueueViews(self.store, self.homes)
        self.run_async(self.queue.load())

    def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run_async(self.store.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    @property
    def now_s(self) -> float:
        return self.clock.wall_s()

    @rule(
        users=st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True),
        wait_s=st.sampled_from([0.0, 30.0, 500.0]),
    )
    def accept(self, users: list[int], wait_s: float, *, active: bool = False) -> None:
        self.accepted += 1
        number = self.accepted
        self.accepted_s[number] = self.now_s
        recipients = [queued_recipient(n, f"u{user}", user, self.now_s + wait_s) for n, user in enumerate(users)]
        if active:
            recipients = [replace(row, state=RecipientState.ACTIVE, node=A) for row in recipients]
        message = queued_message(number, self.now_s, _LIFETIME_S)
        self.run_async(self.queue.accept(message, MemoryBody(b"x" * number), recipients, owner="me"))
        for row in recipients:
            self.rows[number, row.number] = _Row(
                row.mailbox_key, row.bucket, row.state.value, row.next_attempt_s, 1, message.expires_s, row.address
            )
            if active:
                self.rows[number, row.number].node, self.rows[number, row.number].owner = A, "me"
                self.rows[number, row.number].until_s = self.now_s + _LEASE_S

    @precondition(lambda self: self._resendable())
    @rule(data=st.data())
    def accept_again(self, data: st.DataObject) -> None:
        """The answer was lost; the message may be queued, half done, or done less than an hour ago."""
        number = data.draw(st.sampled_from(self._resendable()))
        recipients = [queued_recipient(n, "u1", 1) for n in range(3)]
        self.run_async(self.queue.accept(queued_message(number, self.now_s), MemoryBody(b"x"), recipients))

    def _resendable(self) -> list[int]:
        return [number for number, at_s in self.accepted_s.items() if self.now_s - at_s < 3600.0]

    @rule(users=st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True), data=st.data())
    def accept_ahead(self, users: list[int], data: st.DataObject) -> None:
        """Committed before the fan-out, all of it active in the worker that delivers now: some of its attempts end, and
        of some the client heard the refusal itself."""
        self.accept(users, 0.0, active=True)
        number = self.accepted
        if data.draw(st.booleans()):
            self._settle(number, list(range(len(users))), data)
            return
        at, node = data.draw(st.integers(0, len(users) - 1)), A
        refusal = Failed(reply(550, "5.7.1", "no"), node)
        for _ in range(2):  # the report may be sent twice
            work = self.queue.settle(message_id(number), {at: refusal}, attempts={at: 1}, withdrawn=[at])
            self.run_async(work)
        self._end((number, at), "refused to the client")

    def _end(self, key: tuple[int, int], fate: str) -> None:
        """A recipient leaves the queue; nobody does so twice."""
        assert key not in self.fates
        self.fates[key] = fate
        self.ended[fate] += 1
        del self.rows[key]
        if not self._is_queued(key[0]):
            self.done_s[key[0]] = self.now_s
            self.expired.discard(key[0])

    def _is_queued(self, number: int) -> bool:
        return any(of == number for of, _ in self.rows)

    @rule(node=st.sampled_from([A, B]), limit=st.integers(1, 4), data=st.data())
    def claim(self, node: NodeId, limit: int, data: st.DataObject) -> None:
        due = self._due_at(node)
        claimed = self.run_async(self.queue.claim(node, limit=limit, owner="me"))
        found = {(int(one.message.id), row.number) for one in claimed for row in one.recipients}
        assert found <= due
        assert bool(found) == bool(due), f"due {due}, claimed {found}"
        messages = len({number for number, _ in due})
        assert len(claimed) >= min(limit, messages)
        for one in claimed:
            self._begun(one, node)
            self._settle(int(one.message.id), [row.number for row in one.recipients], data)

    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        """What is to be looked up: notices, which arrive at once, and redirected rows, which find a home or fail."""
        due = self._due_at(RESOLVE)
        claimed = self.run_async(self.queue.claim(RESOLVE, limit=50, owner="me"))
        own = {message_id(number) for number in self.accepted_s}
        found = {
            (int(one.message.id), row.number) for one in claimed for row in one.recipients if one.message.id in own
        }
        assert found == due
        for one in claimed:
            numbers = [row.number for row in one.recipients]
            if one.message.id not in own:
                delivered = Delivered(RESOLVE, reply(250, "2.0.0", "ok"))
                self.run_async(self.queue.settle(one.message.id, dict.fromkeys(numbers, delivered)))
                self.notices_count -= 1
                continue
            self._begun(one, RESOLVE)
            if data.draw(st.booleans()):
                for row in one.recipients:
                    self._find_home(int(one.message.id), row.number, row.attempts, data.draw(st.integers(1, 3)))
            else:
                self._settle(int(one.message.id), numbers, data)

    def _find_home(self, number: int, at: int, attempt: int, places_count: int) -> None:
        """A mailbox; or a forward or a list, and then the row becomes several."""
        places = [
            Place(
                address=f"new{index}@example.edu",
                mailbox_key=MailboxKey(f"new{index}"),
                bucket=7 + index,
                node_user=NodeUser(f"new{index}"),
                options=NO_OPTIONS,
            )
            for index in range(places_count)
        ]
        row = self.rows[number, at]
        self.run_async(self.queue.redirect_row(message_id(number), at, attempt, places))
        page = self.run_async(self.views.list_rows(Selector(ids=(message_id(number),)), limit=1000))
        new = [found.number for found in page.rows if (number, found.number) not in self.rows]
        for place, which in zip(places, [at, *new], strict=True):
            # A number names one recipient for good: what is said late of one that ended must not end another one.
            assert (number, which) not in self.fates
            self.rows[number, which] = replace(
                row, address=place.address, key=place.mailbox_key, bucket=place.bucket, state="waiting", node=None,
                owner=None, next_s=self.now_s,
            )  # fmt: skip

    def _due_at(self, node: NodeId) -> set[tuple[int, int]]:
        return {
            key
            for key, row in self.rows.items()
            if row.next_s <= self.now_s
            and (
                (row.state == "unknown" and row.node == node)
                or (row.state == "waiting" and self.homes.home_of(row.key, row.bucket) == node)
            )
        }

    def _begun(self, one: Claimed, node: NodeId) -> None:
        number = int(one.message.id)
        assert b"".join(self.queue.body(one.message).pieces()) == b"x" * number
        for row in one.recipients:
            model = self.rows[number, row.number]
            assert one.was_unknown == (model.state == "unknown")
            model.state, model.node, model.owner = "active", node, "me"
            model.attempts, model.until_s = model.attempts + 1, self.now_s + _LEASE_S
            assert row.attempts == model.attempts

    def _settle(self, number: int, numbers: list[int], data: st.DataObject) -> None:
        """Some attempts end now, others stay under way."""
        outcomes: dict[int, Outcome] = {}
        for at in numbers:
            node = self.rows[number, at].node or A
            ending: Outcome | None = data.draw(
                st.sampled_from(
                    [
                        Delivered(node, reply(250, "2.0.0", "ok")),
                        Deferred(Blame.NODE, reply(451, "4.4.1", "away"), node),
                        Failed(reply(550, "5.7.1", "no"), node),
                        Unknown(node, "lost"),
                        None,
                    ]
                )
            )
            if ending is not None:
                outcomes[at] = ending
        attempts = {at: self.rows[number, at].attempts for at in outcomes}
        if outcomes:
            self.reports.append((number, outcomes, attempts))
            self._report(number, outcomes, attempts)

    def _report(self, number: int, outcomes: dict[int, Outcome], attempts: dict[int, int]) -> None:
        self.run_async(self.queue.settle(message_id(number), outcomes, attempts=attempts))
        told = False
        for at, outcome in outcomes.items():
            row = self.rows.get((number, at))
            if row is None:
                continue
            if isinstance(outcome, Delivered):
                self._end((number, at), "delivered")
                continue
            if row.state != "active" or row.attempts != attempts[at]:
                continue
            row.owner = None
            next_s = self.now_s + RETRY_S[min(row.attempts, len(RETRY_S)) - 1]
            if isinstance(outcome, Unknown | Deferred) and self.now_s >= row.expires_s:
                self._end((number, at), "told")
                told = True
            elif isinstance(outcome, Unknown):
                row.state, row.next_s = "unknown", next_s
            elif isinstance(outcome, Deferred):
                row.node = None
                row.state, row.next_s = "waiting", next_s
            else:
                self._end((number, at), "told")
                told = True
        self.notices_count += told

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def report_again(self, data: st.DataObject) -> None:
        """A report is sent a second time, however much later."""
        self._report(*data.draw(st.sampled_from(self.reports)))

    @rule(seconds=st.sampled_from([1.0, 61.0, 400.0, 4000.0, 25_000.0, MEMORY_S]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def lapse(self) -> None:
        count = self.run_async(self.queue.lapse())
        assert count == self._forget(lambda row: row.until_s < self.now_s)

    @rule()
    def process_died(self) -> None:
        assert self.run_async(self.queue.release_leases_of("me")) == self._forget(lambda row: True)

    def _forget(self, is_meant: Any) -> int:
        meant = [row for row in self.rows.values() if row.state == "active" and is_meant(row)]
        for row in meant:
            row.state, row.owner, row.next_s = "unknown", None, self.now_s
        return len(meant)

    @rule()
    def expire(self) -> None:
        before = {number for (number, _), row in self.rows.items() if row.expires_s <= self.now_s}
        self.run_async(self.lifetimes.expire())
        over = before - self.expired
        gone = [key for key, row in self.rows.items() if key[0] in over and row.state in ("waiting", "unknown")]
        self.notices_count += len({number for number, _ in gone})
        for key in gone:
            self._end(key, "told")
        self.expired |= {number for number in before if self._is_queued(number)}

    @rule()
    def sweep(self) -> None:
        self.run_async(self.queue.sweep())
        before_s = self.now_s - ORPHAN_S
        self.done_s = {number: at_s for number, at_s in self.done_s.items() if at_s >= before_s}
        for number, came_s in self.imported.items():
            if not self._is_queued(number):
                self.imported[number] = {at: at_s for at, at_s in came_s.items() if at_s >= before_s - MEMORY_S}

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), recipients=st.sampled_from([(), ("u1@example.edu",)]))
    def export(self, data: st.DataObject, recipients: tuple[str, ...]) -> None:
        """Some messages, with all of their recipients or one. All of them are written, and nothing is taken out."""
        queued = sorted({number for number, _ in self.rows})
        numbers = data.draw(st.lists(st.sampled_from(queued), min_size=1, max_size=3, unique=True))
        chosen = Selector(ids=tuple(map(message_id, numbers)), recipients=recipients)
        page = self.run_async(QueueExport(self.store, self.views).page(chosen, FIRST_KEY))
        assert (page.after, page.damaged) == (None, ())
        file = {int(each.message.id): self._written(each) for each in page.messages}
        assert {(number, at) for number, written in file.items() for at in written.rows} == {
            key for key, row in self.rows.items() if key[0] in numbers and (not recipients or row.address in recipients)
        }
        if file:
            self.files.append(file)

    def _written(self, found: ExportedMessage) -> _Written:
        number = int(found.message.id)
        body = self.run_async(QueueExport(self.store, self.views).piece(found.message.id, 0))
        assert body == b"x" * number
        rows = {row.number: replace(self.rows[number, row.number]) for row in found.recipients}
        return _Written(json.dumps(show_exported(found)), body, rows)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), resolve=st.booleans(), places=st.sampled_from([_HERE, _WITHOUT_B]))
    def import_(self, data: st.DataObject, resolve: bool, places: Places) -> None:
        """Any file again, whatever has become of the messages in it."""
        exchange = QueueExchange(QueueImport(self.queue, places), cluster=_CLUSTER, clock=self.clock)
        for number, written in data.draw(st.sampled_from(self.files)).items():
            about = {"cluster": _CLUSTER, "resolve": resolve, "data": base64.b64encode(written.body).decode()}
            request = ImportRequest.model_validate({**json.loads(written.document), **about})
            answer = self.run_async(exchange.commit(request, uid=0))
            count = self._take_in(number, written.rows, places, resolve=resolve)
            assert answer == {"answer": "new" if count else "here", "recipients": count}

    def _take_in(self, number: int, rows: dict[int, _Row], places: Places, *, resolve: bool) -> int:
        """What the documentation of the file allows: what is known here stays as it is, the rest comes in, once."""
        known = self.imported.setdefault(number, {})
        if not known and (self._is_queued(number) or number in self.done_s):
            return 0
        fresh = {at: row for at, row in rows.items() if at not in known}
        for at, row in fresh.items():
            assert (number, at) not in self.rows
            self.fates.pop((number, at), None)
            self.rows[number, at] = self._placed(row, places, resolve=resolve)
            known[at] = self.now_s
        if fresh:
            self.done_s.pop(number, None)
        return len(fresh)

    def _placed(self, row: _Row, places: Places, *, resolve: bool) -> _Row:
        was_tried = row.state in ("active", "unknown")
        row = replace(row, owner=None, until_s=0.0, next_s=self.now_s if was_tried else row.next_s)
        if (resolve and row.bucket != NEXT_HOP_BUCKET) or (row.node is not None and row.node not in places.nodes):
            state = "waiting" if was_tried else row.state
            return replace(row, key=MailboxKey(RESOLVE), bucket=NEXT_HOP_BUCKET, state=state, node=None)
        return replace(row, state="unknown") if was_tried else row

    @rule(homes=st.sampled_from(_MAPS))
    def new_map(self, homes: FakeHomes) -> None:
        self.homes = self.views.homes = homes
        self.queue.pending.set_homes(homes)

    @rule()
    def restart(self) -> None:
        self.run_async(self.store.close())
        self._open()

    @rule(verb=st.sampled_from(list(Verb)), data=st.data())
    def administrator(self, verb: Verb, data: st.DataObject) -> None:
        if not self.rows:
            return
        number = data.draw(st.sampled_from(sorted({number for number, _ in self.rows})))
        to = data.draw(st.sampled_from(_TARGETS)) if verb is Verb.REDIRECT else ""
        order = Order(verb=verb, selector=Selector(ids=(message_id(number),)), uid=0, to=to)
        done = self.run_async(QueueOperations(self.queue, self.views).run(order))
        changed_count, bounced = 0, False
        for key, row in sorted(self.rows.items()):
            if key[0] == number and self._apply(order, key, row):
                changed_count += 1
                bounced = bounced or verb is Verb.BOUNCE
        self.notices_count += bounced
        self.changed[verb] += changed_count
        assert done.changed_count == changed_count
        assert done.matched_count == done.changed_count + done.skipped_count

    def _apply(self, order: Order, key: tuple[int, int], row: _Row) -> bool:
        """Do to the model what the verb does to a row. Returns whether it applies."""
        is_held = row.state == "held"
        match order.verb:
            case _ if row.state == "active":
                return False
            case Verb.DELETE | Verb.BOUNCE:
                self._end(key, "told" if order.verb is Verb.BOUNCE else "deleted")
            case Verb.HOLD:
                row.state = "held"
                return not is_held
            case Verb.REDIRECT:
                if any(other.address == order.to for (of, _), other in self.rows.items() if of == key[0]):
                    return False
                row.address, row.key, row.bucket = order.to, MailboxKey(RESOLVE), NEXT_HOP_BUCKET
                row.state, row.node, row.next_s = "waiting", None, self.now_s
            case Verb.RETRY | Verb.RELEASE:
                if (order.verb is Verb.RELEASE) != is_held:
                    return False
                row.state = "unknown" if row.node is not None else "waiting"
                row.next_s = self.now_s
        return True

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        page = self.run_async(self.views.list_rows(Selector(), limit=1000))
        own = {message_id(number) for number in self.accepted_s}
        found = {
            (int(row.id), row.number): (row.state, row.node, row.attempts, row.next_attempt_s)
            for row in page.rows
            if row.id in own
        }
        # Nobody whose mail was given up hears nothing, or hears it twice.
        assert len(page.rows) - len(found) == self.notices_count
        assert found.keys() == self.rows.keys()
        for key, (state, node, attempts, next_s) in found.items():
            model = self.rows[key]
            assert (state, node, attempts) == (model.state, model.node, model.attempts), key
            if state in (RecipientState.WAITING.value, RecipientState.UNKNOWN.value):
                assert next_s == model.next_s, key

    @invariant()
    def the_audit_counts_what_the_verbs_did(self) -> None:
        audits = self.run_async(self.store.read(lambda connection: latest_audits(connection, 1000)))
        counted: Counter[Verb] = Counter()
        for row in audits:
            counted[Verb(row.verb.removeprefix("queue "))] += row.rows_count
        assert +counted == +self.changed
        assert counted[Verb.DELETE] == self.ended["deleted"]

    @invariant()
    def what_is_due_is_never_overlooked(self) -> None:
        for row in self.rows.values():
            if row.state == "waiting":
                node = self.homes.home_of(row.key, row.bucket)
            elif row.state == "unknown" and row.node is not None:
                node = row.node
            else:
                continue
            assert self.queue.pending.next_due_s([node]) <= row.next_s

    @invariant()
    def nothing_is_wrong_with_the_database(self) -> None:
        assert self.run_async(check_queue(self.store)).problems == []


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
