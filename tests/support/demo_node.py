"""A storage node of the demo, as the harness sees one: aiosmtpd's LMTP and pymap's IMAP in a process of its own.

Unlike the real servers it knows only the users that it is given, each with a password of its own, and has no master
user. `messages()` reads the Maildirs from the disk; they survive `stop()`, `kill9()` and the next `start()`.
"""

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.support.certificates import CertificateFiles
from tests.support.maildir import maildir_messages
from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, greeting, new_directory

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0


class DemoNode:
    """One node. `users`: name to password. LMTP on TCP (with `tls`: STARTTLS) and on a UNIX socket; IMAP on TCP."""

    def __init__(
        self,
        node_id: str,
        users: Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        tls: CertificateFiles | None = None,
    ) -> None:
        self.id = node_id
        self.host = host
        self.directory = new_directory(node_id)
        self.lmtp, self.imap = free_port(), free_port()
        self.lmtp_unix = self.directory / "lmtp.sock"
        accounts = self.directory / "accounts.json"
        accounts.write_text(json.dumps(dict(users)))
        literal = f"[{host}]" if ":" in host else host
        options: list[str | Path] = ["--id", node_id, "--directory", self.directory / "node", "--users", accounts]
        options += ["--lmtp", f"{literal}:{self.lmtp}", "--lmtp", f"unix:{self.lmtp_unix}"]
        options += ["--imap", f"{literal}:{self.imap}"]
        if tls is not None:
            options += ["--certificate", tls.certificate, "--key", tls.key]
        self.process = ManagedProcess(
            [sys.executable, "-m", "mailfront.demo.node", *options],
            name=node_id,
            log_path=self.directory / "node.log",
            cwd=ROOT,
        )

    def start(self) -> None:
        """Start and wait for both greetings."""
        self.process.launch()
        for port, begin in ((self.lmtp, b"220"), (self.imap, b"* OK")):
            self.process.wait_for(partial(self._greets, port, begin), START_TIMEOUT_S, f"a greeting on port {port}")

    def _greets(self, port: int, begin: bytes) -> bool:
        return greeting((self.host, port)).startswith(begin)

    def stop(self) -> int | None:
        """End it in order. Returns its exit status."""
        return self.process.stop(timeout_s=5.0)

    def kill9(self) -> None:
        """Kill it in the middle of whatever it does."""
        self.process.kill9()

    def messages(self, user: str) -> list[bytes]:
        """Return what is in a user's inbox, as it is on the disk, oldest first."""
        return maildir_messages(self.directory / "node" / "mail" / user)

    def log_text(self) -> str:
        """Return what it wrote to standard error."""
        return (self.directory / "node.log").read_text()
