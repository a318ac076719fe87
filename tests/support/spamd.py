"""A real spamd (SpamAssassin) on loopback: no DNS, no Bayes, no downloads; the package's rules.

Its port opens a second before it answers, so `start` waits for its PONG.
"""

import os
import shutil
import socket
from pathlib import Path

from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, new_directory

START_TIMEOUT_S = 60.0
_LOCAL_CF = """\
dns_available no
skip_rbl_checks 1
use_bayes 0
use_auto_welcomelist 0
use_razor2 0
use_pyzor 0
use_dcc 0
required_score 5
body MARKED_SIX /mark-of-six-points/
score MARKED_SIX 6.5
"""


class Spamd:
    """One spamd: `address` over TCP. A message with the words `mark-of-six-points` scores 6.5 by that alone."""

    def __init__(self) -> None:
        self.directory = new_directory("spamd")
        self.directory.chmod(0o777)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        site, home = self.directory / "site", self.directory / "home"
        for folder in (site, home):
            folder.mkdir()
            folder.chmod(0o777)
        (site / "local.cf").write_text(_LOCAL_CF)
        for rules in Path("/etc/spamassassin").glob("*.pre"):
            shutil.copy(rules, site)
        as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        self.process = ManagedProcess(
            [
                *as_nobody, "spamd", "-x", "-L", "-i", "127.0.0.1", "-p", str(self.port), "--min-children=1",
                "--max-children=2", f"--siteconfigpath={site}", "--configpath=/usr/share/spamassassin", "-s", "stderr",
            ],
            name="spamd",
            log_path=self.directory / "spamd.log",
            environment={"HOME": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.process.launch()
        self.process.wait_for(self.answers, START_TIMEOUT_S, "an answer of spamd")

    def answers(self) -> bool:
        """Whether it answers PING."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 10.0) as connection:
                connection.sendall(b"PING SPAMC/1.5\r\n\r\n")
                return b"PONG" in connection.recv(256)
        except OSError:
            return False

    def kill9(self) -> None:
        """End it at once, with its children."""
        self.process.kill9()
