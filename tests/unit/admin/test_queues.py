"""The queue verbs over a real database: what is shown, what is refused, what is changed and audited."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mailfront.admin.audit import Audit
from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.offline import reading
from mailfront.admin.queues import QueueService
from mailfront.admin.requests import ChangeRequest, CheckRequest, ListRequest, RedirectRequest, ShowRequest, read
from mailfront.base.clock import ManualClock
from mailfront.base.errors import MailfrontError
from mailfront.mail.address import Address
from mailfront.mail.body import MemoryBody
from mailfront.observe import log
from mailfront.queue.exports import QueueExport
from mailfront.queue.operations import QueueOperations, Verb
from mailfront.queue.queue import Queue
from mailfront.queue.rows import QueuedRecipient, RecipientState
from mailfront.queue.views import QueueViews
from mailfront.store.audit_rows import latest_audits
from mailfront.store.writer import Store
from tests.support.queue_rows import (
    NOTICES,
    RETRY_S,
    A,
    FakeHomes,
    message_id,
    open_store,
    queued_message,
    queued_recipient,
)


@dataclass
class Bench:
    """A queue with a service on it."""

    clock: ManualClock
    store: Store
    queue: Queue
    service: QueueService
    folder: Path

    async def add(self, number: int, *rows: QueuedRecipient) -> None:
        """Queue one message."""
        await self.queue.accept(queued_message(number, self.clock.wall_s()), MemoryBody(b"x\r\n"), rows)

    async def change(self, verb: Verb, uid: int = 1000, **arguments: Any) -> dict[str, Any]:
        """Carry out a verb."""
        request = read(RedirectRequest if verb is Verb.REDIRECT else ChangeRequest, arguments)
        return await self.service.change(verb, request, uid=uid, progress=lambda _: None)

    async def states(self) -> list[str]:
        """The states of all rows as shown."""
        page = await self.service.list(ListRequest())
        return [row.state for row in page["rows"]]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """An empty queue at a fixed time."""
    clock = ManualClock()
    store = open_store(tmp_path, clock)
    homes = FakeHomes()
    queue = Queue(store, homes, retry_s=RETRY_S, notices=NOTICES, alarm=lambda *_: None)
    await queue.load()
    views = QueueViews(store, homes)

    async def check_target(address: Address) -> None:
        if address.local == "nobody":
            raise AdminError(f"nothing is redirected: 550 5.1.1 <{address}>")

    service = QueueService(
        views,
        QueueExport(store, views),
        QueueOperations(queue, views),
        clock,
        audit=Audit(store),
        check_target=check_target,
    )
    yield Bench(clock, store, queue, service, tmp_path)
    await store.close()


async def test_rows_are_shown_in_the_words_of_people(bench: Bench) -> None:
    """Waiting is due or deferred, an unknown outcome says where, and addresses are in full."""
    now_s = bench.clock.wall_s()
    await bench.add(
        1,
        queued_recipient(0, "ana", 0),
        queued_recipient(1, "ben", 1, next_attempt_s=now_s + 60),
        replace(queued_recipient(2, "eva", 0), state=RecipientState.UNKNOWN, node=A),
    )
    page = await bench.service.list(ListRequest())
    assert [(row.id, row.recipient, row.state, row.home) for row in page["rows"]] == [
        (message_id(1), "ana@example.edu", "due", "a"),
        (message_id(1), "ben@example.edu", "deferred", "b"),
        (message_id(1), "eva@example.edu", "unknown at a", "a"),
    ]
    assert page["next"] is None


async def test_pages_join_without_gap_or_overlap(bench: Bench) -> None:
    """`next` of one page is `after` of the following one, also as JSON writes it."""
    for number in range(5):
        await bench.add(number, queued_recipient(0, f"u{number}", number))
    seen: list[str] = []
    arguments: dict[str, Any] = {"limit": 2}
    while True:
        page = await bench.service.list(read(ListRequest, arguments))
        seen += [row.id for row in page["rows"]]
        if page["next"] is None:
            break
        arguments["after"] = list(page["next"])
    assert seen == [message_id(number) for number in range(5)]


async def test_stats_have_a_total_and_every_state(bench: Bench) -> None:
    """Each state has its own count, zero too; ages are counted against domains and nodes."""
    await bench.add(1, queued_recipient(0, "ana", 0), queued_recipient(1, "ben", 1))
    bench.clock.advance(700.0)
    stats = await bench.service.stats()
    assert (stats["total"], stats["due"], stats["held"], stats["handed-off"]) == (2, 2, 0, 0)
    assert stats["oldest_age_s"] == 700.0
    assert stats["by_domain"]["example.edu"][:3] == [0, 0, 2]
    assert {node: sum(ages) for node, ages in stats["by_node"].items()} == {"a": 1, "b": 1}


async def test_a_message_is_shown_with_its_recipients(bench: Bench) -> None:
    """`show` and `find` agree; what is not there is an error or None."""
    await bench.add(1, queued_recipient(0, "ana", 0))
    shown = await bench.service.show(ShowRequest(id=message_id(1)))
    assert (shown["sender"], shown["size_bytes"]) == ("sender@out.example", 3)
    assert [row.recipient for row in shown["recipients"]] == ["ana@example.edu"]
    for unknown in (message_id(9), "no-id", "' OR 1=1"):
        assert await bench.service.find(unknown) is None
        with pytest.raises(AdminError, match="no message"):
            await bench.service.show(ShowRequest(id=unknown))


async def test_a_change_without_a_selector_is_refused(bench: Bench) -> None:
    """Forgetting the selector must not hit everything; saying both is a mistake too."""
    wrong: list[dict[str, Any]] = [{}, {"everything": True, "ids": [message_id(1)]}]
    for arguments in wrong:
        with pytest.raises(AdminError) as caught:
            await bench.change(Verb.DELETE, **arguments)
        assert caught.value.kind is Kind.USAGE


async def test_an_unknown_id_fails_and_an_empty_selection_does_not(bench: Bench) -> None:
    """Naming a message that is not there is a mistake; a condition that nothing meets is an answer."""
    with pytest.raises(AdminError) as caught:
        await bench.change(Verb.HOLD, ids=[message_id(9)])
    assert caught.value.kind is Kind.FAILED
    done = await bench.change(Verb.HOLD, senders=["nobody@example.org"])
    assert (done["matched"], done["changed"]) == (0, 0)


@pytest.mark.parametrize("arguments", [{"states": ["lost"]}, {"older_s": -1.0}, {"surprise": 1}, {"ids": "x"}])
async def test_bad_selectors_are_usage_errors(bench: Bench, arguments: dict[str, Any]) -> None:
    """A wrong request says what is wrong and changes nothing."""
    with pytest.raises(AdminError) as caught:
        await bench.change(Verb.DELETE, **arguments)
    assert caught.value.kind is Kind.USAGE


async def test_changes_are_made_told_and_audited(bench: Bench) -> None:
    """Hold and release do what they say; the audit has uid, reason and count; each row gets its event."""
    await bench.add(1, queued_recipient(0, "ana", 0), queued_recipient(1, "ben", 1))
    events: list[dict[str, Any]] = []
    with log.listening(events.append):
        done = await bench.change(Verb.HOLD, ids=[message_id(1)], reason="disk\nswap", uid=42)
    assert (done["matched"], done["changed"], done["skipped"]) == (2, 2, 0)
    assert await bench.states() == ["held", "held"]
    assert [(event["event"], event.get("recipient")) for event in events] == [
        ("queue_held", "ana@example.edu"),
        ("queue_held", "ben@example.edu"),
        ("admin_action", None),
    ]
    (row,) = await bench.store.read(lambda connection: latest_audits(connection, 10))
    assert (row.uid, row.verb, row.reason, row.rows_count) == (42, "queue hold", "disk?swap", 2)
    await bench.change(Verb.RELEASE, everything=True)
    assert await bench.states() == ["due", "due"]


async def test_a_long_change_is_told_of_each_row_and_of_what_was_done_when_it_breaks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than an answer shows, in three pages: one event each, so that every trace has its end. The database
    fails before the third: what was done until then is in the events and in the audit."""
    for number in range(450):
        await bench.add(number, queued_recipient(0, f"u{number}", number))
    seen: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        seen.append(event)
        if len(seen) == 400:
            bench.store.gate.commit_failed("disk full")
            monkeypatch.setattr("mailfront.store.commits.MAX_WAITING", 0)

    with log.listening(listen), pytest.raises(MailfrontError):
        await bench.change(Verb.DELETE, everything=True, reason="why")
    monkeypatch.undo()
    *rows, whole = seen
    assert {(event["event"], event["id"], event["by"], event["reason"]) for event in rows} == {
        ("queue_deleted", message_id(number), "uid 1000", "why") for number in range(400)
    }
    assert (whole["event"], whole["rows_count"]) == ("admin_action", 400)
    (row,) = await bench.store.read(lambda connection: latest_audits(connection, 10))
    assert row.rows_count == 400
    assert len(await bench.states()) == 50


