"""`mailfront session` and `mailfront user` on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from mailfront.admin.errors import AdminError, Kind
from tests.support.admin_stub import AdminStub

ROW = {
    "id": "s1", "protocol": "imap", "login": "ana\x1b[2J", "mailbox": "ana", "node": "store1", "client_ip": "192.0.2.7",
    "client_port": 1, "tls": "", "opened_s": 1.0, "age_s": 61.0,
}  # fmt: skip
KICKED = {"dry_run": False, "matched": 1, "ended": 1, "left_count": 0, "rows": [ROW]}
WHERE = {
    "address": "ana@example.edu", "mailbox_key": "ana", "node_user": "ana", "home": "store1", "reason": "bucket 7",
    "pinned": None, "secondaries": ["store2"], "sessions": [ROW],
}  # fmt: skip


def test_sessions_are_listed_by_conditions(tmp_path: Path) -> None:
    """Conditions travel as they were given; a name cannot move the cursor; JSON is the rows."""
    with AdminStub(tmp_path, {"session.list": {"total_count": 7, "rows": [ROW]}}) as stub:
        shown = stub.run("session", "list", "--user", "ana", "--node", "store1", "--address", "192.0.2.0/24")
        as_json = stub.run("session", "list", "--json", "--limit", "5")
    assert shown.exit_code == as_json.exit_code == 0
    assert "s1\timap\tana?[2J\tstore1\t192.0.2.7\tnone\t1m1s" in shown.output
    assert "there are 7" in shown.output
    assert json.loads(as_json.stdout) == [ROW]
    conditions = {"users": ["ana"], "nodes": ["store1"], "addresses": ["192.0.2.0/24"]}
    assert [call[1] for call in stub.calls] == [{**conditions, "limit": 100}, {"limit": 5}]


@pytest.mark.parametrize("arguments", [(), ("--everything", "--node", "store1")])
def test_a_kick_needs_to_be_told_whom(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Without a condition, or with one that contradicts --everything, nothing is asked of the server."""
    with AdminStub(tmp_path, {"session.kick": KICKED}) as stub:
        result = stub.run("session", "kick", *arguments)
    assert result.exit_code == 2
    assert "--everything" in result.output
    assert stub.calls == []


def test_a_kick_says_what_it_ended(tmp_path: Path) -> None:
    """Reason and dry run travel along; what is left over makes it fail."""
    answers: dict[str, Any] = {"session.kick": KICKED, "user.kick": {**KICKED, "ended": 0, "left_count": 1}}
    with AdminStub(tmp_path, answers) as stub:
        done = stub.run("session", "kick", "--protocol", "imap", "--reason", "upgrade")
        left = stub.run("user", "kick", "ana@example.edu", "--json")
    assert (done.exit_code, left.exit_code) == (0, 1)
    assert "1 of 1 matching sessions ended" in done.output
    order = {"protocols": ["imap"], "everything": False, "dry_run": False, "reason": "upgrade"}
    assert stub.calls[0][1] == order
    assert stub.calls[1][1] == {"address": "ana@example.edu", "dry_run": False, "reason": ""}


def test_a_dry_run_ends_nothing_and_is_no_failure(tmp_path: Path) -> None:
    """It shows what would be ended."""
    with AdminStub(tmp_path, {"session.kick": {**KICKED, "dry_run": True, "ended": 0, "left_count": 1}}) as stub:
        result = stub.run("session", "kick", "--everything", "--dry-run")
    assert result.exit_code == 0
    assert "1 sessions would be ended" in result.output


def test_where_a_person_is(tmp_path: Path) -> None:
    """Home, reason and sessions; an address without a mailbox fails, a directory that is away is for later."""
    with AdminStub(tmp_path, {"user.where": WHERE}) as stub:
        shown = stub.run("user", "where", "ana@example.edu")
        as_json = stub.run("user", "where", "ana@example.edu", "--json")
    assert "home: store1" in shown.output
    assert "reason: bucket 7" in shown.output
    assert json.loads(as_json.stdout) == WHERE


@pytest.mark.parametrize(("kind", "code"), [(Kind.FAILED, 1), (Kind.LATER, 75)])
def test_an_address_that_cannot_be_found(tmp_path: Path, kind: Kind, code: int) -> None:
    """Unknown fails; a directory that is away is for later."""
    with AdminStub(tmp_path, {"user.where": AdminError("550 5.1.1 unknown", kind)}) as stub:
        assert stub.run("user", "where", "eve@example.edu").exit_code == code
