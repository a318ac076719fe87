"""mailfront itself as a subprocess, with the configuration a test asks for.

Order of calls: `MailfrontServer(...)` writes the files, `start()` waits for the
greeting on every SMTP and LMTP listener, then `cli(...)`, `reload()`,
`kill9_supervisor()` and, at the end, `stop()`. State survives `stop()` and
every kill; `start()` goes on with it.

The pids of its parts come from `runtime_dir/pids.json`, which the supervisor
rewrites at each change.
"""

import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tests.support.certificates import CertificateFiles
from tests.support.dovecot import HANDOFF_PASSWORD, HANDOFF_USER, MASTER_PASSWORD, MASTER_USER
from tests.support.ldap import BIND_DN, BIND_PASSWORD, PEOPLE, Slapd
from tests.support.ports import free_port
from tests.support.processes import Endpoint, ManagedProcess, greeting, new_directory, wait_until
from tests.support.toml_text import toml_text

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 45.0
CLI_TIMEOUT_S = 60.0
_GREETINGS = {"smtp": b"220", "lmtp": b"220", "imap": b"* OK", "pop3": b"+OK", "sieve": b'"IMPL'}


class StorageNode(Protocol):
    """What a node of the harness tells about itself."""

    id: str
    host: str
    lmtp: int
    imap: int
    pop3: int
    sieve: int


