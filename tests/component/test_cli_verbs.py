"""Every verb against an admin server on a real socket: what it asks, what it prints, how it exits."""

import json
from pathlib import Path
from typing import Any

import pytest

from mailfront.admin.errors import AdminError, Kind
from mailfront.base.clock import ManualClock
from mailfront.cli import output
from mailfront.mail.body import MemoryBody
from mailfront.queue.queue import Queue
from tests.support.admin_stub import AdminStub, invoke, write_config
from tests.support.queue_rows import (
    NOTICES,
    RETRY_S,
    FakeHomes,
    message_id,
    open_store,
    queued_message,
    queued_recipient,
)

ID = message_id(1)
ROW = {
    "id": ID, "recipient": "ana@example.edu", "sender": "", "state": "unknown at store1", "mailbox": "ana",
    "home": "store1", "node": "store1", "attempts": 2, "arrived_s": 1e9, "age_s": 90.0, "next_attempt_s": None,
    "size_bytes": 3000, "last_reply": "451 4.3.0 \x1b[2J later", "reason": "", "number": 0,
}  # fmt: skip
CHANGED = {
    "verb": "hold", "dry_run": False, "matched": 2, "changed": 1, "skipped": 1,
    "changed_rows": [{"id": ID, "recipient": "ana@example.edu"}],
    "skipped_rows": [{"id": ID, "recipient": "ben@example.edu", "reason": "active at store1"}],
}  # fmt: skip
STATS = {
    "total": 3, "due": 2, "active": 0, "deferred": 1, "held": 0, "quarantined": 0, "unknown": 0, "handed-off": 0,
    "messages": 2, "size_bytes": 2048, "oldest_age_s": 700.0, "age_limits_s": [300.0, 600.0],
    "by_domain": {"example.edu": [1, 0, 2]}, "by_node": {"store1": [1, 0, 1], "store2": [0, 0, 1]},
}  # fmt: skip
NODE = {
    "id": "store1", "host": "10.0.0.11", "state": "draining", "admin": "draining", "lmtp": "up", "imap": "up",
    "handoff": "up", "reason": "", "weight": 100, "zone": "", "buckets_count": 4096, "pins_count": 0,
    "waiting_for_it_count": 0, "held_for_others_count": 5,
}  # fmt: skip
RING = {
    "version": 3, "buckets_count": 4096, "differing_count": 96,
    "nodes": [
        {"id": "store1", "weight": 100, "zone": "", "buckets_count": 3072, "desired_count": 2976, "pins_count": 1},
        {"id": "store2", "weight": 33, "zone": "", "buckets_count": 1024, "desired_count": 1120, "pins_count": 0},
    ],
}  # fmt: skip
ANSWER = {
    "address": "ana@example.edu", "answer": "found", "source": "cache", "age_s": 12.0, "reason": "", "way": None,
    "record": {
        "mailbox": "ana", "mailbox_key": "ana@example.edu", "address": "ana@example.edu", "status": "active",
        "over_quota": False, "host": None, "redirected": False, "classes": [],
    },
}  # fmt: skip
EXPLAINED = {
    "address": "ana@example.edu", "directory": ANSWER, "reply": "250 2.1.5 recipient ok", "accepted": True,
    "mailbox_key": "ana@example.edu", "node_user": "ana", "bucket": 17, "home": "store1",
    "reason": "bucket 17 is assigned to store1", "secondaries": ["store2"], "desired": "store1", "map_version": 3,
    "now": "handoff", "now_at": "store2", "now_reason": "store1 is down; store2 holds its mail until it is back",
    "nodes": [
        {"id": "store1", "zone": "", "weight": 100, "admin": "active", "lmtp": "down", "imap": "down",
         "handoff": "up", "reason": "lmtp: refused", "may_hold": False},
    ],
    "leads_to": [], "leads_to_count": 0,
}  # fmt: skip
HEALTH = {
    "state": "degraded", "reasons": ["alarm x: y"], "version": "0.1", "uptime_s": 61.0, "move_requests_count": 0,
    "conditions": [{"name": "store", "state": "ok", "reason": "", "since_s": 1e9}], "move_requests": [],
    "alarms": [{"name": "x", "text": "y", "count": 2, "first_s": 1e9, "last_s": 1e9}],
}  # fmt: skip
MESSAGE_EVENT = {
    "time": "2026-03-01T14:00:00.000Z", "event": "message", "process": "worker-0", "id": ID, "result": "queued",
    "recipients": [{"address": "ana@example.edu"}],
}  # fmt: skip
TRACE = {
    "id": ID, "queue": {"id": ID, "recipients": [ROW]}, "rows": [ROW], "events": [MESSAGE_EVENT],
    "stories": [
        {"ids": [ID, "0" * 16], "guessed": ["0" * 16], "sender": "", "recipients": ["ana@example.edu"], "tries": 2,
         "message_id": "<1@x>", "result": "queued",
         "events": [{**MESSAGE_EVENT, "id": "0" * 16, "result": "deferred"}, MESSAGE_EVENT]},
    ],
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "queue.list": {"rows": [ROW], "next": None},
    "queue.show": {"id": ID, "sender": "", "arrived_s": 1e9, "expires_s": 2e9, "size_bytes": 3, "body_type": "7BIT",
                   "smtputf8": False, "client_ip": "192.0.2.1", "sha256": "", "recipients": [ROW]},
    "queue.stats": STATS,
    "queue.check": {"messages_count": 1, "recipients_count": 1, "problems": []},
    "queue.retry": CHANGED | {"verb": "retry"}, "queue.hold": CHANGED, "queue.release": CHANGED | {"verb": "release"},
    "queue.delete": CHANGED | {"verb": "delete"},
    "node.list": [NODE], "node.drain": NODE, "node.maintenance": NODE, "node.activate": NODE,
    "ring.show": RING, "ring.explain": EXPLAINED, "directory.lookup": ANSWER, "trace.show": TRACE,
    "health.show": HEALTH,
}  # fmt: skip
READS = [
    ("queue.list", ["queue", "list"]),
    ("queue.show", ["queue", "show", ID]),
    ("queue.stats", ["queue", "stats"]),
    ("queue.check", ["queue", "check"]),
    ("node.list", ["node", "list"]),
    ("ring.show", ["ring", "show"]),
    ("ring.explain", ["ring", "explain", "ana@example.edu"]),
    ("directory.lookup", ["directory", "lookup", "ana@example.edu"]),
    ("trace.show", ["trace", ID]),
    ("health.show", ["health"]),
]