async def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    """It says what would be hit, and leaves no trace in the audit."""
    await bench.add(1, queued_recipient(0, "ana", 0))
    events: list[dict[str, Any]] = []
    with log.listening(events.append):
        done = await bench.change(Verb.DELETE, everything=True, dry_run=True)
    assert done["changed_rows"] == [{"id": message_id(1), "recipient": "ana@example.edu"}]
    assert (await bench.states(), events) == (["due"], [])
    assert await bench.store.read(lambda connection: latest_audits(connection, 10)) == []


async def test_an_active_row_is_left_alone_and_named(bench: Bench) -> None:
    """Somebody is delivering it now: the answer says where."""
    await bench.add(1, replace(queued_recipient(0, "ana", 0), state=RecipientState.ACTIVE, node=A))
    done = await bench.change(Verb.DELETE, ids=[message_id(1)])
    assert (done["matched"], done["changed"]) == (1, 0)
    assert done["skipped_rows"] == [{"id": message_id(1), "recipient": "ana@example.edu", "reason": "active at a"}]


async def test_the_database_is_read_without_a_server(bench: Bench) -> None:
    """The same answers come straight from the file, homes included once they are assigned."""
    await bench.add(1, queued_recipient(0, "ana", 0))
    async with reading(f"sqlite:///{bench.folder}/state.db") as reader:
        page = await reader.list(ListRequest())
        assert [row.recipient for row in page["rows"]] == ["ana@example.edu"]
        assert (await reader.stats())["total"] == 1
        assert (await reader.check(CheckRequest())).problems == []


