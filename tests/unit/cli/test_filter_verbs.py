"""`mailfront filter` on the command line."""

import base64
import json
from pathlib import Path
from typing import Any

from mailfront.cli.filter import MOST_MESSAGE_BYTES
from tests.support.admin_stub import AdminStub, invoke, write_config

ROW = {
    "name": "virus", "kind": "clamd", "stages": ["data"], "after": [], "on_error": "tempfail", "timeout_s": 10.0,
    "concurrency": 20, "only_for": {"max_size": "1MiB"}, "shadow": True, "settings": {}, "p50_ms": 1.5, "p99_ms": 20.0,
    "hosts": {"a:1": "closed", "b:2": "open: refused"}, "verdicts": {"continue": 9, "error": 1},
}  # fmt: skip
FOUND = {
    "filter": "virus", "stage": "data", "verdict": "reject", "reply": "550 5.7.1 no", "reason": "a virus\x1b[2J",
    "error": "", "score": None, "edits": ["add X-A: b"], "recipients": [], "shadow": False, "ms": 3.2,
}  # fmt: skip
ANSWER: dict[str, Any] = {
    "findings": [FOUND, {**FOUND, "filter": "spam", "verdict": "continue", "error": "no answer", "edits": []}],
    "rulings": [{"recipient": "ana@example.edu", "action": "reject", "reply": "550 5.7.1 no", "reason": "virus: x"}],
    "ms": 4.0,
}


def test_the_chain_is_listed(tmp_path: Path) -> None:
    """One line per filter, with what is asked, how often it answered, and who does not answer; JSON is the rows."""
    with AdminStub(tmp_path, {"filter.list": [ROW]}) as stub:
        shown, as_json = stub.run("filter", "list"), stub.run("filter", "list", "--json")
    assert shown.exit_code == as_json.exit_code == 0
    assert "virus (shadow)\tclamd\tdata" in shown.output
    assert "a:1 closed; b:2 open: refused\tmax size 1MiB" in shown.output
    assert "\t10\t1.5\t20.0\t" in shown.output
    assert json.loads(as_json.stdout) == [ROW]


def test_a_message_is_tried_as_a_client_would_send_it(tmp_path: Path) -> None:
    """Line ends become CRLF; the answer says what each filter found, which one failed, and what would be heard."""
    path = tmp_path / "test.eml"
    path.write_bytes(b"Subject: x\n\nhello\n")
    with AdminStub(tmp_path, {"filter.test": ANSWER}) as stub:
        shown = stub.run("filter", "test", str(path), "--from", "ann@example.org", "--to", "ana@example.edu")
    assert shown.exit_code == 0
    (_, arguments, _) = stub.calls[0]
    assert base64.b64decode(arguments.pop("message")) == b"Subject: x\r\n\r\nhello\r\n"
    assert arguments == {"sender": "ann@example.org", "to": ["ana@example.edu"], "ip": "192.0.2.1", "helo": "localhost"}
    assert "virus\tdata\treject" in shown.output
    assert "a virus?[2J" in shown.output
    assert "failed: continue" in shown.output
    assert "virus: add X-A: b" in shown.output
    assert "550 5.7.1 no" in shown.output


def test_a_file_that_is_too_large_is_not_sent(tmp_path: Path) -> None:
    """The limit is said, and the server is not asked."""
    path = tmp_path / "test.eml"
    path.write_bytes(b"x" * (MOST_MESSAGE_BYTES + 1))
    with AdminStub(tmp_path, {"filter.test": ANSWER}) as stub:
        result = stub.run("filter", "test", str(path))
    assert result.exit_code == 2
    assert "too large" in result.output
    assert stub.calls == []


def test_without_a_server_it_is_for_later(tmp_path: Path) -> None:
    """The live chain is the server's."""
    assert invoke(write_config(tmp_path), "filter", "list").exit_code == 75
