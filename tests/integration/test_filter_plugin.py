"""The plug-in of the tutorial: built, installed, tested by its own tests, and obeyed by a running server."""

import os
import smtplib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.doc_blocks import blocks_of
from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.processes import new_directory

pytestmark = pytest.mark.serial

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "keyword-filter"
TUTORIAL = ROOT / "docs" / "tutorials" / "write-a-filter.md"


@pytest.fixture(scope="module")
def installed() -> Path:
    """The folder into which pip has installed the example."""
    folder = new_directory("plugin")
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index",
            "--no-build-isolation", "--target", str(folder), str(EXAMPLE),
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(installed: Path, three_nodes: Sequence[DovecotNode]) -> Iterator[MailfrontServer]:
    """mailfront with the plug-in and the table of the tutorial, no shadow any more."""
    settings = {"words": ["lottery"], "found": "reject", "refused_senders": ["eve@example.org"]}
    started = MailfrontServer(
        three_nodes,
        [
            {"address": "ana@example.edu", "mailbox": "plugin.ana"},
            {"address": "postmaster@example.edu", "mailbox": "postmaster"},
        ],
        settings={"filter": [{"name": "keyword", "kind": "keyword", "settings": settings}]},
        name="plugin",
        environment={**os.environ, "PYTHONPATH": str(installed)},
    )
    started.start()
    yield started
    started.stop()


def test_its_own_tests_pass(installed: Path) -> None:
    """The example's tests, against the installed package."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(EXAMPLE),
         str(EXAMPLE / "tests")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{installed}:{ROOT}"},
        cwd=EXAMPLE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_server_obeys_it(server: MailfrontServer, three_nodes: Sequence[DovecotNode]) -> None:
    """Refused after the dot by the subject, at MAIL by the sender; other mail arrives."""
    with smtplib.SMTP(*server.smtp, timeout=30) as client:
        client.ehlo()
        assert client.mail("eve@example.org") == (550, b"5.7.1 this sender is not welcome")
        for subject, answer in (("the lottery", b"5.7.1 we do not want to read about that"), ("lunch", b"2.0.0 ")):
            assert client.mail("ann@example.org")[0] == 250
            assert client.rcpt("ana@example.edu")[0] == 250
            assert client.data(f"Subject: {subject}\r\n\r\nhello\r\n")[1].startswith(answer)
    copies = [copy for node in three_nodes for copy in node.messages("plugin.ana")]
    assert [b"Subject: lunch" in copy for copy in copies] == [True]


def test_its_mistakes_are_reported_like_all_others(installed: Path, tmp_path: Path, server: MailfrontServer) -> None:
    """A wrong setting of a plug-in has its place in the file."""
    text = server.configuration_file.read_text().replace('found = "reject"', 'found = "burn"')
    path = tmp_path / "mailfront.toml"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mailfront", "config", "check", "-c", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert done.returncode == 2
    assert "filter[0].settings.found: must be one of 'mark', 'quarantine', 'reject'" in done.stderr


def test_the_tutorial_shows_the_example() -> None:
    """Each piece of Python on the page is in the file, but for the docstrings that the page leaves out."""
    source = (EXAMPLE / "keyword_filter.py").read_text()
    lines = {line.strip() for line in source.splitlines()}
    shown = [block.text for block in blocks_of(TUTORIAL) if block.info == "python"]
    assert len(shown) == 3
    missing = [line for text in shown for line in text.splitlines() if line.strip() and line.strip() not in lines]
    assert not missing
