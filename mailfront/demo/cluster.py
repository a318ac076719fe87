"""The demo's cluster: three storage nodes and a front end, all real processes, in one temporary directory.

Order of calls: `start`, then everything else, `stop` at the end in every case. The front end is `mailfront run` with a
configuration file as an administrator would write it.

    DIR/mailfront.toml  users.toml  *.secret        configuration
    DIR/front.log  state/  run/  spool/             the front end
    DIR/store1/mail/ana/{new,cur}  DIR/store1.log   a node: its Maildirs and its log
"""

import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailfront.admin.client import AdminClient
from mailfront.config.write import document_to_toml
from mailfront.demo.children import HOST, Child, ChildFailed, PortReservation
from mailfront.demo.people import DOMAIN, HANDOFF, PEOPLE, POSTMASTER

START_WITHIN_S = 90.0
STOP_WITHIN_S = 20.0
CLI_WITHIN_S = 60.0
_LONGEST_DIRECTORY_CHARS = 70
"""The path of a UNIX socket has at most 107 bytes."""


@dataclass(frozen=True, slots=True)
class Node:
    """One storage node and its process."""

    id: str
    lmtp: int
    imap: int
    process: Child
    mail: Path


class Cluster:
    """See the module."""

    def __init__(self) -> None:
        """Make the directory and write all files. Nothing runs yet."""
        base = tempfile.gettempdir()
        self.directory = Path(
            tempfile.mkdtemp(prefix="mailfront-demo-", dir=base if len(base) < _LONGEST_DIRECTORY_CHARS else "/tmp")  # noqa: S108
        )
        self._ports = PortReservation()
        self.smtp, self.imap, self.http = (self._ports.port(wanted) for wanted in (2525, 2143, 2580))
        self.handoff_password = secrets.token_urlsafe(16)
        self.passwords = {each.name: each.password for each in PEOPLE} | {HANDOFF: self.handoff_password}
        accounts = self.directory / "accounts.json"
        accounts.write_text(json.dumps(self.passwords))
        self.nodes = {f"store{number}": self._node(number, accounts) for number in (1, 2, 3)}
        self.configuration_file = self.directory / "mailfront.toml"
        self._write_configuration()
        self.front = Child(
            "the front end",
            ["mailfront", "run", "-c", str(self.configuration_file)],
            self.directory / "front.log",
            at_our_death=signal.SIGTERM,
        )

    # Life

    def start(self) -> None:
        """Start everything and wait until it serves. Raises ChildFailed."""
        for node in self.nodes.values():
            node.process.start()
        for node in self.nodes.values():
            self._wait_for_node(node)
        self.front.start()
        self.front.wait_for_greeting(self.smtp, b"220", START_WITHIN_S)

    def kill(self, node_id: str) -> None:
        """Kill a node in the middle of whatever it does."""
        self.nodes[node_id].process.kill()

    def bring_back(self, node_id: str) -> None:
        """Start a killed node again, with the disk that it had. Raises ChildFailed."""
        node = self.nodes[node_id]
        node.process.start()
        self._wait_for_node(node)

    def stop(self) -> None:
        """End everything: the front end first, in order, then the nodes. The directory stays."""
        self.front.terminate()
        self.front.wait(STOP_WITHIN_S)
        for node in self.nodes.values():
            node.process.terminate()
        for node in self.nodes.values():
            node.process.wait(STOP_WITHIN_S)
        self._ports.close()

    def remove_directory(self) -> None:
        """Remove all files. Call it after `stop`."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _wait_for_node(self, node: Node) -> None:
        node.process.wait_for_greeting(node.lmtp, b"220", START_WITHIN_S)
        node.process.wait_for_greeting(node.imap, b"* OK", START_WITHIN_S)

    # Questions

    def cli_json(self, *arguments: str) -> Any:
        """Run `mailfront ARGUMENTS --json` as an administrator would. Raises ChildFailed if it fails."""
        command = [sys.executable, "-m", "mailfront", *arguments, "--json", "-c", str(self.configuration_file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLI_WITHIN_S, check=False)  # noqa: S603
        if done.returncode != 0:
            raise ChildFailed(f"mailfront {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Ask the front end over its admin socket, as the command line does. Raises AdminError."""
        with AdminClient(self.directory / "run" / "admin.sock") as client:
            return client.call(verb, arguments)

    def home_of(self, address: str) -> str:
        """The node where this address lives. Raises AdminError."""
        home: str = self.ask("ring.explain", address=address)["home"]
        return home

    # Files

    def _node(self, number: int, accounts: Path) -> Node:
        id_ = f"store{number}"
        lmtp, imap = self._ports.port(2400 + number), self._ports.port(1430 + number)
        folder = self.directory / id_
        arguments = ["--id", id_, "--directory", str(folder), "--users", str(accounts)]
        arguments += ["--lmtp", f"{HOST}:{lmtp}", "--imap", f"{HOST}:{imap}"]
        log_path = self.directory / f"{id_}.log"
        child = Child(id_, ["mailfront.demo.node", *arguments], log_path, at_our_death=signal.SIGKILL)
        return Node(id_, lmtp, imap, child, folder / "mail")

    def _write_configuration(self) -> None:
        for folder in ("state", "run", "spool"):
            (self.directory / folder).mkdir()
        (self.directory / "users.toml").write_text(document_to_toml({"user": [_entry(each) for each in PEOPLE]}))
        document = {
            "server": {
                "hostname": f"mx1.{DOMAIN}",
                "workers": 2,
                "state_dir": str(self.directory / "state"),
                "runtime_dir": str(self.directory / "run"),
                "spool_dir": str(self.directory / "spool"),
            },
            "listen": [
                {"role": "smtp", "address": f"{HOST}:{self.smtp}", "tls": "off"},
                {"role": "imap", "address": f"{HOST}:{self.imap}", "tls": "off"},
                {"role": "admin", "address": f"{HOST}:{self.http}"},
            ],
            "domains": {"local": [DOMAIN]},
            "postmaster": {"address": POSTMASTER},
            "directory": {"kind": "static", "file": str(self.directory / "users.toml")},
            "storage": {
                "cluster": "demo",
                "handoff_mailbox": HANDOFF,
                "handoff_password_file": self._secret("handoff", self.handoff_password),
                "secret_file": self._secret("hmac", secrets.token_hex(32)),
            },
            "node": [
                {"id": each.id, "host": HOST, "lmtp": each.lmtp, "imap": each.imap} for each in self.nodes.values()
            ],
            "limits": {"free_space": "16MiB"},
        }
        self.configuration_file.write_text(document_to_toml(document))

    def _secret(self, name: str, value: str) -> str:
        path = self.directory / f"{name}.secret"
        path.touch(mode=0o600)
        path.write_text(f"{value}\n")
        return str(path)


def _entry(each: Any) -> dict[str, Any]:
    """One `[[user]]` of the directory."""
    entry = {"address": each.address, "mailbox": each.name, "password": f"{{PLAIN}}{each.password}"}
    return {**entry, "aliases": list(each.aliases)} if each.aliases else entry
