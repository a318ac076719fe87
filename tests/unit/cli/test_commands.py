"""The verbs of this version, their help, and how fast they start."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mailfront.cli import conventions, manual, reference
from mailfront.cli.main import cli
from mailfront.cli.selectors import STATES
from mailfront.queue.rows import SHOWN_STATES

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
MANUAL = Path(__file__).parents[3] / "deploy" / "man" / "mailfront.1"
VERBS = {
    "run": None,
    "demo": None,
    "config": {"check", "show", "diff"},
    "queue": {
        "list", "show", "retry", "hold", "release", "bounce", "delete", "redirect", "stats", "check", "export",
        "import",
    },
    "trace": None,
    "node": {"list", "drain", "maintenance", "activate"},
    "ring": {"show", "explain"},
    "session": {"list", "kick"},
    "user": {"where", "kick"},
    "directory": {"lookup"},
    "filter": {"list", "test"},
    "health": None,
    "completion": None,
}  # fmt: skip


def test_the_verbs_are_those_of_this_version() -> None:
    """Nothing is missing, and nothing of a later version is there."""
    found = {
        name: set(command.commands) if isinstance(command, click.Group) else None
        for name, command in cli.commands.items()
    }
    assert found == VERBS


def test_the_page_is_up_to_date() -> None:
    """Run `python -m mailfront.cli.reference > docs/reference/cli.md` if this fails."""
    assert PAGE.read_text() == reference.render()


def test_the_manual_page_is_up_to_date_and_sound() -> None:
    """Run `python -m mailfront.cli.manual > deploy/man/mailfront.1` if this fails; groff finds nothing wrong in it."""
    assert MANUAL.read_text() == manual.render()
    checked = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Tutf8", str(MANUAL)], capture_output=True, text=True, timeout=60.0, check=True
    )
    assert checked.stderr == ""
    shown = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-c", "-P-b", "-P-u", str(MANUAL)], capture_output=True, text=True, timeout=60.0
    ).stdout
    assert "queue redirect" in shown
    assert "75" in shown


def test_the_states_are_those_of_the_queue() -> None:
    """The command line keeps its own copy so that it need not import the queue."""
    assert STATES == SHOWN_STATES


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["queue"], ["queue", "delete", "--help"]])
def test_help_is_printed(arguments: list[str]) -> None:
    """Asking for help, or for nothing, shows what there is."""
    result = CliRunner().invoke(cli, arguments)
    assert "Usage:" in result.output
    assert "Error" not in result.output


def test_help_starts_without_the_heavy_imports() -> None:
    """`mailfront --help` is quick because it does not load what only some verbs need."""
    heavy = ("rich", "structlog", "pydantic", "sqlalchemy", "alembic", "ldap3", "aiosmtpd", "uvicorn", "asyncio")
    program = (
        "import sys\nfrom mailfront.cli.main import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


def test_run_and_demo_hand_over_and_exit_with_their_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The status of the server is the status of the command."""
    seen: list[object] = []

    def main(argument: object) -> int:
        seen.append(argument)
        return 3

    monkeypatch.setattr("mailfront.app.run.main", main)
    path = tmp_path / "mailfront.toml"
    assert CliRunner().invoke(cli, ["run", "-c", str(path)]).exit_code == 3
    assert seen == [path]


def test_without_c_the_usual_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/etc/mailfront/mailfront.toml`, unless another one is named."""
    seen: list[Path] = []

    def main(path: Path) -> int:
        seen.append(path)
        return 0

    monkeypatch.setattr("mailfront.app.run.main", main)
    CliRunner().invoke(cli, ["run"])
    assert seen == [conventions.DEFAULT_CONFIG]
