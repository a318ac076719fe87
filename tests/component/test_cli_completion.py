"""Completion by the shells themselves: bash completes for real, in a script and behind a TAB on a terminal."""

import os
import pty
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin_stub import AdminStub, write_config
from tests.support.processes import wait_until

IDS = ["06h0eg0rj6a7hfxa", "06h0eg0rj6a7hfxb", "06h2zzzzzzzzzzzz"]
WITHIN_S = 60.0
BIN = Path(sys.executable).parent


def environment() -> dict[str, str]:
    """A shell that finds the mailfront of these tests."""
    return {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": "/nonexistent", "TERM": "dumb", "LC_ALL": "C", "PS1": "> "}


def completed(*words: str) -> list[str]:
    """What bash offers behind these words; the last of them is being typed."""
    script = (
        "source <(mailfront completion bash)\n"
        "compopt() { :; }\n"  # bash allows it behind a real TAB only
        f"COMP_WORDS=({' '.join(map(repr, words))})\nCOMP_CWORD={len(words) - 1}\n"
        '_mailfront_completion mailfront\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment(), capture_output=True, text=True, timeout=WITHIN_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mailfront", "que"], ["queue"]),
        (["mailfront", "queue", "re"], ["redirect", "release", "retry"]),
        (["mailfront", "queue", "list", "--state", "d"], ["due", "deferred"]),
        (["mailfront", "queue", "hold", "--rea"], ["--reason"]),
        (["mailfront", "completion", "f"], ["fish"]),
    ],
)
def test_bash_completes_commands_options_and_states(words: Sequence[str], expected: list[str]) -> None:
    """What is offered is what the program has."""
    assert sorted(completed(*words)) == sorted(expected)


def test_bash_completes_nodes_and_queued_messages(tmp_path: Path) -> None:
    """Nodes come from the file that `-c` names, ids from its server; without a server there are no ids."""
    config = write_config(tmp_path)
    config.write_text(config.read_text() + '[[node]]\nid = "store1"\n[[node]]\nid = "store2"\n[[node]]\nid = "x"\n')
    nodes = completed("mailfront", "-c", str(config), "node", "drain", "st")
    assert nodes == ["store1", "store2"]
    rows: list[dict[str, Any]] = [{"id": id_} for id_ in (*IDS, IDS[0])]
    with AdminStub(tmp_path, {"queue.list": {"rows": rows, "next": None}}) as stub:
        stub.config.write_text(config.read_text())
        assert completed("mailfront", "-c", str(config), "queue", "show", "06h0") == IDS[:2]
        assert completed("mailfront", "-c", str(config), "queue", "hold", "--id", "06h2") == IDS[2:]
    assert completed("mailfront", "-c", str(config), "trace", "06h0") == []


def test_a_tab_on_a_terminal_completes(tmp_path: Path) -> None:
    """An interactive bash, a real terminal, `mailfront que` and TAB."""
    leader, follower = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment(),
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(follower)
    seen = bytearray()

    def has(text: bytes) -> bool:
        while select.select([leader], [], [], 0.05)[0]:
            seen.extend(os.read(leader, 4096))
        return text in seen

    try:
        os.write(leader, b"source <(mailfront completion bash); echo rea''dy\n")
        wait_until(lambda: has(b"ready\r\n"), WITHIN_S, "the script")
        seen.clear()
        os.write(leader, b"mailfront que\t")
        wait_until(lambda: has(b"mailfront queue "), WITHIN_S, "the completed word")
    finally:
        shell.kill()
        shell.wait(10.0)
        os.close(leader)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script(shell: str) -> None:
    """The script is for `mailfront`, whether or not that shell is here."""
    done = subprocess.run(
        ["mailfront", "completion", shell], env=environment(), capture_output=True, text=True, timeout=WITHIN_S
    )
    assert done.returncode == 0
    assert "_MAILFRONT_COMPLETE" in done.stdout
