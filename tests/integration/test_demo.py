"""`mailfront demo` as a newcomer runs it, as a script runs it, and as it must not end."""

import contextlib
import imaplib
import os
import re
import shutil
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
ONCE_WITHIN_S = 240.0


class Demo:
    """A running `mailfront demo`. What it says is in `text`."""

    def __init__(self, folder: Path, *arguments: str, sabotage: str = "") -> None:
        self.folder = folder
        self._output = folder / "output.txt"
        code = f"{sabotage}\nfrom mailfront.cli.main import main\nmain()"
        environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "demo", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """Everything it has said, with its line breaks."""
        return self._output.read_text()

    @property
    def words(self) -> str:
        """The same as one line, so that nobody depends on where lines are broken."""
        return " ".join(self.text.split())

    def wait(self) -> int:
        """Wait for its end. Returns the exit status."""
        return self.process.wait(ONCE_WITHIN_S)

    def wait_for(self, words: str) -> None:
        """Wait until it has said this."""

        def said() -> bool:
            assert self.process.poll() is None, self.text
            return words in self.words

        wait_until(said, ONCE_WITHIN_S, words)

    def said(self, pattern: str) -> tuple[str, ...]:
        """Wait until it has said something like this. Returns the groups."""
        return wait_until(lambda: re.search(pattern, self.text, re.DOTALL), 10.0, pattern).groups()  # type: ignore[union-attr]

    def relatives(self) -> list[str]:
        """Command lines of all processes that have to do with its folder, itself excepted."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in (self.process.pid, os.getpid()):
                with contextlib.suppress(OSError):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    files = [os.readlink(link) for link in (entry / "fd").iterdir()]
                    if any(str(self.folder) in text for text in (command, *files)):
                        found.append(command)
        return found

    def directories(self) -> list[Path]:
        """What it has left in its temporary folder."""
        return list(self.folder.glob("mailfront-demo-*"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder with a short name: sockets are made in it."""
    path = Path("/tmp") / f"mfd-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def test_once(folder: Path) -> None:
    """`--once` tells everything, checks it, ends with 0 within a minute, and leaves nothing."""
    demo = Demo(folder, "--once")
    assert demo.wait() == 0, demo.text
    for claim in (
        "A plain message to ana@example.edu",
        "gave it back over IMAP byte for byte",
        "store1, store2 and store3 gave it back",
        "rector@example.edu and carla@example.edu are one mailbox",
        "550 5.1.1",
        "waits in the handoff mailbox of",
        "the message came home",
        "the queue is empty",
        "5 messages were acknowledged for 8 mailboxes; the disks of all nodes hold exactly these 8 copies",
        "Everything that was claimed was checked.",
    ):
        assert claim in demo.words, demo.text
    assert "\x1b" not in demo.text
    assert demo.relatives() == []
    assert demo.directories() == []


def test_it_stays_up_for_a_mail_client_until_ctrl_c(folder: Path) -> None:
    """After the tour anybody may send by SMTP and read at the printed place, ask by the printed command, and kill a
    node, which comes back. Ctrl-C ends all of it with 0."""
    demo = Demo(folder, sabotage="import mailfront.demo.run as run\nrun.BACK_AFTER_S = 1.0")
    try:
        demo.wait_for("zoe-demo")
        smtp_port = int(demo.said(r"SMTP 127\.0\.0\.1:(\d+), no TLS")[0])
        with smtplib.SMTP("127.0.0.1", smtp_port, local_hostname="client.example.org") as client:
            client.sendmail("a@example.org", ["zoe@example.edu"], b"Subject: to zoe\r\n\r\nhello\r\n")
        password, imap_port = demo.said(r"zoe@example\.edu +zoe +(\S+) +store\d +127\.0\.0\.1:(\d+)\n")
        with imaplib.IMAP4("127.0.0.1", int(imap_port), timeout=60) as session:
            session.login("zoe", password)
            session.select()
            assert session.search(None, "SUBJECT", '"to zoe"')[1] == [b"1"]
        program, options = demo.said(r"ask +(\S+)(.*?) VERB,")
        command = [program, *options.split(), "queue", "stats", "--json"]
        assert subprocess.run(command, capture_output=True, timeout=120, cwd=ROOT).returncode == 0
        os.kill(int(demo.said(r"kill -9 (\d+) ends store1")[0]), signal.SIGKILL)
        demo.wait_for("store1 is back")
        demo.process.send_signal(signal.SIGINT)
        assert demo.wait() == 0
    finally:
        demo.process.kill()
        demo.process.wait()
    assert demo.words.endswith("All processes have ended, all files are removed.")
    assert demo.relatives() == []
    assert demo.directories() == []


