"""The queue verbs on a running front end: redirect, export and import, looking inside, two administrators at once."""

import email
import json
import os
import random
import signal
import smtplib
import subprocess
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mailfront.admin.client import AdminClient
from mailfront.admin.errors import AdminError
from tests.support.demo_node import DemoNode
from tests.support.dovecot import HANDOFF_PASSWORD, HANDOFF_USER
from tests.support.mailfront_server import MailfrontServer
from tests.support.processes import wait_until
from tests.support.toml_text import toml_text

PEOPLE = ("ana", "ben", "cid", "dan", "eve", "fay", "postmaster")
SENDER = "postmaster@example.edu"
USERS = [{"address": f"{name}@example.edu", "mailbox": name} for name in PEOPLE]
GROUPS = [{"address": "crew@example.edu", "members": ["cid@example.edu", "dan@example.edu"], "owner": SENDER}]
QUICK: dict[str, dict[str, Any]] = {
    "storage": {"secondaries": 0, "master_user": None, "master_password_file": None},
    "queue": {"retry": ["1s"]},
    "server": {"workers": 1},
}


@pytest.fixture(scope="module")
def node() -> Iterator[DemoNode]:
    """The one node."""
    accounts = {
        **dict.fromkeys(PEOPLE, "x"),
        HANDOFF_USER.split("@")[0]: HANDOFF_PASSWORD,
        HANDOFF_USER: HANDOFF_PASSWORD,
    }
    made = DemoNode("store1", accounts)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def front(node: DemoNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailfrontServer]:
    """A front end whose only node is that one."""
    people = tmp_path_factory.mktemp("people") / "users.toml"
    people.write_text(toml_text({"user": USERS, "group": GROUPS}))
    server = MailfrontServer([table_of(node)], {"kind": "static", "file": people}, settings=QUICK)
    node.start()
    server.start()
    yield server
    server.stop()


def table_of(node: DemoNode) -> dict[str, object]:
    """The node's table in the configuration."""
    return {"id": node.id, "host": node.host, "lmtp": node.lmtp, "imap": node.imap}


@pytest.fixture
def empty(front: MailfrontServer) -> Iterator[MailfrontServer]:
    """The same with an empty queue, before and after, and its node away."""
    drain(front)
    away(front)
    yield front
    drain(front)


def away(front: MailfrontServer) -> None:
    """Its node takes nothing, by an administrator's word: one that is killed again and again is trusted later and
    later."""
    call(front, "node.maintenance", node="store1")


def back(front: MailfrontServer) -> None:
    """Its node takes mail again."""
    call(front, "node.activate", node="store1")


def drain(front: MailfrontServer) -> None:
    """Let everything go home."""
    back(front)
    client = AdminClient(front.runtime_dir / "admin.sock")
    with client:

        def is_empty() -> bool:
            client.call("queue.release", {"everything": True})
            client.call("queue.retry", {"everything": True})
            return bool(client.call("queue.stats")["total"] == 0)

        wait_until(is_empty, 60.0, "an empty queue")


def call(front: MailfrontServer, verb: str, **arguments: Any) -> Any:
    """Ask the admin socket directly: quicker than a command each."""
    with AdminClient(front.runtime_dir / "admin.sock") as client:
        return client.call(verb, arguments)


def rows_of(front: MailfrontServer) -> dict[tuple[str, str], dict[str, Any]]:
    """All rows by message and recipient."""
    return {(row["id"], row["recipient"]): row for row in call(front, "queue.list", limit=100)["rows"]}


