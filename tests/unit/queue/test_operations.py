"""What administrators see and do: pages, selectors, counts, check, verbs, audit."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from mailfront.base.clock import ManualClock
from mailfront.mail.body import MemoryBody
from mailfront.mail.names import MailboxKey
from mailfront.mail.next_hop import RESOLVE
from mailfront.mail.outcome import Delivered, Unknown
from mailfront.mail.reply import reply
from mailfront.queue.check import check_queue
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.lifetimes import Lifetimes
from mailfront.queue.operations import Order, QueueOperations, Verb, VerbResult
from mailfront.queue.queue import Queue
from mailfront.queue.rows import RecipientState
from mailfront.queue.verb_effects import NULL_SENDER
from mailfront.queue.views import QueueViews
from mailfront.queue.wire import CopyRecipientValue, HandoffCopyValue
from mailfront.store.audit_rows import latest_audits
from mailfront.store.queue_queries import Selector
from mailfront.store.writer import Store
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

_BODY = MemoryBody(b"hello\r\n")
_HOMES = FakeHomes(pins={(0, MailboxKey("pinned")): B, **HOPS})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, clock)
    yield opened
    await opened.close()


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store, _HOMES, retry_s=RETRY_S, notices=NOTICES, alarm=lambda name, text: None, chance=lambda: 0.5)


@pytest.fixture
def views(store: Store) -> QueueViews:
    return QueueViews(store, _HOMES)


@pytest.fixture
def operations(queue: Queue, views: QueueViews) -> QueueOperations:
    return QueueOperations(queue, views)


@pytest.fixture
async def filled(queue: Queue, clock: ManualClock) -> Queue:
    """One row in every state: 1 due at a, 2 active at a, 3 deferred at b, 4 held, 5 unknown at a, 6 quarantined at b
    through a pin, 7 handed off from a to b."""
    now_s = clock.wall_s()
    rows = {
        1: queued_recipient(0, "ana", 0, now_s - 5.0),
        2: replace(queued_recipient(0, "bob", 2), state=RecipientState.ACTIVE, node=A),
        3: queued_recipient(0, "cid", 1, now_s + 500.0),
        4: replace(queued_recipient(0, "dan", 4), state=RecipientState.HELD, reason="expired"),
        5: replace(queued_recipient(0, "eve", 1), state=RecipientState.UNKNOWN, node=A),
        6: replace(queued_recipient(0, "pinned", 0), state=RecipientState.QUARANTINED),
    }
    for number, row in rows.items():
        message = queued_message(number, now_s - 600.0 * number)
        if number == 3:
            message = replace(message, reverse_path=None)
        await queue.accept(message, _BODY, [row], owner="pid:1")
    to = CopyRecipientValue(
        number=0,
        address="Fay@example.edu",
        mailbox_key=MailboxKey("fay"),
        node_user=rows[1].node_user,
        options=rows[1].options,
    )
    copy = HandoffCopyValue(id=message_id(7), home=A, reverse_path="x@out.example", arrived_s=now_s, recipients=(to,))
    await HandoffTable(queue.store, retry_s=RETRY_S).begin(copy, B)
    return queue


async def _listed(views: QueueViews, selector: Selector, limit: int = 50) -> list[int]:
    return [int(row.id) for row in (await views.list_rows(selector, limit=limit)).rows]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (Selector(), [1, 2, 3, 4, 5, 6, 7]),
        (Selector(ids=(message_id(2), message_id(7), message_id(99))), [2, 7]),
        (Selector(senders=("SENDER@out.example",)), [1, 2, 4, 5, 6]),
        (Selector(senders=("<>",)), [3]),
        (Selector(senders=("@out.example",)), [1, 2, 4, 5, 6, 7]),
        (Selector(recipients=("ANA@Example.EDU",)), [1]),
        (Selector(recipients=("fay@example.edu", "ana@example.edu")), [1, 7]),
        (Selector(recipients=("@example.edu",)), [1, 2, 3, 4, 5, 6, 7]),
        (Selector(recipients=("@other.example",)), []),
        (Selector(states=("due",)), [1]),
        (Selector(states=("deferred",)), [3]),
        (Selector(states=("due", "deferred", "held")), [1, 3, 4]),
        (Selector(states=("handed-off",)), [7]),
        (Selector(states=("active", "unknown")), [2, 5]),
        (Selector(nodes=(A,)), [1, 2, 4, 5, 7]),
        (Selector(nodes=(B,)), [3, 6, 7]),
        (Selector(older_s=1500.0), [3, 4, 5, 6]),
        (Selector(older_s=1500.0, nodes=(B,), states=("deferred",)), [3]),
    ],
)
async def test_selectors(filled: Queue, views: QueueViews, selector: Selector, expected: list[int]) -> None:
    """Every condition narrows; several values of one condition widen."""
    assert await _listed(views, selector) == expected


@pytest.mark.parametrize("nodes", [(), (A, B)])
async def test_pages_follow_one_another(filled: Queue, views: QueueViews, nodes: tuple[str, ...]) -> None:
    """Small pages put together are the whole, without repetition, with and without the filter by node."""
    selector = Selector(nodes=tuple(A if node == "a" else B for node in nodes))
    seen: list[int] = []
    page = await views.list_rows(selector, limit=2)
    while True:
        seen += [int(row.id) for row in page.rows]
        if page.after is None:
            break
        page = await views.list_rows(selector, limit=2, after=page.after)
    assert seen == [1, 2, 3, 4, 5, 6, 7]


async def test_show(filled: Queue, views: QueueViews) -> None:
    """One message with its recipients and where they live; an unknown id is nothing."""
    found = await views.show(message_id(3))
    assert found is not None
    assert found.message is not None
    assert found.message.reverse_path is None
    assert [(row.recipient, row.home) for row in found.recipients] == [("cid@example.edu", B)]
    away = await views.show(message_id(7))
    assert away is not None
    assert away.message is None
    assert (away.recipients[0].state, away.recipients[0].node, away.recipients[0].home) == ("handed-off", B, A)
    assert await views.show(message_id(99)) is None


async def test_stats(filled: Queue, views: QueueViews) -> None:
    """Every state is counted, and ages stand against domains and nodes."""
    stats = await views.stats()
    assert stats.states == dict.fromkeys(stats.states, 1)
    assert stats.total == 7
    assert (stats.messages_count, stats.size_bytes) == (6, 6 * _BODY.size_bytes)
    assert stats.oldest_s == filled.store.clock.wall_s() - 3600.0
    assert stats.by_domain["example.edu"].ages == [0, 0, 1, 2, 3, 0, 0, 0, 0, 0]
    assert stats.by_node[A].total == 3
    assert stats.by_node[B].total == 3
    plain = await QueueViews(filled.store, FakeHomes()).stats()
    assert (plain.by_node[A].total, plain.by_node[B].total) == (4, 2)


async def test_stats_of_nothing(views: QueueViews) -> None:
    """An empty queue has every state with zero."""
    stats = await views.stats()
    assert (stats.total, stats.oldest_s, set(stats.states.values())) == (0, None, {0})


async def test_check_of_a_sound_queue(filled: Queue, views: QueueViews) -> None:
    """Nothing wrong is nothing said."""
    result = await check_queue(views._store)
    assert (result.problems, result.messages_count, result.recipients_count) == ([], 6, 6)


async def test_check_names_what_is_wrong(filled: Queue, views: QueueViews, clock: ManualClock) -> None:
    """Each kind of damage has its line."""
    for statement in (
        "DELETE FROM body_chunk WHERE message_id LIKE '%1'",
        "UPDATE recipient SET state = 'lost' WHERE message_id LIKE '%2'",
        "DELETE FROM recipient WHERE message_id LIKE '%3'",
        "UPDATE message SET state = 'odd' WHERE id LIKE '%4'",
        "UPDATE message SET state = 'incoming' WHERE id LIKE '%5'",
        "UPDATE recipient SET state = 'held' WHERE message_id LIKE '%5'",
    ):
        await filled.store.write(lambda c, s=statement: c.execute(text(s)))  # type: ignore[misc]
    clock.advance(8000.0)
    problems = " | ".join((await check_queue(views._store)).problems)
    for expected in (
        f"{message_id(2)}/0: the unknown state 'lost'",
        "0 of 7 bytes",
        "without recipients",
        "unknown state 'odd'",
        "1 recipients although its state is incoming",
        "1 bodies were begun",
    ):
        assert expected in problems


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("UPDATE recipient SET attempts = 'many' WHERE message_id LIKE '%1'", "/0: "),
        ("UPDATE recipient SET node_user = '' WHERE message_id LIKE '%1'", "/0: a name is missing"),
        ("UPDATE recipient SET bucket = 5000 WHERE message_id LIKE '%1'", "/0: there is no bucket 5000"),
        ("UPDATE recipient SET node = NULL WHERE message_id LIKE '%5'", "/0: unknown without a node"),
    ],
)
async def test_check_reads_every_row(filled: Queue, damage: str, expected: str) -> None:
    """A row that no attempt could use is named before it is tried."""
    await filled.store.write(lambda connection: connection.execute(text(damage)))
    (problem,) = (await check_queue(filled.store)).problems
    assert expected in problem


async def test_check_of_bodies_finds_a_flipped_bit(filled: Queue) -> None:
    """Only if it is asked to read them; the message is set aside when it is tried."""
    broken = text("UPDATE body_chunk SET data = X'68656c6c6f210a' WHERE message_id LIKE '%1'")
    await filled.store.write(lambda connection: connection.execute(broken))
    assert (await check_queue(filled.store)).problems == []
    seen: list[int] = []
    result = await check_queue(filled.store, with_bodies=True, step=lambda so_far: seen.append(so_far.pieces_count))
    assert len(result.problems) == 1
    assert f"{message_id(1)}: piece 0 of the stored body does not match its checksum" in result.problems[0]
    assert (result.pieces_count, seen[-1]) == (5, 5)


async def _run(operations: QueueOperations, verb: Verb, selector: Selector, *, dry_run: bool = False) -> VerbResult:
    to = "new@example.edu" if verb is Verb.REDIRECT else ""
    order = Order(verb=verb, selector=selector, uid=1000, reason="why not", dry_run=dry_run, to=to)
    return await operations.run(order)


_EXPECTED = {
    Verb.RETRY: ([1, 3, 5, 7], {"2": "active at a", "4": "it is held already: expired", "6": "it is quarantined"}),
    Verb.HOLD: ([1, 3, 5, 6], {"2": "active at a", "4": "it is held already: expired", "7": "handed-off at b"}),
    Verb.RELEASE: (
        [4, 6],
        {"1": "it is not held", "2": "active at a", "3": "it is not held", "5": "it is unknown at a"},
    ),
    Verb.REDIRECT: ([1, 3, 4, 5, 6], {"2": "active at a", "7": "handed-off at b"}),
    Verb.BOUNCE: ([1, 4, 5, 6], {"2": "active at a", "3": NULL_SENDER, "7": "handed-off at b"}),
    Verb.DELETE: ([1, 3, 4, 5, 6], {"2": "active at a", "7": "handed-off at b"}),
}


@pytest.mark.parametrize("verb", list(Verb))
@pytest.mark.parametrize("dry_run", [True, False])
async def test_verbs_say_what_they_change_and_why_not(
    filled: Queue, operations: QueueOperations, verb: Verb, dry_run: bool
) -> None:
    """A dry run says the same as the run; what is active or elsewhere is left alone with a reason."""
    result = await _run(operations, verb, Selector(), dry_run=dry_run)
    expected, reasons = _EXPECTED[verb]
    if verb is Verb.RELEASE:
        reasons = {**reasons, "7": "handed-off at b"}
        result.changed = [one for one in result.changed if one[0] != message_id(7)]
    assert [int(one) for one, _ in result.changed] == expected
    skipped = {str(int(one)): why for one, _, why in result.skipped}
    assert skipped.items() >= {key: why for key, why in reasons.items() if key != "7" or not dry_run}.items()
    assert result.matched_count == 7
    audits = await filled.store.read(lambda c: latest_audits(c, 10))
    assert [(row.verb, row.uid, row.reason, row.rows_count) for row in audits] == (
        [] if dry_run else [(f"queue {verb.value}", 1000, "why not", len(expected))]
    )


_ONE_OF_EACH = {
    "id": Selector(ids=(message_id(2), message_id(4))),
    "sender": Selector(senders=("<>",)),
    "recipient": Selector(recipients=("Dan@example.edu", "@other.example")),
    "node": Selector(nodes=(B,)),
    "state": Selector(states=("unknown", "held")),
    "older": Selector(older_s=2500.0),
}


@pytest.mark.parametrize("verb", list(Verb))
@pytest.mark.parametrize("selector", _ONE_OF_EACH.values(), ids=_ONE_OF_EACH)
async def test_every_verb_changes_what_the_selector_names_and_nothing_else(
    filled: Queue, operations: QueueOperations, views: QueueViews, verb: Verb, selector: Selector
) -> None:
    """Of the rows that it names those that the verb applies to; all others are as they were."""

    async def rows() -> dict[int, object]:
        found = (await views.list_rows(Selector(), limit=50)).rows
        return {int(row.id): row for row in found if row.id.isdigit()}  # a notice has an id of the clock

    before, named = await rows(), await _listed(views, selector)
    result = await _run(operations, verb, selector)
    applies_to = {*_EXPECTED[verb][0], *((3,) if verb is Verb.BOUNCE and selector.senders else ())}
    expected = [number for number in named if number in applies_to]
    assert (result.matched_count, [int(one) for one, _ in result.changed]) == (len(named), expected)
    after = await rows()
    others = before.keys() - set(expected)
    assert {number: after[number] for number in others} == {number: before[number] for number in others}


async def test_retry_makes_rows_due_for_the_runner(filled: Queue, operations: QueueOperations) -> None:
    """A retried row is claimed at once."""
    assert await filled.claim(B, limit=5, owner="me") == []
    await _run(operations, Verb.RETRY, Selector(ids=(message_id(3),)))
    (claimed,) = await filled.claim(B, limit=5, owner="me")
    assert claimed.message.id == message_id(3)


async def test_hold_and_release_keep_what_is_unknown(filled: Queue, operations: QueueOperations) -> None:
    """An unknown row that was held is unknown again after its release: it is searched for before it is sent."""
    await _run(operations, Verb.HOLD, Selector(ids=(message_id(5),)))
    assert all(one.message.id != message_id(5) for one in await filled.claim(A, limit=5, owner="me"))
    await _run(operations, Verb.RELEASE, Selector(ids=(message_id(5),)))
    (claimed,) = await filled.claim(A, limit=5, owner="me")
    assert (claimed.message.id, claimed.was_unknown) == (message_id(5), True)


async def test_hold_says_who_and_why(filled: Queue, operations: QueueOperations, views: QueueViews) -> None:
    """The reason is on the row."""
    await _run(operations, Verb.HOLD, Selector(ids=(message_id(1),)))
    found = await views.show(message_id(1))
    assert found is not None
    assert found.recipients[0].reason == "held by uid 1000: why not"


async def test_delete_takes_the_body_along(filled: Queue, operations: QueueOperations, views: QueueViews) -> None:
    """The last recipient takes the message with it, and its ID is not accepted again."""
    await _run(operations, Verb.DELETE, Selector(recipients=("ana@example.edu",)))
    assert await views.show(message_id(1)) is None
    count = text("SELECT count(*) FROM body_chunk WHERE message_id = :id")
    assert await filled.store.read(lambda c: c.execute(count, {"id": message_id(1)}).scalar()) == 0


async def test_a_released_handoff_is_tried_again(filled: Queue, operations: QueueOperations) -> None:
    """A copy that home had refused is stored again when it is released."""
    table = HandoffTable(filled.store, retry_s=RETRY_S)
    await table.claim(B, A, limit=5, owner="me", target=lambda row: A)
    await table.refused(message_id(7), B, {0: "550 5.7.1 no"})
    result = await _run(operations, Verb.RELEASE, Selector(ids=(message_id(7),)))
    assert result.changed_count == 1
    assert len(await table.claim(B, A, limit=5, owner="me", target=lambda row: A)) == 1


@pytest.mark.parametrize("verb", list(Verb))
async def test_verbs_work_in_pages(
    queue: Queue, operations: QueueOperations, views: QueueViews, clock: ManualClock, verb: Verb
) -> None:
    """A long selection is done page by page, with progress and one audit row; and the notices that bouncing makes are
    not bounced in their turn."""
    for number in range(450):
        row = queued_recipient(0, f"u{number}", number)
        if verb is Verb.RELEASE:
            row = replace(row, state=RecipientState.HELD)
        await queue.accept(queued_message(number, clock.wall_s()), _BODY, [row])
    seen: list[int] = []
    state = "held" if verb is Verb.RELEASE else "due"
    to = "new@example.edu" if verb is Verb.REDIRECT else ""
    order = Order(verb=verb, selector=Selector(states=(state,)), uid=0, to=to)
    totals: set[int] = set()

    def progress(result: VerbResult, total: int) -> None:
        seen.append(result.changed_count)
        totals.add(total)

    result = await operations.run(order, progress)
    assert totals == {450}
    assert (result.matched_count, result.changed_count) == (450, 450)
    assert (seen[0], seen[-1]) == (200, 450)
    (audit,) = await queue.store.read(lambda c: latest_audits(c, 10))
    assert (audit.verb, audit.rows_count) == (f"queue {verb.value}", 450)
    assert audit.selector.startswith(f"--state {state}")
    left = (await views.stats()).total
    assert left == (0 if verb is Verb.DELETE else 450), "one notice for each that was bounced"


async def test_a_second_bounce_of_everything_leaves_the_notices_of_the_first(
    queue: Queue, operations: QueueOperations, views: QueueViews, clock: ManualClock
) -> None:
    """A double click: the senders hear of their mail all the same. Who names a notice means it."""
    await queue.accept(queued_message(1, clock.wall_s()), _BODY, [queued_recipient(0, "ana", 0)])
    assert (await _run(operations, Verb.BOUNCE, Selector())).changed_count == 1
    for dry_run in (True, False):
        again = await _run(operations, Verb.BOUNCE, Selector(), dry_run=dry_run)
        assert (again.changed_count, [why for _, _, why in again.skipped]) == (0, [NULL_SENDER])
    (notice,) = (await views.list_rows(Selector(), limit=5)).rows
    assert notice.recipient == "sender@out.example"
    assert (await _run(operations, Verb.BOUNCE, Selector(ids=(notice.id,)))).changed_count == 1
    assert (await views.stats()).total == 0


async def test_a_row_that_became_active_is_left_alone(filled: Queue, operations: QueueOperations) -> None:
    """Between the listing and the change a row may be claimed: then the verb does not touch it."""
    page = await operations._views.list_rows(Selector(ids=(message_id(1),)), limit=5)
    await filled.claim(A, limit=5, owner="me")
    result = VerbResult()
    order = Order(verb=Verb.DELETE, selector=Selector(), uid=0)
    await operations._apply(order, page.rows, result, None)
    assert (result.changed_count, result.skipped[0][2]) == (0, "active at a")
    await filled.settle(message_id(1), {0: Delivered(A, reply(250, "2.0.0", "ok"))})


@pytest.mark.parametrize(
    ("first", "selector", "said"),
    [
        (Verb.REDIRECT, Selector(recipients=("dan@example.edu",)), "it goes to new@example.edu now"),
        (Verb.REDIRECT, Selector(ids=(message_id(4),)), "it goes to new@example.edu now"),
        (Verb.RELEASE, Selector(states=("held",)), "it is waiting now"),
        (Verb.RELEASE, Selector(states=("held", "due")), ""),
        (Verb.RELEASE, Selector(ids=(message_id(4),)), ""),
    ],
)
async def test_a_row_that_is_not_any_more_as_it_was_selected_is_left_alone(
    filled: Queue, operations: QueueOperations, views: QueueViews, first: Verb, selector: Selector, said: str
) -> None:
    """Another administrator has redirected or released it since it was listed: nobody has asked for the deletion of
    that one. What the selector does not name may change."""
    page = await views.list_rows(selector, limit=5)
    await _run(operations, first, Selector(ids=(message_id(4),)))
    result = VerbResult()
    rows = [row for row in page.rows if row.id == message_id(4)]
    await operations._apply(Order(verb=Verb.DELETE, selector=selector, uid=0), rows, result, None)
    assert [why for _, _, why in result.skipped] == ([said] if said else [])
    assert await _listed(views, Selector(ids=(message_id(4),))) == ([4] if said else [])


async def test_a_row_that_went_is_reported_as_gone(filled: Queue, operations: QueueOperations) -> None:
    """Two administrators with one list: what the first has ended the second is told of, and nothing is done twice."""
    page = await operations._views.list_rows(Selector(ids=(message_id(1),)), limit=5)
    await _run(operations, Verb.DELETE, Selector(ids=(message_id(1),)))
    result = VerbResult()
    await operations._apply(Order(verb=Verb.BOUNCE, selector=Selector(), uid=0), page.rows, result, None)
    assert (result.changed_count, result.skipped_count) == (0, 1)
    assert "it is gone" in result.skipped[0][2]
    assert (await operations._views.stats()).messages_count == 5, "no notice was made"


async def test_a_redirected_recipient_keeps_who_it_was(filled: Queue, operations: QueueOperations) -> None:
    """The new address is looked up next; the old one is ORCPT and `via`; the outcome at a node is told of."""
    await _run(operations, Verb.REDIRECT, Selector(ids=(message_id(3), message_id(5))))
    claimed = {one.message.id: one.recipients[0] for one in await filled.claim(RESOLVE, limit=5, owner="me")}
    first, second = claimed[message_id(3)], claimed[message_id(5)]
    assert (first.address, first.node_user, first.via) == ("new@example.edu", "new@example.edu", "cid@example.edu")
    assert first.options.orcpt == "rfc822;cid@example.edu"
    assert (first.reason, second.reason) == ("", "possible duplicate: a may have it for eve@example.edu")
    (audit,) = await filled.store.read(lambda c: latest_audits(c, 10))
    assert audit.selector.endswith("--to new@example.edu")


@pytest.mark.parametrize("dry_run", [True, False])
async def test_nobody_gets_two_copies_by_a_redirection(
    queue: Queue, operations: QueueOperations, clock: ManualClock, dry_run: bool
) -> None:
    """Of several recipients of one message one goes to the new address; a second click changes nothing."""
    rows = [queued_recipient(number, f"u{number}", number) for number in range(3)]
    await queue.accept(queued_message(1, clock.wall_s()), _BODY, rows)
    result = await _run(operations, Verb.REDIRECT, Selector(ids=(message_id(1),)), dry_run=dry_run)
    assert result.changed == [(message_id(1), "u0@example.edu")]
    assert {why for _, _, why in result.skipped} == {"new@example.edu gets this message already"}
    if not dry_run:
        again = await _run(operations, Verb.REDIRECT, Selector(recipients=("NEW@example.edu",)))
        assert [why for _, _, why in again.skipped] == ["it goes to new@example.edu already"]


async def test_a_held_row_outlives_its_lifetime(filled: Queue, operations: QueueOperations, clock: ManualClock) -> None:
    """What an administrator holds does not expire; released, it gets one more try."""
    await _run(operations, Verb.HOLD, Selector(ids=(message_id(1),)))
    clock.advance(500_000.0)
    await Lifetimes(filled).expire()
    await _run(operations, Verb.RELEASE, Selector(ids=(message_id(1),)))
    claimed = await filled.claim(A, limit=5, owner="me")
    assert [one.message.id for one in claimed] == [message_id(1)]
    await filled.settle(message_id(1), {0: Unknown(A, "lost")}, attempts={0: 2})
    assert await Lifetimes(filled).expire() == 0
