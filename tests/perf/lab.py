"""All systems of one run: started before the first row, or when one is first asked for; ended together.

The systems idle beside each other while another is under load; an idle server costs nothing that could be seen here.
Those with `nodes-down` or `slow-disk` in their name have nodes of their own, which listen only inside `nodes_back`.
"""

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from tests.perf import plugin
from tests.perf.chain_cost import CHAIN_LENGTHS, NoServer
from tests.perf.flood import GOOD_CLIENT
from tests.perf.load import generated
from tests.perf.session_systems import DovecotLdapProxy, DovecotProxy, ImapSinkProcess, NginxMail
from tests.perf.systems import (
    DOMAIN,
    NODES_COUNT,
    SLOW_DISK,
    Haproxy,
    Mailfront,
    Postfix,
    Sinks,
    Straight,
    System,
    mailbox,
)
from tests.support.certificates import Authority
from tests.support.clamd import Clamd
from tests.support.dns_server import DnsServer
from tests.support.ldap import Person, Slapd
from tests.support.mailfront_server import ROOT
from tests.support.postfix import SmtpSink, smtp_source
from tests.support.processes import ServerDidNotStart, new_directory
from tests.support.rspamd import Rspamd

WARM_COUNT = 200
LIST_ZONE = "bl.test"
STRANGERS_FROM = 65536
STARTING_COUNT = 4
LDAP_USERS_COUNT = 1000