async def test_a_missing_or_damaged_database_is_one_clear_error(tmp_path: Path) -> None:
    """No traceback, and the file is not touched."""
    with pytest.raises(AdminError) as caught:
        async with reading(f"sqlite:///{tmp_path}/none.db"):
            pass
    assert caught.value.kind is Kind.LATER
    damaged = tmp_path / "state.db"
    damaged.write_bytes(b"this is no database" * 100)
    with pytest.raises(MailfrontError, match="damaged"):
        async with reading(f"sqlite:///{damaged}"):
            pass
    assert damaged.read_bytes() == b"this is no database" * 100


async def test_a_redirection_is_refused_before_anything_changes(bench: Bench) -> None:
    """What RCPT would refuse is no target, and neither is what is no address."""
    await bench.add(1, queued_recipient(0, "ana", 0))
    for to, kind in (("nobody@example.edu", Kind.FAILED), ("no address", Kind.USAGE)):
        with pytest.raises(AdminError) as caught:
            await bench.change(Verb.REDIRECT, everything=True, to=to)
        assert caught.value.kind is kind
    assert await bench.states() == ["due"]
    events: list[dict[str, Any]] = []
    with log.listening(events.append):
        await bench.change(Verb.REDIRECT, everything=True, to="<Ben@Example.EDU>")
    assert [(each.recipient, each.home) for each in (await bench.service.list(ListRequest()))["rows"]] == [
        ("Ben@example.edu", "@resolve")
    ]
    assert (events[0]["event"], events[0]["recipient"], events[0]["to"]) == (
        "queue_redirected", "ana@example.edu", "Ben@example.edu",
    )  # fmt: skip


async def test_the_text_of_a_message_is_shown_and_who_looked_is_kept(bench: Bench) -> None:
    """The header alone, or all up to a bound; reading other people's mail leaves a trace."""
    text = b"Subject: x\r\nTo: b\r\n\r\nhello\xff\x1b[2J\r\n"
    await bench.queue.accept(queued_message(1, bench.clock.wall_s()), MemoryBody(text), [queued_recipient(0, "ana", 0)])
    await bench.queue.accept(
        queued_message(2, bench.clock.wall_s()), MemoryBody(b"x" * 3_000_000), [queued_recipient(0, "ana", 0)]
    )
    head = await bench.service.look(ShowRequest(id=message_id(1), part="headers"), uid=42)
    assert (head["content"]["text"], head["content"]["cut"]) == ("Subject: x\r\nTo: b", False)
    whole = await bench.service.look(ShowRequest(id=message_id(1), part="body"), uid=42)
    assert whole["content"]["text"] == text.decode("utf-8", "replace")
    large = await bench.service.look(ShowRequest(id=message_id(2), part="body"), uid=42)
    assert (len(large["content"]["text"]), large["content"]["cut"]) == (1024 * 1024, True)
    rows = await bench.store.read(lambda connection: latest_audits(connection, 10))
    assert [(row.verb, row.uid, row.selector) for row in reversed(rows)] == [
        ("queue show --headers", 42, f"--id {message_id(1)}"),
        ("queue show --body", 42, f"--id {message_id(1)}"),
        ("queue show --body", 42, f"--id {message_id(2)}"),
    ]
    assert "content" not in await bench.service.look(ShowRequest(id=message_id(1)), uid=42)