class MailfrontServer:
    """One front end.

    nodes      harness nodes, or `[[node]]` tables
    directory  a running Slapd, or a `[directory]` table, or users: a list of `[[user]]` tables
    listen     `[[listen]]` tables; by default one "smtp" listener on a free port of 127.0.0.1
    settings   more settings by section, over those that this class writes
    tls        certificate of the listeners; the first one then offers STARTTLS
    python     another interpreter, with the `environment` that it needs
    """

    def __init__(
        self,
        nodes: Sequence[StorageNode | Mapping[str, object]],
        directory: Slapd | Mapping[str, object] | Sequence[Mapping[str, object]],
        *,
        listen: Sequence[Mapping[str, object]] | None = None,
        settings: Mapping[str, object] | None = None,
        tls: CertificateFiles | None = None,
        name: str = "mailfront",
        python: Path = Path(sys.executable),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = new_directory(name)
        self.configuration_file = self.directory / "mailfront.toml"
        self.runtime_dir = self.directory / "run"
        self.state_dir = self.directory / "state"
        for folder in (self.runtime_dir, self.state_dir, self.directory / "spool"):
            folder.mkdir()
        default = {
            "role": "smtp",
            "address": f"127.0.0.1:{free_port()}",
            "tls": "off" if tls is None else "starttls",
        }
        self.document: dict[str, Any] = self._document(
            [_node_table(node) for node in nodes], self._directory_table(directory), list(listen or [default]), tls
        )
        self.change(settings or {})
        self.process = ManagedProcess(
            [python, "-m", "mailfront", "run", "-c", self.configuration_file],
            name=name,
            log_path=self.directory / "mailfront.log",
            environment=environment,
            cwd=ROOT,
        )

    # Configuration

    def change(self, settings: Mapping[str, object]) -> None:
        """Merge settings into the document by section, and write the file. Takes effect with `reload()` or a start."""
        _merge(self.document, settings)
        self.configuration_file.write_text(toml_text(self.document))

    @property
    def smtp(self) -> tuple[str, int]:
        """Host and port of the first SMTP listener."""
        endpoint = next(_endpoint(table) for table in self.document["listen"] if table["role"] == "smtp")
        assert isinstance(endpoint, tuple)
        return endpoint

    def endpoint(self, role: str, number: int = 0) -> Endpoint:
        """Return the address of the n-th listener with this role."""
        return [_endpoint(table) for table in self.document["listen"] if table["role"] == role][number]

    # Life

    def start(self) -> None:
        """Start and wait for the greetings. Raises ServerDidNotStart with the end of the log."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start; returns at once."""
        (self.runtime_dir / "pids.json").unlink(missing_ok=True)
        self.process.launch()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every listener that greets does so; one that wants a PROXY header first is not asked."""
        for table in self.document["listen"]:
            if table["role"] in _GREETINGS and not table.get("proxy_protocol"):
                self.process.wait_for(
                    partial(_greets, table), timeout_s, f"a greeting of {table['role']} on {table['address']}"
                )
        self.process.wait_for((self.runtime_dir / "pids.json").exists, timeout_s, "pids.json")
        self.wait_for_parts(timeout_s=timeout_s)

    def stop(self) -> int | None:
        """Drain and end (SIGTERM). Returns the exit status."""
        return self.process.stop(timeout_s=STOP_TIMEOUT_S)

    def reload(self, timeout_s: float = 60.0) -> bool:
        """Send SIGHUP and wait for the verdict: True when the new configuration is in force, False when refused."""
        seen = len(self.events("config_reloaded", "config_refused"))
        os.kill(self.process.pid, signal.SIGHUP)
        verdicts = wait_until(
            lambda: self.events("config_reloaded", "config_refused")[seen:], timeout_s, "the verdict on a reload"
        )
        return bool(verdicts[0]["event"] == "config_reloaded")

    def kill9_supervisor(self) -> None:
        """Kill the supervisor only; what the others do then is what the test is about."""
        os.kill(self.process.pid, signal.SIGKILL)
        wait_until(lambda: not self.process.running, 5.0, "the supervisor's end")

    def kill9_all(self) -> None:
        """Kill every process of this front end at once, as a power cut would."""
        self.process.kill9()

    def workers(self) -> list[int]:
        """Return the pids of the workers."""
        return [int(pid) for pid in self._pids()["workers"]]

    def keeper_pid(self) -> int:
        """Return the pid of the keeper."""
        return int(self._pids()["keeper"])

    def wait_for_parts(self, *, other_than: Sequence[int] = (), timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until keeper and all workers are there again, none of them one of the pids `other_than`."""
        count = self.document["server"]["workers"]

        def complete() -> bool:
            pids = self._pids()
            parts = [pids.get("keeper"), *pids["workers"]]
            return len(parts) == count + 1 and all(pid and pid not in other_than and _alive(pid) for pid in parts)

        wait_until(complete, timeout_s, "keeper and workers")

    # Questions

    def cli(self, *arguments: str, timeout_s: float = CLI_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run `mailfront ARGUMENTS -c FILE` and return its output and exit status."""
        return subprocess.run(
            [sys.executable, "-m", "mailfront", *arguments, "-c", str(self.configuration_file)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def cli_json(self, *arguments: str) -> Any:
        """Run a verb with `--json` and return what it printed. Raises AssertionError when it fails."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, f"mailfront {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the JSON lines of its log, in order: all, or the events of these names."""
        found: list[dict[str, Any]] = []
        for line in self.log_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                record = json.loads(line)
                if not names or record.get("event") in names:
                    found.append(record)
        return found

    def log_text(self) -> str:
        """Return everything it wrote to standard error and output."""
        log = self.process.log_path
        return log.read_text(errors="replace") if log.exists() else ""

    def _pids(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.runtime_dir / "pids.json").read_text())
        return document

    # The file

    def _document(
        self,
        nodes: list[dict[str, object]],
        directory: Mapping[str, object],
        listen: list[Mapping[str, object]],
        tls: CertificateFiles | None,
    ) -> dict[str, Any]:
        document: dict[str, Any] = {
            "server": {
                "hostname": "mx1.example.edu",
                "workers": 2,
                "state_dir": self.state_dir,
                "runtime_dir": self.runtime_dir,
                "spool_dir": self.directory / "spool",
            },
            "listen": listen,
            "domains": {"local": ["example.edu"]},
            "postmaster": {"address": "postmaster@example.edu"},
            "directory": directory,
            "storage": {
                "cluster": "example",
                "handoff_mailbox": HANDOFF_USER,
                "handoff_password_file": self.secret("handoff", HANDOFF_PASSWORD),
                "secret_file": self.secret("hmac", secrets.token_hex(32)),
                "master_user": MASTER_USER,
                "master_password_file": self.secret("master", MASTER_PASSWORD),
            },
            "node": nodes,
        }
        if tls is not None:
            document["tls"] = {"certificate": tls.certificate, "key": tls.key}
        return document

    def _directory_table(
        self, directory: Slapd | Mapping[str, object] | Sequence[Mapping[str, object]]
    ) -> Mapping[str, object]:
        if isinstance(directory, Slapd):
            return {
                "kind": "ldap",
                "urls": [directory.url],
                "base": PEOPLE,
                "bind_dn": BIND_DN,
                "password_file": self.secret("ldap", BIND_PASSWORD),
                "attributes": {"id": "entryUUID", "host": "mailHost"},
            }
        if isinstance(directory, Mapping):
            return directory
        users = self.directory / "users.toml"
        users.write_text(toml_text({"user": directory}))
        return {"kind": "static", "file": users}

    def secret(self, name: str, value: str) -> Path:
        """Write a secret file and return its path."""
        path = self.directory / f"{name}.secret"
        path.write_text(f"{value}\n")
        path.chmod(0o600)
        return path


def _node_table(node: StorageNode | Mapping[str, object]) -> dict[str, object]:
    if isinstance(node, Mapping):
        return dict(node)
    return {
        "id": node.id,
        "host": node.host,
        "lmtp": node.lmtp,
        "imap": node.imap,
        "pop3": node.pop3,
        "sieve": node.sieve,
    }


def _merge(document: MutableMapping[str, Any], changes: Mapping[str, object]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(document.get(name), MutableMapping):
            _merge(document[name], value)
        else:
            document[name] = dict(value) if isinstance(value, Mapping) else value


def _endpoint(table: Mapping[str, object]) -> Endpoint:
    address = str(table["address"])
    if address.startswith("unix:"):
        return Path(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port))


def _greets(table: Mapping[str, object]) -> bool:
    context = None
    if table.get("tls") == "implicit":
        context = ssl._create_unverified_context()
    return greeting(_endpoint(table), tls=context).startswith(_GREETINGS[str(table["role"])])


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False
