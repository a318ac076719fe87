"""What stands side by side: mailfront, and the servers that it is measured against. Each as a site would run it.

Every system takes mail for the same mailboxes (`{number}user@example.edu`, checked against a table, others refused)
and hands it to the same three LMTP sinks by mailbox, or, where it can only do that, to one SMTP sink. The sinks take
everything and keep nothing, so what is measured is the front end. Every system logs to a file as it comes.

| system | path of a message |
|---|---|
| mailfront | SMTP in, LMTP to the mailbox's node, then 250; 2 workers, as on 2 cores; static directory |
| postfix-queued | smtpd, cleanup, queue file with fsync, 250; then qmgr and lmtp |
| postfix-proxy | smtpd hands the dialogue to one SMTP server behind it (`smtpd_proxy_filter`), then 250 |
| haproxy | bytes only, TCP mode: knows no mailbox |
| straight | the load talks to the sink: no front end at all |

Postfix is set for speed: hash tables, no name look-ups, the limits of anvil off, LMTP connections kept, up to 100
processes of a kind, `in_flow_delay = 0`.

Order of calls: `start`, then `endpoint` and `pids` as often as wanted, then `stop`.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mailfront.cluster.hashing import Node, bucket_of, plan_assignment
from mailfront.mail.names import MailboxKey, NodeId
from tests.support.certificates import CertificateFiles
from tests.support.ldap import Slapd
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.postfix import SmtpSink
from tests.support.processes import ManagedProcess, greeting, new_directory

DOMAIN = "example.edu"
USERS_COUNT = 5000
NODES_COUNT = 3
START_TIMEOUT_S = 180.0
_SBIN = "/usr/sbin:/sbin:/usr/lib/postfix/sbin:/usr/libexec/postfix"
Address = tuple[str, int]


def mailbox(number: int) -> str:
    """The local part of one user, as smtp-source makes it: the number in front."""
    return f"{number}user"


class System(Protocol):
    """A server under load."""

    name: str

    def start(self) -> None:
        """Start and wait until it serves."""
        ...

    def stop(self) -> None:
        """End it."""
        ...

    def endpoint(self, role: str = "smtp") -> Address:
        """Where mail (`smtp`) or people (`imap`, `imaps`) come in."""
        ...

    def pids(self) -> list[int]:
        """All its processes."""
        ...

    def queued_count(self) -> int:
        """Messages that it has accepted and not handed on; 0 for one without a queue."""
        ...


class Sinks:
    """The storage that all systems share: three LMTP sinks and one for SMTP."""

    def __init__(self) -> None:
        self.lmtp = [SmtpSink(lmtp=True, options=("-m", "1000")) for _ in range(NODES_COUNT)]
        self.smtp = SmtpSink(options=("-m", "1000"))

    def start(self) -> None:
        """Start all of them."""
        for sink in (*self.lmtp, self.smtp):
            sink.start()

    def stop(self) -> None:
        """End all of them."""
        for sink in (*self.lmtp, self.smtp):
            sink.stop()

    @property
    def ports(self) -> list[int]:
        """The LMTP ports, node by node."""
        return [sink.port for sink in self.lmtp]


class Straight:
    """No front end: the sink itself. Its CPU is not a front end's, so there is none to count."""

    name = "straight"

    def __init__(self, sinks: Sinks) -> None:
        self._sinks = sinks

    def start(self) -> None:
        """The sink runs already."""

    def stop(self) -> None:
        """The sink is not ours."""

    def endpoint(self, role: str = "smtp") -> Address:
        """See `System`."""
        return self._sinks.smtp.host, self._sinks.smtp.port

    def pids(self) -> list[int]:
        """See `System`."""
        return []

    def queued_count(self) -> int:
        """See `System`."""
        return 0


SLOW_DISK = (
    "strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null",
    "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_exit=5000",
)  # fmt: skip
"""Starts a server for which every fsync takes 5 ms longer: a disk instead of a solid-state drive with a cache."""