@pytest.mark.parametrize(("verb", "arguments"), READS)
def test_reads_print_json_on_demand(tmp_path: Path, verb: str, arguments: list[str]) -> None:
    """`--json` gives the server's answer in full; a list is a list of rows."""
    with AdminStub(tmp_path, ANSWERS) as stub:
        result = stub.run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    expected = ANSWERS[verb]["rows"] if verb == "queue.list" else ANSWERS[verb]
    assert json.loads(result.stdout) == expected
    assert [call[0] for call in stub.calls] == [verb]


@pytest.mark.parametrize(("verb", "arguments"), READS)
def test_reads_print_plain_lines_on_a_pipe(tmp_path: Path, verb: str, arguments: list[str]) -> None:
    """No colour, no box, no control character of somebody else's, where no terminal is."""
    with AdminStub(tmp_path, ANSWERS) as stub:
        result = stub.run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "\x1b" not in result.stdout
    assert "─" not in result.stdout


@pytest.mark.parametrize(("verb", "arguments"), READS)
def test_reads_draw_tables_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, arguments: list[str]
) -> None:
    """The same facts, drawn; a hostile reply still cannot clear the screen."""
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setattr("mailfront.cli.ring.on_terminal", lambda: True)
    monkeypatch.setattr("mailfront.cli.queue.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    with AdminStub(tmp_path, ANSWERS) as stub:
        result = stub.run(*arguments)
    assert result.exit_code == 0, result.output
    assert "\x1b[2J" not in result.stdout
    if verb == "ring.show":
        bars = [line.count("█") for line in result.stdout.splitlines() if "store" in line]
        assert bars == [40, 13]
        assert "96 of 4096 buckets" in result.stdout
    if verb == "queue.stats":
        assert "10+" in result.stdout
        bars = [line.count("█") for line in result.stdout.splitlines() if line.split()[:1] in (["due"], ["deferred"])]
        assert bars == [30, 15]
        assert "▄ █" in result.stdout, "young on the left, old on the right"


@pytest.mark.parametrize("verb", ["retry", "hold", "release", "delete"])
def test_changes_carry_selector_reason_and_uid(tmp_path: Path, verb: str) -> None:
    """What was typed is what the server is asked; what was left alone is named."""
    with AdminStub(tmp_path, ANSWERS) as stub:
        result = stub.run("queue", verb, "--sender", "<>", "--older", "2h", "--state", "held", "--reason", "why not")
    assert result.exit_code == 0, result.output
    assert stub.calls[0][:2] == (
        f"queue.{verb}",
        {"senders": ["<>"], "older_s": 7200.0, "states": ["held"], "everything": False, "dry_run": False,
         "reason": "why not"},
    )  # fmt: skip
    assert "active at store1" in result.stdout
    assert "1 of 2 matching recipients" in result.stdout


SELECTORS: list[tuple[list[str], dict[str, Any]]] = [
    (["--id", ID, "--id", message_id(2)], {"ids": [ID, message_id(2)]}),
    (["--sender", "@out.example", "--sender", "<>"], {"senders": ["@out.example", "<>"]}),
    (["--recipient", "ana@example.edu"], {"recipients": ["ana@example.edu"]}),
    (["--node", "store1"], {"nodes": ["store1"]}),
    (["--state", "unknown", "--state", "held"], {"states": ["unknown", "held"]}),
    (["--older", "5d"], {"older_s": 432_000.0}),
    (["--everything"], {}),
]
SELECTING = {
    "list": [], "retry": [], "hold": [], "release": [], "bounce": [], "delete": [],
    "redirect": ["--to", "ben@example.edu"], "export": ["FILE"],
}  # fmt: skip
EXPORTED = {
    "messages": [], "rows_count": 0, "handed_off_count": 0, "total": 0, "next": None, "damaged": [],
}  # fmt: skip


@pytest.mark.parametrize("verb", SELECTING)
def test_every_verb_takes_every_selector(tmp_path: Path, verb: str) -> None:
    """What was typed is what the server is asked, of each condition and of nothing else; a list of everything needs no
    word for it."""
    answers = {f"queue.{name}": CHANGED | {"verb": name} for name in SELECTING} | {
        "queue.list": ANSWERS["queue.list"], "queue.export": EXPORTED,
    }  # fmt: skip
    target = tmp_path / "queue.tar"
    more = [str(target) if word == "FILE" else word for word in SELECTING[verb]]
    with AdminStub(tmp_path, answers) as stub:
        for words, expected in SELECTORS:
            stub.calls.clear()
            words = [] if verb == "list" and words == ["--everything"] else words
            result = stub.run("queue", verb, *more, *words)
            assert result.exit_code == 0, result.output
            ((asked, arguments, *_),) = stub.calls
            conditions = ("ids", "senders", "recipients", "nodes", "states", "older_s")
            assert (asked, {name: arguments[name] for name in conditions if name in arguments}) == (
                f"queue.{verb}", expected,
            )  # fmt: skip
            assert arguments.get("everything", not expected) is (not expected)


def test_a_dry_run_says_would(tmp_path: Path) -> None:
    """Nobody mistakes a rehearsal for the deed."""
    with AdminStub(tmp_path, ANSWERS | {"queue.delete": CHANGED | {"verb": "delete", "dry_run": True}}) as stub:
        result = stub.run("queue", "delete", "--everything", "--dry-run")
    assert stub.calls[0][1]["dry_run"] is True
    assert "would be deleted" in result.stdout


def test_a_change_that_hits_only_active_rows_fails(tmp_path: Path) -> None:
    """The answer says where the row is active."""
    with AdminStub(tmp_path, {"queue.delete": CHANGED | {"verb": "delete", "changed": 0, "changed_rows": []}}) as stub:
        result = stub.run("queue", "delete", "--id", ID)
    assert result.exit_code == 1
    assert "active at store1" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["queue", "delete"],
        ["queue", "retry", "--dry-run"],
        ["queue", "hold", "--id", ID, "--everything"],
        ["queue", "list", "--state", "lost"],
        ["queue", "list", "--older", "soon"],
        ["queue", "list", "--limit", "0"],
        ["queue", "show"],
        ["queue", "bounce"],
        ["queue", "redirect", "--everything"],
        ["queue", "redirect", "--to", "ben@example.edu"],
        ["queue", "export", "x.tar"],
        ["queue", "export", "-", "--everything", "--json"],
        ["queue", "import"],
        ["ring", "plan"],
        ["ring", "apply"],
        ["filter", "test"],
        ["nonsense"],
    ],
)
def test_usage_errors_exit_with_2_and_ask_nothing(tmp_path: Path, arguments: list[str]) -> None:
    """No selector, both, bad values, verbs of later versions: the server hears nothing of them."""
    with AdminStub(tmp_path, ANSWERS) as stub:
        result = stub.run(*arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert stub.calls == []


@pytest.mark.parametrize(("kind", "code"), [(Kind.FAILED, 1), (Kind.USAGE, 2), (Kind.LATER, 75)])
def test_the_servers_refusals_are_one_line_and_an_exit_code(tmp_path: Path, kind: Kind, code: int) -> None:
    """Each kind of failure has its own exit code."""
    with AdminStub(tmp_path, {"trace.show": AdminError("because", kind)}) as stub:
        result = stub.run("trace", ID)
    assert (result.exit_code, result.stderr, result.stdout) == (code, "mailfront: because\n", "")


@pytest.mark.parametrize(
    ("answer", "code"),
    [("found", 0), ("no such address", 1), ("cannot say", 75)],
)
def test_a_look_up_exits_with_its_answer(tmp_path: Path, answer: str, code: int) -> None:
    """Scripts can tell the three answers apart."""
    with AdminStub(tmp_path, {"directory.lookup": ANSWER | {"answer": answer, "record": None}}) as stub:
        assert stub.run("directory", "lookup", "ana@example.edu", "--json").exit_code == code


@pytest.mark.parametrize(("reply", "code"), [("550 5.1.1 no", 1), ("451 4.4.3 later", 75)])
def test_explaining_a_refused_address_exits_with_its_class(tmp_path: Path, reply: str, code: int) -> None:
    """The explanation is printed all the same."""
    refused = EXPLAINED | {"accepted": False, "reply": reply, "home": None, "nodes": []}
    with AdminStub(tmp_path, {"ring.explain": refused}) as stub:
        result = stub.run("ring", "explain", "nobody@example.edu")
    assert result.exit_code == code
    assert reply in result.stdout


def test_failed_health_and_damage_exit_with_1(tmp_path: Path) -> None:
    """Monitoring needs no parser."""
    damaged = {"messages_count": 1, "recipients_count": 1, "problems": ["x: half its body"]}
    with AdminStub(tmp_path, {"health.show": HEALTH | {"state": "failed"}, "queue.check": damaged}) as stub:
        assert stub.run("health").exit_code == 1
        result = stub.run("queue", "check")
    assert result.exit_code == 1
    assert "half its body" in result.stdout


def test_long_lists_are_asked_for_in_pages(tmp_path: Path) -> None:
    """`--limit` may be larger than a page; the cut is told to people."""
    asked: list[dict[str, Any]] = []

    def page(call: Any) -> Any:
        asked.append(call.arguments)
        return {"rows": [ROW] * call.arguments["limit"], "next": [ID, len(asked)]}

    with AdminStub(tmp_path, {"queue.list": page}) as stub:
        result = stub.run("queue", "list", "--limit", "2500", "--node", "store1")
    assert [each["limit"] for each in asked] == [1000, 1000, 500]
    assert [each.get("after") for each in asked] == [None, [ID, 1], [ID, 2]]
    assert all(each["nodes"] == ["store1"] for each in asked)
    assert len(result.stdout.splitlines()) == 2501
    assert "there are more" in result.stderr


@pytest.mark.parametrize("order", ["before all", "before the verb", "after the verb"])
def test_the_configuration_may_be_named_anywhere(tmp_path: Path, order: str) -> None:
    """`-c FILE` before or after the verb."""
    from click.testing import CliRunner

    from mailfront.cli.main import cli

    with AdminStub(tmp_path, ANSWERS) as stub:
        option = ["-c", str(stub.config)]
        arguments = {
            "before all": [*option, "node", "list"],
            "before the verb": ["node", *option, "list"],
            "after the verb": ["node", "list", *option],
        }[order]
        assert CliRunner().invoke(cli, arguments).exit_code == 0


SERVER_VERBS = [
    ["queue", "retry", "--everything"],
    ["queue", "delete", "--id", ID],
    ["node", "list"],
    ["node", "drain", "store1"],
    ["ring", "show"],
    ["ring", "explain", "ana@example.edu"],
    ["directory", "lookup", "ana@example.edu"],
    ["trace", ID],
    ["health"],
    ["config", "show"],
    ["config", "diff"],
]


@pytest.mark.parametrize("arguments", SERVER_VERBS)
def test_without_a_server_other_verbs_try_later(tmp_path: Path, arguments: list[str]) -> None:
    """One line on standard error and 75."""
    result = invoke(write_config(tmp_path), *arguments)
    assert (result.exit_code, result.stdout) == (75, "")
    assert result.stderr.count("\n") == 1
    assert "no mailfront is running here" in result.stderr


async def _fill(folder: Path) -> None:
    clock = ManualClock()
    store = open_store(folder, clock)
    queue = Queue(store, FakeHomes(), retry_s=RETRY_S, notices=NOTICES, alarm=lambda *_: None)
    await queue.load()
    await queue.accept(queued_message(1, clock.wall_s()), MemoryBody(b"x\r\n"), [queued_recipient(0, "ana", 0)])
    await store.close()


def test_without_a_server_the_queue_is_read_from_the_database(tmp_path: Path) -> None:
    """list, show, stats and check say so on standard error and exit 0."""
    import asyncio

    asyncio.run(_fill(tmp_path))
    config = write_config(tmp_path)
    for arguments in (["list"], ["show", ID], ["stats"], ["check"]):
        result = invoke(config, "queue", *arguments, "--json")
        assert result.exit_code == 0, result.output
        assert result.stderr == "mailfront: the server is not running; reading its database\n"
        assert json.loads(result.stdout)
    rows = json.loads(invoke(config, "queue", "list", "--json").stdout)
    assert [(row["id"], row["recipient"], row["state"]) for row in rows] == [(ID, "ana@example.edu", "due")]
    assert invoke(config, "queue", "show", message_id(2)).exit_code == 1


def test_a_damaged_database_is_one_clear_line(tmp_path: Path) -> None:
    """No traceback, and the file stays as it is."""
    config = write_config(tmp_path)
    database = tmp_path / "state.db"
    database.write_bytes(b"SQLite format 3\0" + b"\xff" * 8000)
    for verb in ("list", "stats", "check"):
        result = invoke(config, "queue", verb)
        assert result.exit_code in (1, 75)
        assert result.stderr.count("\n") == 2
        assert "damaged" in result.stderr
    assert database.read_bytes() == b"SQLite format 3\0" + b"\xff" * 8000


def test_a_locked_database_means_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else holds the file: one line and 75, not an endless wait."""
    import asyncio
    import sqlite3

    asyncio.run(_fill(tmp_path))
    monkeypatch.setattr("mailfront.store.engine.BUSY_TIMEOUT_S", 0.2)
    holder = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    result = invoke(write_config(tmp_path), "queue", "stats")
    holder.close()
    assert result.exit_code == 75, result.output
    assert result.stderr.count("\n") == 2
    assert "locked" in result.stderr


@pytest.mark.parametrize(("typed", "calls", "code"), [("y\n", 2, 0), ("n\n", 1, 1), ("", 1, 1)])
@pytest.mark.parametrize("verb", ["delete", "bounce", "redirect"])
def test_what_cannot_be_undone_asks_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, typed: str, calls: int, code: int
) -> None:
    """It shows what it would hit, and only a yes does it; `--yes` does not ask."""
    monkeypatch.setattr("mailfront.cli.queue_changes.is_interactive", lambda: True)
    words = ["queue", verb, "--id", ID, *SELECTING[verb]]
    with AdminStub(tmp_path, {f"queue.{verb}": CHANGED | {"verb": verb}}) as stub:
        result = invoke(stub.config, *words, stdin=typed)
        assert (result.exit_code, len(stub.calls)) == (code, calls)
        assert stub.calls[0][1]["dry_run"] is True
        assert "ana@example.edu" in result.stdout
        stub.calls.clear()
        assert stub.run(*words, "--yes").exit_code == 0
        assert [call[1]["dry_run"] for call in stub.calls] == [False]


def test_without_a_database_the_queue_cannot_be_read_yet(tmp_path: Path) -> None:
    """A server that never ran has no queue: try later."""
    result = invoke(write_config(tmp_path), "queue", "stats")
    assert result.exit_code == 75
    assert "there is no database yet" in result.stderr


@pytest.mark.parametrize("content", [None, "[server", '[server]\nhostname = "a"\nworker = 1\n'])
def test_mistakes_in_the_file_exit_with_2(tmp_path: Path, content: str | None) -> None:
    """A missing file, bad syntax, a bad [server]: each on lines of their own."""
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_text(content)
    result = invoke(path, "node", "list")
    assert result.exit_code == 2
    assert result.stderr.startswith("mailfront: ")
    assert "Traceback" not in result.output