def queue_one(front: MailfrontServer, token: str, *names: str, size_bytes: int = 10) -> str:
    """Send a message that nobody can take now. Returns its id."""
    body = f"Subject: {token}\r\nX-Token: {token}\r\n\r\n" + "x" * 70 + "\r\n" * (1 + size_bytes // 72)
    with smtplib.SMTP(*front.smtp, timeout=30) as client:
        client.ehlo()
        client.mail(SENDER)
        for name in names:
            assert client.rcpt(f"{name}@example.edu")[0] == 250
        code, text = client.data(body.encode())
    assert (code, text.split()[-1]) == (250, b"queued"), text
    return text.split()[1].decode()


def copies(node: DemoNode, token: str) -> dict[str, int]:
    """Mailboxes that have the message, and how often."""
    marker = f"X-Token: {token}".encode()
    found = Counter(name for name in PEOPLE for copy in node.messages(name) if marker in copy)
    # A notice carries the header of what it is about.
    found["postmaster"] -= sum(marker in copy and b"multipart/report" in copy for copy in node.messages("postmaster"))
    return {name: count for name, count in found.items() if count > 0}


def notices(node: DemoNode, message_id: str) -> list[set[str]]:
    """Whom the notices about a message name."""
    found = []
    for copy in node.messages("postmaster"):
        parsed = email.message_from_bytes(copy)
        if parsed.get_content_type() == "multipart/report" and message_id in copy.decode():
            blocks = parsed.get_payload(1).get_payload()  # type: ignore[union-attr]
            named = {str(block["Final-Recipient"]).split(";")[1].strip() for block in blocks[1:]}  # type: ignore[index]
            found.append(named)
    return found


def test_a_redirected_message_arrives_at_the_new_address_once(empty: MailfrontServer, node: DemoNode) -> None:
    """Looked up as RCPT would: one copy for the new address; what RCPT refuses changes nothing."""
    message_id = queue_one(empty, "moved", "ana", "ben")
    refused = empty.cli("queue", "redirect", "--id", message_id, "--to", "nobody@example.edu")
    assert (refused.returncode, "5.1.1" in refused.stderr) == (1, True)
    outside = empty.cli("queue", "redirect", "--id", message_id, "--to", "friend@out.example")
    assert (outside.returncode, "smarthost" in outside.stderr) == (1, True)
    done = empty.cli_json("queue", "redirect", "--recipient", "ana@example.edu", "--to", "Eve@example.edu")
    assert (done["matched"], done["changed"]) == (1, 1)
    back(empty)
    wait_until(lambda: copies(node, "moved") == {"eve": 1, "ben": 1}, 60.0, "the copies")
    redirected = empty.events("queue_redirected")[-1]
    assert (redirected["recipient"], redirected["to"]) == ("ana@example.edu", "Eve@example.edu")


def test_a_message_redirected_to_a_list_reaches_each_member_once(empty: MailfrontServer, node: DemoNode) -> None:
    """The row becomes a row for each member; nobody else gets a copy, and the queue is empty in the end."""
    queue_one(empty, "to-the-crew", "ana")
    done = empty.cli_json("queue", "redirect", "--recipient", "ana@example.edu", "--to", "crew@example.edu")
    assert (done["matched"], done["changed"]) == (1, 1)
    back(empty)
    wait_until(lambda: copies(node, "to-the-crew") == {"cid": 1, "dan": 1}, 60.0, "the copies")
    wait_until(lambda: call(empty, "queue.stats")["total"] == 0, 60.0, "an empty queue")
    assert copies(node, "to-the-crew") == {"cid": 1, "dan": 1}


def test_an_export_is_imported_once_and_loses_nothing(empty: MailfrontServer, node: DemoNode, tmp_path: Path) -> None:
    """Deleted after the export, imported twice: each recipient is there once, with envelope, state and bytes as they
    were, and the server that was down when it was exported makes no difference."""
    small = queue_one(empty, "small", "ana", "ben")
    large = queue_one(empty, "large", "cid", size_bytes=700_000)
    call(empty, "queue.hold", recipients=["ben@example.edu"], reason="ticket 5")
    before = rows_of(empty)
    online, offline = tmp_path / "online.tar", tmp_path / "offline.tar"
    done = empty.cli_json("queue", "export", str(online), "--everything")
    assert (done["messages"], done["recipients"], done["problems"]) == (2, 3, [])
    assert online.stat().st_mode & 0o777 == 0o600
    empty.stop()
    told = empty.cli("queue", "export", str(offline), "--everything")
    assert (told.returncode, "reading its database" in told.stderr) == (0, True)
    late = empty.cli("queue", "import", str(offline))
    assert (late.returncode, "no mailfront is running" in late.stderr) == (75, True)
    assert members(online) == members(offline)
    empty.start()
    assert call(empty, "queue.delete", everything=True)["changed"] == 3
    # Known here as its own until the marks of what is done are swept: so it comes in at another front end.
    other = MailfrontServer([table_of(node)], USERS, settings=QUICK, name="other")
    other.start()
    try:
        away(other)
        for expected in (3, 0):
            got = other.cli_json("queue", "import", str(offline), "--reason", "moved here")
            assert (got["recipients"], got["problems"]) == (expected, [])
        after = rows_of(other)
        kept = ("sender", "mailbox", "attempts", "size_bytes", "reason", "arrived_s")
        assert {key: [row[name] for name in kept] for key, row in after.items()} == {
            key: [row[name] for name in kept] for key, row in before.items()
        }
        assert after[small, "ben@example.edu"]["state"] == "held"
        again = tmp_path / "again.tar"
        other.cli_json("queue", "export", str(again), "--everything")
        assert {name: data for name, data in members(again).items() if name.endswith(".eml")} == {
            name: data for name, data in members(offline).items() if name.endswith(".eml")
        }
        call(other, "queue.release", everything=True)
        back(other)
        wait_until(lambda: copies(node, "small") == {"ana": 1, "ben": 1}, 60.0, "the small message")
        wait_until(lambda: copies(node, "large") == {"cid": 1}, 60.0, "the large message")
        wait_until(lambda: call(other, "queue.stats")["total"] == 0, 60.0, "an empty queue")
        assert other.cli_json("queue", "import", str(offline))["recipients"] == 0, "delivered is delivered"
        assert (large, "cid@example.edu") in after
    finally:
        other.stop()


def members(archive: Path) -> dict[str, Any]:
    """What is in an export, but for when it was made and what changes by itself."""
    found: dict[str, Any] = {}
    with tarfile.open(archive) as opened:
        for member in opened:
            taken = opened.extractfile(member)
            assert taken is not None
            data = taken.read()
            document: Any = json.loads(data) if member.name.endswith(".json") else data
            if member.name == "queue.json":
                document.pop("exported_s")
            found[member.name] = document
    return found


def test_a_cut_or_damaged_export_is_said_and_what_is_whole_comes_in(empty: MailfrontServer, tmp_path: Path) -> None:
    """The end is missing, a byte is wrong, it is no archive at all: each exits with 1 and says what."""
    ids = [queue_one(empty, f"cut{number}", "ana") for number in range(2)]
    whole = tmp_path / "whole.tar"
    empty.cli_json("queue", "export", str(whole), "--everything")
    data = whole.read_bytes()
    with tarfile.open(whole) as opened:
        second = opened.getmember(f"{sorted(ids)[1]}.eml").offset_data
        end = opened.getmember("end.json").offset
    for name, content, expected in (
        ("cut", data[:end], "the end is missing"),
        ("torn", data[: second + 5], "no whole archive"),
        ("bad", data[:second] + b"?" + data[second + 1 :], "checksum"),
        ("text", b"hello" * 500, "archive"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        done = empty.cli("queue", "import", str(path))
        assert done.returncode == 1, done
        assert expected in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_the_text_of_a_message_cannot_move_the_cursor(empty: MailfrontServer) -> None:
    """Headers alone or all of it; control characters become question marks, also on a pipe."""
    with smtplib.SMTP(*empty.smtp, timeout=30) as client:
        client.sendmail(SENDER, ["ana@example.edu"], b"Subject: \x1b[2Jwipe\r\nX-A: b\r\n\r\nbody \x07\x1b]0;t\x07\r\n")
    ((message_id, _),) = rows_of(empty)
    shown = empty.cli("queue", "show", message_id, "--headers")
    assert "Subject: ?[2Jwipe" in shown.stdout
    assert "body" not in shown.stdout.splitlines()[-1]
    whole = empty.cli("queue", "show", message_id, "--body")
    assert "body ??]0;t?" in whole.stdout
    assert not {"\x1b", "\x07"} & set(shown.stdout + whole.stdout)


def has_as_many(seen: list[str], count: int) -> bool:
    """Whether so many are in the list."""
    return len(seen) >= count


def test_two_administrators_at_once_lose_nothing_and_tell_nobody_twice(empty: MailfrontServer, node: DemoNode) -> None:
    """Random verbs from six connections on the same rows, with the node coming and going: every recipient ends
    delivered once, bounced with one notice, or deleted by a verb that says so; every answer accounts for each row."""
    names = ("ana", "ben", "cid")
    ids = [queue_one(empty, f"race{number:02}", *names) for number in range(12)]
    done: dict[str, list[tuple[str, str]]] = {"delete": [], "bounce": [], "redirect": []}
    problems: list[str] = []
    verbs: list[str] = []
    lock = threading.Lock()

    def administrator(seed: int) -> None:
        chance = random.Random(seed)
        with AdminClient(empty.runtime_dir / "admin.sock") as client:
            for _ in range(25):
                verb = chance.choice(("retry", "hold", "release", "hold", "redirect", "bounce", "delete"))
                arguments: dict[str, Any] = {"ids": [chance.choice(ids)], "reason": f"seed {seed}"}
                if verb in done:
                    arguments["recipients"] = [f"{chance.choice(names)}@example.edu"]
                if verb == "redirect":
                    arguments["to"] = "fay@example.edu"
                verbs.append(verb)
                try:
                    answer = client.call(f"queue.{verb}", arguments)
                except AdminError as error:
                    if "no message" not in str(error):
                        problems.append(str(error))
                    continue
                with lock:
                    if answer["matched"] != answer["changed"] + answer["skipped"]:
                        problems.append(f"{verb}: {answer}")
                    done.get(verb, []).extend((row["id"], row["recipient"]) for row in answer["changed_rows"])
                    problems.extend(f"no reason: {row}" for row in answer["skipped_rows"] if not row["reason"])

    threads = [threading.Thread(target=administrator, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for asked_count, turn in ((60, back), (80, away), (100, back)):
        wait_until(partial(has_as_many, verbs, asked_count), 60.0, "the administrators", 0.001)
        turn(empty)
    for thread in threads:
        thread.join(60.0)
        assert not thread.is_alive()
    assert problems == []
    drain(empty)
    assert all(done.values()), "a verb found nothing to do"
    for verb in done:
        assert len(set(done[verb])) == len(done[verb]), f"{verb} was done twice"
    for number, id_ in enumerate(ids):
        at_home = Counter(copies(node, f"race{number:02}"))
        ended = {verb: Counter(who for of, who in rows if of == id_) for verb, rows in done.items()}
        for name in names:
            address = f"{name}@example.edu"
            ways = {"at home": at_home[name], **{verb: rows[address] for verb, rows in ended.items()}}
            assert sum(ways.values()) == 1, f"{id_} for {address}: {ways}"
        assert at_home["fay"] == ended["redirect"].total()
        told = Counter(who for notice in notices(node, id_) for who in notice)
        assert told == ended["bounce"], f"{id_}: {told} were told, {ended['bounce']} were bounced"


def test_verbs_leave_a_row_alone_while_its_node_hangs(empty: MailfrontServer, node: DemoNode) -> None:
    """An attempt is under way at a node that has stopped answering: four administrators at once hear `active at` it,
    nobody is told, and when it goes on the mail arrives once."""
    message_id = queue_one(empty, "hanging", "ana")
    call(empty, "queue.hold", ids=[message_id])
    back(empty)
    pid = node.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        call(empty, "queue.release", ids=[message_id])
        wait_until(lambda: "active" in str(rows_of(empty).values()), 20.0, "an attempt at the node")
        answers: dict[str, Any] = {}

        def administrator(verb: str, **more: str) -> None:
            answers[verb] = call(empty, f"queue.{verb}", ids=[message_id], **more)

        to = {"redirect": {"to": "fay@example.edu"}}
        verbs = ("hold", "bounce", "delete", "redirect")
        threads = [threading.Thread(target=administrator, args=(verb,), kwargs=to.get(verb, {})) for verb in verbs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30.0)
        for verb in verbs:
            assert (answers[verb]["changed"], answers[verb]["skipped"]) == (0, 1), answers[verb]
            assert answers[verb]["skipped_rows"][0]["reason"] == "active at store1"
    finally:
        os.kill(pid, signal.SIGCONT)
    drain(empty)
    assert copies(node, "hanging") == {"ana": 1}
    assert notices(node, message_id) == []


def test_config_diff_says_what_a_reload_applies_and_the_reload_does_just_that(front: MailfrontServer) -> None:
    """Against the running server: nothing, a limit, a folder; after the reload the file is what runs again."""
    assert front.cli_json("config", "diff") == {"effect": "none", "changes": []}
    front.change({"limits": {"recipients": 177}})
    changed = front.cli_json("config", "diff")
    assert changed["effect"] == "reload"
    assert [(each["path"], each["file"], each["effect"]) for each in changed["changes"]] == [
        ("limits.recipients", 177, "reload")
    ]
    assert front.reload()
    wait_until(lambda: front.cli_json("config", "diff")["effect"] == "none", 10.0, "the new keeper to answer")
    front.change({"storage": {"cluster": "another"}})
    refused = front.cli_json("config", "diff")
    assert (refused["effect"], refused["changes"][0]["reason"] != "") == ("refused", True)
    assert not front.reload()
    front.change({"storage": {"cluster": "example"}})
    (only,) = front.document["node"]
    front.change({"node": [{**only, "id": "other"}]})
    gone = next(each for each in front.cli_json("config", "diff")["changes"] if each["path"] == 'node["store1"].id')
    assert (gone["effect"], gone["reason"]) == ("refused", "it still has 4096 buckets")
    front.change({"node": [only]})
    assert front.cli_json("config", "diff")["effect"] == "none"


def test_a_message_that_its_client_sent_twice_is_traced_as_one(empty: MailfrontServer) -> None:
    """The same Message-ID under two ids: either id tells of both, with the rows of both."""
    ids = []
    for _ in range(2):
        with smtplib.SMTP(*empty.smtp, timeout=30) as client:
            client.ehlo()
            client.mail(SENDER)
            client.rcpt("dan@example.edu")
            text = client.data(b"Subject: again\r\nMessage-ID: <again@out.example>\r\n\r\nhello\r\n")[1]
        ids.append(text.split()[1].decode())

    def told() -> Any:
        try:
            found = call(empty, "trace.show", wanted=ids[0])
        except AdminError:
            return None
        return found if len(found["stories"][0]["ids"]) == 2 else None

    found = wait_until(told, 10.0, "the events to be written")
    (story,) = found["stories"]
    assert (story["ids"], story["tries"], story["message_id"]) == (ids, 2, "<again@out.example>")
    assert sorted(row["id"] for row in found["rows"]) == ids
    shown = empty.cli("trace", ids[1])
    assert "offered 2 times" in shown.stdout
    assert f"-- {ids[0]}" in shown.stdout
    by_address = empty.cli_json("trace", "Dan@Example.EDU")
    assert (by_address["stories"][-1]["ids"], by_address["stories"][-1]["tries"]) == (ids, 2)
    assert {(row["id"], row["recipient"]) for row in by_address["rows"]} == {(each, "dan@example.edu") for each in ids}


def test_an_archive_goes_through_a_pipe(empty: MailfrontServer) -> None:
    """Export to standard output, import from standard input; the same server knows its own messages."""
    queue_one(empty, "piped", "ana")
    mailfront = ["python", "-m", "mailfront"]
    config = ["-c", str(empty.configuration_file)]
    script = (
        f"{' '.join(mailfront)} queue export - --everything {' '.join(config)} "
        f"| {' '.join(mailfront)} queue import - --json {' '.join(config)}"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, timeout=60.0, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["here_before"] == 1
    assert call(empty, "queue.stats")["total"] == 1


def environment() -> dict[str, str]:
    """Ours, with the python that runs the tests first."""
    import os
    import sys

    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
