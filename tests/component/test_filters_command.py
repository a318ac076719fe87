"""A program as a filter: what it is given, what it may answer, and what happens when it misbehaves."""

import os
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from mailfront.filters.answers_json import read_verdict
from mailfront.mail.verdict import Action, AddHeader, Edit
from tests.support.doc_blocks import blocks_of
from tests.support.filters import asked, chain_of, finding_of, view
from tests.support.mailfront_server import ROOT
from tests.support.processes import wait_until

DATA = b"From: ann@example.org\r\nSubject: hello\r\n\r\nline\r\n.\r\nlast"


def program(tmp_path: Path, text: str) -> list[str]:
    """A Python program as a command."""
    path = tmp_path / "check.py"
    path.write_text(text)
    return [sys.executable, "-I", "-S", str(path)]


async def test_it_gets_the_bytes_that_arrived_and_the_envelope(tmp_path: Path) -> None:
    """The message is on standard input unchanged, the envelope in the environment, and nothing else is."""
    seen = tmp_path / "seen"
    command = program(
        tmp_path,
        "import os, sys\n"
        f"open({str(seen)!r}, 'wb').write(sys.stdin.buffer.read() + b'|' + "
        "repr(sorted(os.environ.items())).encode())\n",
    )
    message = view(DATA, "ana@example.edu", "bob@example.edu")
    finding = await finding_of(message, kind="command", settings={"command": command})
    assert (finding.error, finding.verdict.action) == ("", Action.CONTINUE)
    body, _, environment = seen.read_bytes().partition(b"|")
    assert body == DATA
    assert dict(eval(environment)) | {"LC_CTYPE": ""} == {  # what our own program has written
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "LC_CTYPE": "",
        "MAILFRONT_ID": message.id,
        "MAILFRONT_CLIENT_IP": "192.0.2.1",
        "MAILFRONT_HELO": "client.example.org",
        "MAILFRONT_PROTOCOL": "ESMTP",
        "MAILFRONT_SENDER": "ann@example.org",
        "MAILFRONT_RECIPIENTS": "ana@example.edu\nbob@example.edu",
    }


async def test_its_answer_is_a_verdict(tmp_path: Path) -> None:
    """JSON on standard output: an action, a text, a score, edits."""
    command = program(
        tmp_path,
        'print(\'{"action": "reject", "text": "not today", "score": 7.5, "edits": [["add_header", "X-A", "b"]]}\')\n',
    )
    verdict = (await finding_of(view(DATA), kind="command", settings={"command": command})).verdict
    assert (verdict.action, verdict.code, verdict.text, verdict.score) == (Action.REJECT, 550, "not today", 7.5)
    assert verdict.edits == (AddHeader("X-A", "b"),)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import sys; print('broken', file=sys.stderr); sys.exit(3)", "exit status 3: broken"),
        ("import os; os.kill(os.getpid(), 11)", "exit status -11"),
        ("print('hello')", "its answer is no verdict"),
        ("print('[1, 2]')", "its answer is no verdict"),
        ('print(\'{"action": "explode"}\')', "its answer is no verdict"),
        ('print(\'{"edits": [["make_coffee", 1]]}\')', "its answer is no verdict"),
        ('print(\'{"edits": [["add_header", "X-A", "b\\\\r\\\\nBcc: c"]]}\')', "would begin another field"),
        ("print('x' * 2000)", "longer than 1024 bytes"),
        ("x = bytearray(400 * 1024 * 1024)", "exit status 1"),
    ],
)
async def test_misbehaviour_is_a_failure_of_the_filter(tmp_path: Path, text: str, error: str) -> None:
    """A bad exit, nonsense, header injection, too much output or memory: `on_error` applies, and the log says why."""
    settings = {"command": program(tmp_path, text), "max_output": "1KiB", "max_memory": "200MiB"}
    finding = await finding_of(view(DATA), kind="command", on_error="tempfail", settings=settings)
    assert finding.verdict.action is Action.TEMPFAIL
    assert error in finding.error


async def test_a_program_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    """At the end of its time the whole process group goes."""
    pids = tmp_path / "pids"
    command = program(
        tmp_path,
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen(['/bin/sleep', '600'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)\n",
    )
    chain = chain_of({"kind": "command", "timeout": "3s", "on_error": "accept", "settings": {"command": command}})
    (finding,) = await asked(chain, view(DATA))
    assert (finding.verdict.action, finding.error) == (Action.CONTINUE, "no answer within 3 s")
    for pid in pids.read_text().split():
        wait_until(partial(_is_gone, int(pid)), 10.0, f"the end of process {pid}")


async def test_a_program_that_is_not_there_is_a_failure() -> None:
    """The finding names the path."""
    finding = await finding_of(view(DATA), kind="command", settings={"command": ["/nowhere/check"]})
    assert finding.error == "/nowhere/check cannot be started: No such file or directory"


async def test_a_program_may_answer_before_it_has_read_everything(tmp_path: Path) -> None:
    """A large message and a program that does not look at it."""
    big = b"Subject: x\r\n\r\n" + b"a" * 3_000_000
    command = program(tmp_path, 'print(\'{"action": "discard", "reason": "seen enough"}\')\n')
    finding = await finding_of(view(big), kind="command", settings={"command": command})
    assert (finding.error, finding.verdict.action) == ("", Action.DISCARD)


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except OSError:
        return not os.path.exists(f"/proc/{pid}")


PAGE = ROOT / "docs" / "reference" / "command-filter.md"


@pytest.mark.parametrize(
    ("sender", "header", "wanted"),
    [
        ("ann@example.org", "X-Spam-Me: yes\r\n", (Action.REJECT, "as you wish", ())),
        ("ann@example.org", "", (Action.CONTINUE, "", ())),
        ("", "", (Action.CONTINUE, "", (AddHeader("X-Bounce", "yes"),))),
    ],
)
async def test_the_example_of_the_reference_runs(
    tmp_path: Path, sender: str, header: str, wanted: tuple[Action, str, tuple[AddHeader, ...]]
) -> None:
    """It refuses, passes and marks as the page says."""
    (example,) = [block.text for block in blocks_of(PAGE) if block.info == "python"]
    message = view(f"From: ann@example.org\r\n{header}Subject: hello\r\n\r\ntext\r\n".encode())
    if not sender:
        message = replace(message, reverse_path=None)
    finding = await finding_of(message, kind="command", settings={"command": program(tmp_path, example)})
    verdict = finding.verdict
    assert (finding.error, verdict.action, verdict.text, verdict.edits) == ("", *wanted)


def test_the_reference_names_each_edit_and_action() -> None:
    """Each edit of the page's table is read, all kinds of edits are there, and all actions."""
    text = PAGE.read_text()
    found = re.findall(r"`(\[\"[^`]+\])`", text)
    edits = read_verdict(f'{{"edits": [{", ".join(found)}]}}'.encode()).edits
    assert {type(each) for each in edits} == set(get_args(Edit))
    assert all(f'`"{each.value}"`' in text for each in Action)