class _Startable(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


P = TypeVar("P", bound=_Startable)


class Lab:
    """Use it as a context manager; then `system(name)` as often as wanted."""

    def __init__(self, warm_count: int = WARM_COUNT) -> None:
        """`warm_count`: messages that a system has seen before the first sample."""
        self._warm_count = warm_count
        self._stack = ExitStack()
        self._systems: dict[str, System] = {}
        self.first_crowds: dict[str, float] = {}
        """KiB for each of the first crowd that a system held, by system and kind of crowd."""
        self._sleeping: dict[str, list[SmtpSink]] = {}
        self._strangers_count = 0
        self.directory = new_directory("lab")
        authority = Authority(self.directory)
        self.ca_file: Path = authority.ca_file
        self._certificate = authority.issue()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def system(self, name: str) -> System:
        """The system of this name, running."""
        found = self._systems.get(name)
        if found is None:
            found = self._makers()[name]()
            self._stack.callback(found.stop)
            found.start()
            if name not in self._sleeping and not name.endswith("imap") and not isinstance(found, NoServer):
                # What is made once, at the first messages, is no message's cost.
                smtp_source(*found.endpoint(), messages=self._warm_count, recipient=f"user@{DOMAIN}", options=("-N",))
            if name.endswith("imap"):
                spec = {"kind": "logins", "count": self._warm_count, "parallel": 4, "users": 1000, "role": "imap"}
                generated(found, spec)
            self._systems[name] = found
        return found

    def start(self, names: Iterable[str]) -> None:
        """Start several systems, some at the same time. One that fails is left to whoever asks for it by `system`."""

        def start_one(name: str) -> None:
            with suppress(ServerDidNotStart, TimeoutError, OSError, RuntimeError, subprocess.SubprocessError):
                self.system(name)

        with ThreadPoolExecutor(STARTING_COUNT) as pool:
            list(pool.map(start_one, names))

    @contextmanager
    def nodes_back(self, system: System) -> Iterator[None]:
        """Let the nodes of a `nodes-down` system listen while the block runs."""
        with ExitStack() as running:
            for sink in self._sleeping[system.name]:
                running.enter_context(sink)
            yield

    def strangers(self, count: int) -> int:
        """The number of the first of `count` clients that no system has seen in this run."""
        first = STRANGERS_FROM + self._strangers_count
        self._strangers_count += count
        return first

    # Each is made once, by whichever thread comes first.

    @cached_property
    def sinks(self) -> Sinks:
        """The storage of all other systems, running."""
        return self._running(Sinks())

    @cached_property
    def imap_sink(self) -> ImapSinkProcess:
        """The storage of the session rows, running."""
        return self._running(ImapSinkProcess())

    @cached_property
    def slapd(self) -> Slapd:
        """The directory of the systems that ask LDAP, running."""
        people = [
            Person(uid=mailbox(number), mail=(f"{mailbox(number)}@{DOMAIN}",)) for number in range(LDAP_USERS_COUNT)
        ]
        postmaster = Person(uid="postmaster", mail=(f"postmaster@{DOMAIN}",))
        return self._running(Slapd(people=[*people, postmaster]))

    @cached_property
    def rspamd(self) -> Rspamd:
        """A scanner, running."""
        found = Rspamd()
        self._stack.callback(found.kill9)
        found.start()
        return found

    @cached_property
    def clamd(self) -> Clamd:
        """Another one, running."""
        found = Clamd()
        self._stack.callback(found.kill9)
        found.start()
        return found

    def _running(self, part: P) -> P:
        self._stack.callback(part.stop)
        part.start()
        return part

    def _makers(self) -> dict[str, Callable[[], System]]:
        return {
            "straight": lambda: Straight(self.sinks),
            "haproxy": lambda: Haproxy((self.sinks.smtp.host, self.sinks.smtp.port)),
            "mailfront": lambda: Mailfront(self.sinks.ports, tls=self._certificate),
            "postfix-queued": lambda: Postfix(self.sinks.ports, name="postfix-queued", tls=self._certificate),
            "postfix-proxy": lambda: Postfix(
                self.sinks.ports, name="postfix-proxy", proxy_to=self.sinks.smtp.port, tls=self._certificate
            ),
            "mailfront-nodes-down": lambda: Mailfront(self._down("mailfront-nodes-down"), name="mailfront-nodes-down"),
            "postfix-nodes-down": lambda: Postfix(self._down("postfix-nodes-down"), name="postfix-nodes-down"),
            "mailfront-slow-disk": lambda: Mailfront(
                self._down("mailfront-slow-disk"), name="mailfront-slow-disk", launcher=SLOW_DISK
            ),
            "postfix-slow-disk": lambda: Postfix(
                self._down("postfix-slow-disk"), name="postfix-slow-disk", launcher=SLOW_DISK
            ),
            # Room for every upload that the clients announce.
            "mailfront-large-spool": lambda: Mailfront(
                self.sinks.ports, name="mailfront-large-spool", settings={"limits": {"body_disk": "100GiB"}}
            ),
            "mailfront-5-filters": lambda: self._filtered(5),
            **{f"chain-{count}": partial(NoServer, f"chain-{count}") for count in CHAIN_LENGTHS},
            "mailfront-rspamd": lambda: self._scanned("mailfront-rspamd", self._rspamd_filter()),
            "mailfront-clamd": lambda: self._scanned("mailfront-clamd", self._clamd_filter()),
            "mailfront-both": lambda: self._scanned("mailfront-both", self._rspamd_filter(), self._clamd_filter()),
            "mailfront-dnsbl": self._listing,
            "mailfront-imap": lambda: self._imap_mailfront("mailfront-imap", "directory"),
            "mailfront-node-auth-imap": lambda: self._imap_mailfront("mailfront-node-auth-imap", "node"),
            "nginx-imap": lambda: NginxMail("nginx-imap", self._certificate, self.imap_sink),
            "dovecot-imap": lambda: DovecotProxy("dovecot-imap", self._certificate, self.imap_sink),
            "mailfront-ldap-imap": self._ldap_mailfront,
            "dovecot-ldap-imap": lambda: DovecotLdapProxy(
                "dovecot-ldap-imap", self._certificate, self.imap_sink, self.slapd
            ),
            "haproxy-imap": lambda: Haproxy(("127.0.0.1", self.imap_sink.port), name="haproxy-imap"),
        }

    def _imap_mailfront(self, name: str, auth: str) -> Mailfront:
        return Mailfront(
            self.sinks.ports,
            name=name,
            tls=self._certificate,
            imap_port=self.imap_sink.port,
            settings={"login": {"auth": auth, "failure_delay": "0s"}},
        )

    def _ldap_mailfront(self) -> Mailfront:
        return Mailfront(
            self.sinks.ports,
            name="mailfront-ldap-imap",
            tls=self._certificate,
            imap_port=self.imap_sink.port,
            # Nobody there has a host attribute: to look for one is to store where each mailbox is placed first, once.
            settings={
                "login": {"failure_delay": "0s"},
                "directory": {"login_cache": "0s", "attributes": {"host": None}},
            },
            directory=self.slapd,
        )

    def _listing(self) -> Mailfront:
        dns = DnsServer(_EveryListed())
        dns.start()
        self._stack.callback(dns.stop)
        settings = {"lists": [{"zone": LIST_ZONE}], "name_servers": [dns.address], "dns_timeout": "10s"}
        # The name server is the slowest part here; one that it has no time for would not be refused.
        listing = {"name": "lists", "kind": "local-dnsbl", "timeout": "15s", "settings": settings}
        return self._with_plugin("mailfront-dnsbl", [listing])

    def _filtered(self, count: int) -> Mailfront:
        filters = [{"name": f"noop{number}", "kind": "noop"} for number in range(count)]
        return self._with_plugin(f"mailfront-{count}-filters", filters)

    def _with_plugin(self, name: str, filters: Sequence[Mapping[str, object]]) -> Mailfront:
        folder = plugin.install(self.directory / "plugin")
        return Mailfront(
            self.sinks.ports,
            name=name,
            settings={"filter": filters},
            environment={"PYTHONPATH": f"{folder}:{ROOT}"},
        )

    def _scanned(self, name: str, *filters: Mapping[str, object]) -> Mailfront:
        return Mailfront(self.sinks.ports, name=name, settings={"filter": filters})

    def _rspamd_filter(self) -> Mapping[str, object]:
        return {"name": "spam", "kind": "rspamd", "settings": {"url": self.rspamd.url}}

    def _clamd_filter(self) -> Mapping[str, object]:
        return {"name": "virus", "kind": "clamd", "settings": {"address": self.clamd.address}}

    def _down(self, name: str) -> list[int]:
        sinks = self._sleeping[name] = [SmtpSink(lmtp=True, options=("-m", "1000")) for _ in range(NODES_COUNT)]
        return [sink.port for sink in sinks]


class _EveryListed(dict[str, Any]):
    """The records of a name server whose list names every client but the good ones."""

    _good = tuple(".".join(reversed(ip.split("."))) + f".{LIST_ZONE}" for ip in (GOOD_CLIENT, "127.0.0.1"))

    def get(self, name: str, default: Any = None) -> Any:
        """The records of one name."""
        return {} if name in self._good else {"A": ["127.0.0.2"]}