@pytest.mark.parametrize(
    "sabotage",
    [
        "",
        # A dialogue that is broken off may raise an error of its own, on top of the wish to end.
        "import contextlib, os, signal, time\n"
        "import mailfront.demo.tour as tour\n"
        "def send(*_):\n"
        "    with contextlib.suppress(KeyboardInterrupt):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(30)\n"
        "    raise OSError('broken off')\n"
        "tour.post.send = send",
        # In the middle of a message's data no QUIT would be heard, nor answered.
        "import os, signal, smtplib, time\n"
        "def data(self, content):\n"
        "    self.docmd('data')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
        "smtplib.SMTP.data = data",
    ],
    ids=["asked", "asked in a dialogue", "asked in the data"],
)
def test_an_end_in_the_middle(folder: Path, sabotage: str) -> None:
    """Stopped before the end of the tour: all ends, and the status does not claim success."""
    demo = Demo(folder, "--once", sabotage=sabotage)
    demo.wait_for("1. A plain message")
    if not sabotage:
        demo.process.send_signal(signal.SIGTERM)
    assert demo.wait() == 1
    assert "The tour was not finished." in demo.words
    assert "FAILED" not in demo.words
    assert demo.relatives() == []
    assert demo.directories() == []


def test_nothing_outlives_it(folder: Path) -> None:
    """After SIGKILL of the demo the front end and the nodes end by themselves."""
    demo = Demo(folder)
    demo.wait_for("1. A plain message")
    assert len(demo.relatives()) >= 5
    demo.process.kill()
    demo.process.wait()
    wait_until(lambda: not demo.relatives(), 60.0, "the end of all processes")


@pytest.mark.parametrize(
    ("sabotage", "claim"),
    [
        pytest.param(
            "import mailfront.demo.post as post\n"
            "read = post.read_back\n"
            "post.read_back = lambda *a: [copy.replace(b'Spaces at the end:   ', b'Spaces at the end:') "
            "for copy in read(*a)]",
            "is at store2 as it was sent: this is not so",
            id="three bytes are lost on the way back",
        ),
        pytest.param(
            "import mailfront.demo.tour as tour\n"
            "send = tour.post.send\n"
            "tour.post.send = lambda port, to, content: "
            "(b'rector@' in content and send(port, to, content), send(port, to, content))[1]",
            "exactly these 8 copies: this is not so",
            id="a message arrives twice",
        ),
        pytest.param(
            "import mailfront.demo.tour as tour\n"
            "tour.HOME_AGAIN_WITHIN_S = 2\n"
            "from mailfront.demo.cluster import Cluster\n"
            "bring_back = Cluster.bring_back\n"
            "def without_the_holder(cluster, node_id):\n"
            "    cluster.kill(cluster.ask('ring.explain', address='ana@example.edu')['now_at'])\n"
            "    bring_back(cluster, node_id)\n"
            "Cluster.bring_back = without_the_holder",
            "the mail comes to store2: this is not so",
            id="the mail never comes home",
        ),
        pytest.param(
            "import mailfront.demo.cluster as cluster\n"
            "cluster.START_WITHIN_S = 60\n"
            "write = cluster.document_to_toml\n"
            "cluster.document_to_toml = lambda document: write(document).replace('workers', 'wrokers')",
            "the front end has ended; its log:",
            id="the configuration has a mistake",
        ),
    ],
)
def test_a_false_claim_fails_the_demo(folder: Path, sabotage: str, claim: str) -> None:
    """When something is not as told, the demo says what, exits with 1, and keeps its files for a look."""
    demo = Demo(folder, "--once", sabotage=sabotage)
    assert demo.wait() == 1
    assert claim in demo.words, demo.text
    assert demo.relatives() == []
    (kept,) = demo.directories()
    assert f"logs {kept}/*.log" in demo.words
    assert (kept / "front.log").exists()
