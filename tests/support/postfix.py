"""A real Postfix as the sending server, and its load tools smtp-source and smtp-sink.

`PostfixSender` is a private Postfix instance: its own configuration, queue and
ports in a temporary folder; the system's Postfix is not touched. It takes mail
on a port of its own and relays everything to one address, as the rest of the
world does with mailfront. It tries again after a second, not after minutes.

Postfix needs root to start. Without root it is started by sudo; if that fails,
the error says so.
"""

import json
import os
import re
import shutil
import smtplib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, greeting, new_directory

START_TIMEOUT_S = 60.0
_PATH = "/usr/sbin:/sbin:/usr/lib/postfix/sbin:/usr/libexec/postfix"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceResult:
    """How a run of smtp-source ended. It stops at the first reply that is not positive."""

    status: int
    output: str

    @property
    def ok(self) -> bool:
        return self.status == 0


def smtp_source(
    host: str,
    port: int,
    *,
    messages: int,
    recipient: str,
    sessions: int = 20,
    size_bytes: int = 30_000,
    sender: str = "source@example.org",
    options: Sequence[str] = (),
    timeout_s: float = 120.0,
) -> SourceResult:
    """Send `messages` messages over `sessions` parallel connections, one message each, and wait for the end.

    `options` are more options of smtp-source, such as ("-N",) or ("-d",).
    """
    command = [
        _binary("smtp-source"),
        *("-s", str(sessions), "-m", str(messages), "-l", str(size_bytes)),
        *("-f", sender, "-t", recipient, *options, f"inet:{_bracketed(host)}:{port}"),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    return SourceResult(status=done.returncode, output=done.stdout + done.stderr)


class SmtpSink:
    """smtp-sink: takes every message and throws it away, or answers as `options` say. Use it as a context manager."""

    def __init__(self, *, lmtp: bool = False, options: Sequence[str] = (), dump: bool = False) -> None:
        self.host, self.port = "127.0.0.1", free_port()
        self.directory = new_directory("smtp-sink")
        # It writes the dump as the user that it becomes.
        self.directory.chmod(0o777)
        self._dump = self.directory / "dump" if dump else None
        self.process = ManagedProcess(
            [
                _binary("smtp-sink"),
                *(["-L"] if lmtp else []),
                *(["-u", "nobody"] if os.getuid() == 0 else []),
                *(["-D", str(self._dump)] if self._dump else []),
                *options,
                f"inet:{self.host}:{self.port}",
                "100",
            ],
            name="smtp-sink",
            log_path=self.directory / "smtp-sink.log",
            cwd=self.directory,
        )

    def start(self) -> None:
        """Start and wait for the greeting."""
        self.process.launch()
        self.process.wait_for(
            lambda: greeting((self.host, self.port)).startswith(b"220"), START_TIMEOUT_S, f"smtp-sink on {self.port}"
        )

    def stop(self) -> None:
        self.process.stop(timeout_s=1.0)

    def __enter__(self) -> "SmtpSink":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def messages(self) -> list[bytes]:
        """Return the dumped messages (with `dump=True`), each with smtp-sink's own X- lines on top."""
        if self._dump is None or not self._dump.exists():
            return []
        parts = re.split(rb"^(?=X-Client-Addr: )", self._dump.read_bytes(), flags=re.MULTILINE)
        return [part for part in parts if part.strip()]


class PostfixSender:
    """A private Postfix that relays everything to `relay_host`:`relay_port`. Use it as a context manager.

    settings  more lines of main.cf
    services  more lines of master.cf
    """

    def __init__(
        self, relay_host: str, relay_port: int, *, settings: Sequence[str] = (), services: Sequence[str] = ()
    ) -> None:
        self.host, self.port = "127.0.0.1", free_port()
        self.directory = new_directory("postfix")
        self._etc = self.directory / "etc"
        self._log = self.directory / "mail.log"
        self._etc.mkdir()
        (self.directory / "queue").mkdir()  # "postfix check" makes what is in it, and the data folder
        (self._etc / "main.cf").write_text(self._main_cf(relay_host, relay_port, settings))
        (self._etc / "master.cf").write_text(self._master_cf() + "".join(f"{line}\n" for line in services))
        # -d keeps the master in the foreground: it ends with its process group.
        self.process = ManagedProcess(
            [*_as_root(), _binary("master"), "-c", self._etc, "-d"],
            name="postfix",
            log_path=self.directory / "console.log",
        )

    def start(self) -> None:
        """Make the queue's folders, start, and wait for the greeting."""
        done = subprocess.run(
            [*_as_root(), _binary("postfix"), "-c", str(self._etc), "check"], capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"postfix check failed (it needs root or password-less sudo):\n{done.stderr}")
        self.process.launch()
        self.process.wait_for(self._greets, START_TIMEOUT_S, f"a greeting on port {self.port}")

    def stop(self) -> None:
        self.process.stop(timeout_s=3.0)

    def __enter__(self) -> "PostfixSender":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def inject(
        self,
        message: bytes,
        *,
        sender: str,
        recipients: Sequence[str],
        options: Sequence[str] = (),
        wishes: Sequence[str] = (),
    ) -> None:
        """Hand a message (CRLF line ends) to Postfix, which queues it and sends it on. `options` belong to MAIL,
        `wishes` to each RCPT."""
        with smtplib.SMTP(self.host, self.port, timeout=20) as client:
            refused = client.sendmail(
                sender, list(recipients), message, mail_options=list(options), rcpt_options=list(wishes)
            )
        if refused:
            raise RuntimeError(f"Postfix refused {refused}")

    def queue(self) -> list[dict[str, Any]]:
        """Return Postfix's queue: one dict per message, with `recipients` and their `delay_reason`."""
        done = subprocess.run(
            [*_as_root(), _binary("postqueue"), "-c", str(self._etc), "-j"], capture_output=True, text=True, timeout=20
        )
        if done.returncode:
            raise RuntimeError(f"postqueue: {done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def flush(self) -> None:
        """Try everything in the queue now."""
        command = [*_as_root(), _binary("postqueue"), "-c", str(self._etc), "-f"]
        subprocess.run(command, check=True, capture_output=True, timeout=20)

    def log_text(self) -> str:
        """Return Postfix's mail log."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _greets(self) -> bool:
        return greeting((self.host, self.port)).startswith(b"220")

    def _main_cf(self, relay_host: str, relay_port: int, settings: Sequence[str]) -> str:
        lines = [
            "compatibility_level = 3.6",
            f"queue_directory = {self.directory}/queue",
            f"data_directory = {self.directory}/data",
            f"maillog_file = {self._log}",
            f"maillog_file_prefixes = {self.directory}",
            "myhostname = sender.example.org",
            "mydestination =",
            "local_transport = error:nothing is local here",
            "alias_maps =",
            "mynetworks = 127.0.0.0/8",
            "inet_interfaces = 127.0.0.1",
            "inet_protocols = all",
            "smtp_host_lookup = native",
            f"relayhost = [{relay_host}]:{relay_port}",
            "smtputf8_enable = yes",
            "smtpd_relay_restrictions = permit_mynetworks, reject",
            "bounce_queue_lifetime = 1h",
            "minimal_backoff_time = 1s",
            "maximal_backoff_time = 2s",
            "queue_run_delay = 1s",
            # After a failed connection Postfix rests a destination for minimal_backoff_time.
            "smtp_connect_timeout = 5s",
            *settings,
        ]
        return "\n".join(lines) + "\n"

    def _master_cf(self) -> str:
        return f"""
{self.host}:{self.port} inet n - n - - smtpd
pickup    unix  n - n 60   1 pickup
cleanup   unix  n - n -    0 cleanup
qmgr      unix  n - n 1    1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n -    - trivial-rewrite
bounce    unix  - - n -    0 bounce
defer     unix  - - n -    0 bounce
trace     unix  - - n -    0 bounce
verify    unix  - - n -    1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n -    - proxymap
smtp      unix  - - n -    - smtp
relay     unix  - - n -    - smtp
showq     unix  n - n -    - showq
error     unix  - - n -    - error
retry     unix  - - n -    - error
discard   unix  - - n -    - discard
anvil     unix  - - n -    1 anvil
scache    unix  - - n -    1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


def _as_root() -> list[str]:
    return [] if os.getuid() == 0 else ["sudo", "-n"]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _binary(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_PATH}")
    if found is None:
        raise RuntimeError(f"{name} is not installed; run tests/install-packages")
    return found