class Mailfront:
    """mailfront with 2 workers, a static directory and the nodes at `ports`."""

    def __init__(
        self,
        ports: Sequence[int],
        *,
        name: str = "mailfront",
        tls: CertificateFiles | None = None,
        listen: Sequence[Mapping[str, object]] = (),
        settings: Mapping[str, object] | None = None,
        users_count: int = USERS_COUNT,
        imap_port: int | None = None,
        environment: Mapping[str, str] | None = None,
        proxy_protocol: Sequence[str] = (),
        directory: Slapd | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        """`directory`: where the users are; else they are in a file. `launcher`: a program that starts the server."""
        self.name = name
        users = [
            {"address": f"{mailbox(number)}@{DOMAIN}", "mailbox": mailbox(number), "password": "{PLAIN}secret"}
            for number in range(users_count + 1)
        ]
        users.append({"address": f"postmaster@{DOMAIN}", "mailbox": "postmaster", "password": "{PLAIN}secret"})
        nodes = [
            {"id": f"store{number}", "host": "127.0.0.1", "lmtp": port, "lmtp_connections": 40}
            for number, port in enumerate(ports, 1)
        ]
        if imap_port is not None:
            nodes = [{**each, "imap": imap_port} for each in nodes]
            listen = (
                *listen,
                {"role": "imap", "address": f"127.0.0.1:{free_port()}"},
                {"role": "imap", "address": f"127.0.0.1:{free_port()}", "tls": "implicit"},
            )
        smtp: dict[str, object] = {
            "role": "smtp",
            "address": f"127.0.0.1:{free_port()}",
            "tls": "off" if tls is None else "starttls",
        }
        smtp |= {"proxy_protocol": list(proxy_protocol)}
        self.server = MailfrontServer(
            nodes, directory or users, listen=[smtp, *listen], tls=tls, name=name, environment=environment
        )
        self.server.process.command[:0] = launcher
        storage = self.server.document["storage"]
        # A sink is no IMAP server: no copies at secondaries, no searches.
        for key in ("handoff_mailbox", "handoff_password_file", "secret_file", "master_user", "master_password_file"):
            del storage[key]
        storage["secondaries"] = 0
        self.server.change(
            {"limits": dict.fromkeys(("connections", "connections_per_ip", "sessions", "sessions_per_ip"), 20000)}
        )
        self.server.change(settings or {})

    def start(self) -> None:
        """See `System`."""
        self.server.launch()
        self.server.wait_ready(START_TIMEOUT_S)

    def stop(self) -> None:
        """See `System`."""
        self.server.stop()

    def endpoint(self, role: str = "smtp") -> Address:
        """See `System`."""
        if role == "smtp":
            return self.server.smtp
        found = self.server.endpoint("imap", 1 if role == "imaps" else 0)
        assert isinstance(found, tuple)
        return found

    def pids(self) -> list[int]:
        """See `System`."""
        return self.server.process.members()

    def queued_count(self) -> int:
        """Messages in the queue, read from the database."""
        script = (
            "import sqlite3, sys\n"
            "connection = sqlite3.connect(sys.argv[1], uri=True, timeout=10.0)\n"
            "print(connection.execute('SELECT count(*) FROM recipient').fetchone()[0])"
        )
        database = f"file:{self.server.state_dir}/state.db?mode=ro"
        done = subprocess.run(["/usr/bin/env", "python3", "-c", script, database], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"cannot read {database}: {done.stderr}")
        return int(done.stdout)


class Postfix:
    """Postfix as a front end: `proxy_to` None: queued, else before-queue to that SMTP server."""

    def __init__(
        self,
        ports: Sequence[int],
        *,
        name: str,
        proxy_to: int | None = None,
        tls: CertificateFiles | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.port = free_port()
        self.directory = new_directory(name)
        self._etc = self.directory / "etc"
        self._ports = ports
        for folder in (self._etc, self.directory / "queue"):
            folder.mkdir()
        (self._etc / "main.cf").write_text(self._main_cf(tls))
        (self._etc / "master.cf").write_text(self._master_cf(proxy_to))
        self.process = ManagedProcess(
            [*launcher, binary("master"), "-c", self._etc, "-d"], name=name, log_path=self.directory / "console.log"
        )

    def start(self) -> None:
        """Write the tables, then start. Raises RuntimeError with Postfix's own words. Needs root."""
        owners = plan_assignment([Node(NodeId(f"store{n}")) for n in range(1, len(self._ports) + 1)], "example")
        transport, recipients = [], []
        for number in range(USERS_COUNT + 1):
            address = f"{mailbox(number)}@{DOMAIN}"
            home = owners[bucket_of(MailboxKey(address), "example")]
            transport.append(f"{address} lmtp:inet:127.0.0.1:{self._ports[int(home.removeprefix('store')) - 1]}\n")
            recipients.append(f"{address} yes\n")
        for name, lines in (("transport", transport), ("recipients", recipients)):
            (self._etc / name).write_text("".join(lines))
            _checked([binary("postmap"), "-c", str(self._etc), f"hash:{self._etc / name}"])
        _checked([binary("postfix"), "-c", str(self._etc), "check"])
        self.process.launch()
        self.process.wait_for(
            lambda: greeting(("127.0.0.1", self.port)).startswith(b"220"), START_TIMEOUT_S, f"{self.name}'s greeting"
        )

    def stop(self) -> None:
        """See `System`."""
        self.process.stop(timeout_s=3.0)

    def endpoint(self, role: str = "smtp") -> Address:
        """See `System`."""
        return "127.0.0.1", self.port

    def pids(self) -> list[int]:
        """See `System`."""
        return self.process.members()

    def queued_count(self) -> int:
        """Queue files."""
        queue = self.directory / "queue"
        return sum(len(files) for part in ("incoming", "active", "deferred") for _, _, files in os.walk(queue / part))

    def flush(self) -> None:
        """Try everything in the queue now."""
        _checked([binary("postqueue"), "-c", str(self._etc), "-f"])

    def _main_cf(self, tls: CertificateFiles | None) -> str:
        lines = [
            "compatibility_level = 3.6",
            f"queue_directory = {self.directory}/queue",
            f"data_directory = {self.directory}/data",
            f"maillog_file = {self.directory}/mail.log",
            f"maillog_file_prefixes = {self.directory}",
            "myhostname = mx1.example.edu",
            "mydestination =",
            "alias_maps =",
            "mynetworks =",
            f"relay_domains = {DOMAIN}",
            f"relay_recipient_maps = hash:{self._etc}/recipients",
            f"transport_maps = hash:{self._etc}/transport",
            "smtpd_relay_restrictions = reject_unauth_destination",
            "inet_interfaces = 127.0.0.1",
            "inet_protocols = ipv4",
            "smtpd_peername_lookup = no",
            "smtpd_client_connection_count_limit = 0",
            "smtpd_client_connection_rate_limit = 0",
            "in_flow_delay = 0",
            "lmtp_destination_concurrency_limit = 40",
            "lmtp_connection_cache_on_demand = yes",
            "lmtp_destination_recipient_limit = 50",
            "initial_destination_concurrency = 20",
            "minimal_backoff_time = 60s",
            "message_size_limit = 104857600",
        ]
        if tls is not None:
            lines += [
                "smtpd_tls_security_level = may",
                f"smtpd_tls_chain_files = {tls.key}, {tls.certificate}",
                f"smtpd_tls_session_cache_database = btree:{self.directory}/data/smtpd_scache",
            ]
        return "\n".join(lines) + "\n"

    def _master_cf(self, proxy_to: int | None) -> str:
        option = "" if proxy_to is None else f"\n  -o smtpd_proxy_filter=127.0.0.1:{proxy_to}"
        return f"""
127.0.0.1:{self.port} inet n - n - - smtpd{option}
pickup    unix  n - n 60   1 pickup
cleanup   unix  n - n -    0 cleanup
qmgr      unix  n - n 300  1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n -    - trivial-rewrite
bounce    unix  - - n -    0 bounce
defer     unix  - - n -    0 bounce
trace     unix  - - n -    0 bounce
verify    unix  - - n -    1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n -    - proxymap
lmtp      unix  - - n -    - lmtp
smtp      unix  - - n -    - smtp
showq     unix  n - n -    - showq
error     unix  - - n -    - error
retry     unix  - - n -    - error
discard   unix  - - n -    - discard
anvil     unix  - - n -    1 anvil
scache    unix  - - n -    1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Haproxy:
    """HAProxy in TCP mode in front of `target`: the floor for anything that must move bytes."""

    def __init__(self, target: Address, *, name: str = "haproxy") -> None:
        self.name = name
        self.port = free_port()
        self._target = target
        self.directory = new_directory(name)
        self.process = ManagedProcess(
            [binary("haproxy"), "-db", "-f", self.directory / "haproxy.cfg"],
            name=name,
            log_path=self.directory / "haproxy.log",
        )

    def start(self) -> None:
        """See `System`."""
        host, port = self._target
        (self.directory / "haproxy.cfg").write_text(
            "global\n  maxconn 8000\n  nbthread 2\n"
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n"
            f"listen bench\n  bind 127.0.0.1:{self.port} backlog 4096\n  server sink {host}:{port}\n"
        )
        self.process.launch()
        self.process.wait_for(lambda: greeting(self.endpoint()), START_TIMEOUT_S, "a greeting through haproxy")

    def stop(self) -> None:
        """See `System`."""
        self.process.stop(timeout_s=1.0)

    def endpoint(self, role: str = "smtp") -> Address:
        """See `System`."""
        return "127.0.0.1", self.port

    def pids(self) -> list[int]:
        """See `System`."""
        return self.process.members()

    def queued_count(self) -> int:
        """See `System`."""
        return 0


def _checked(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed (it needs root):\n{done.stdout}{done.stderr}")


def binary(name: str) -> str:
    """The path of a server's program. Raises RuntimeError if it is not installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if found is None:
        raise RuntimeError(f"{name} is not installed; run tests/install-packages")
    return found
