"""The systems of the session rows: IMAP proxies in front of the same IMAP sink.

| system | how a session gets to its node |
|---|---|
| mailfront | password checked in its directory, home by the placement, login there, byte relay |
| nginx | asks an HTTP server (`auth_http`, answered at once, its CPU not counted), login there, byte relay |
| dovecot-proxy | static passdb with `proxy=y nopassword=y`: checks no password, one node for all |
| haproxy | bytes only; the client logs in at the sink itself |
| mailfront-ldap, dovecot-ldap | each login is a bind at the same slapd (its CPU not counted), nothing is remembered |

So mailfront does more than the others for a login. The systems are set for speed: two worker processes each, login
processes of Dovecot serve many clients (`service_count = 0`).
"""

import sys
from pathlib import Path

from tests.perf.systems import START_TIMEOUT_S, Address, binary
from tests.support.certificates import CertificateFiles
from tests.support.ldap import BIND_DN, BIND_PASSWORD, PEOPLE, Slapd
from tests.support.mailfront_server import ROOT
from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, greeting, new_directory


class ImapSinkProcess:
    """`tests.perf.imap_sink` in a process of its own."""

    def __init__(self) -> None:
        self.port, self.http_port = free_port(), free_port()
        self.process = ManagedProcess(
            [sys.executable, "-m", "tests.perf.imap_sink", str(self.port), str(self.http_port)],
            name="imap-sink",
            log_path=new_directory("imap-sink") / "log",
            cwd=ROOT,
        )

    def start(self) -> None:
        """Start and wait for the greeting."""
        self.process.launch()
        self.process.wait_for(lambda: greeting(("127.0.0.1", self.port)), START_TIMEOUT_S, "the IMAP sink")

    def stop(self) -> None:
        """End it."""
        self.process.stop(timeout_s=1.0)


class _Proxy:
    """A proxy that is one configuration file and one command."""

    def __init__(self, name: str, tls: CertificateFiles, sink: ImapSinkProcess) -> None:
        self.name = name
        self.port, self.tls_port = free_port(), free_port()
        self.directory = new_directory(name)
        self.file = self.directory / f"{name}.conf"
        self.file.write_text(self._text(tls, sink))
        self.process = ManagedProcess(self._command(), name=name, log_path=self.directory / "console.log")

    def _text(self, tls: CertificateFiles, sink: ImapSinkProcess) -> str:
        raise NotImplementedError

    def _command(self) -> list[str | Path]:
        raise NotImplementedError

    def start(self) -> None:
        """See `System`."""
        self.process.launch()
        self.process.wait_for(lambda: greeting(("127.0.0.1", self.port)), START_TIMEOUT_S, f"{self.name}'s greeting")

    def stop(self) -> None:
        """See `System`."""
        self.process.stop(timeout_s=2.0)

    def endpoint(self, role: str = "imap") -> Address:
        """See `System`."""
        return "127.0.0.1", self.tls_port if role == "imaps" else self.port

    def pids(self) -> list[int]:
        """See `System`."""
        return self.process.members()

    def queued_count(self) -> int:
        """See `System`."""
        return 0


class NginxMail(_Proxy):
    """nginx's mail module."""

    def _text(self, tls: CertificateFiles, sink: ImapSinkProcess) -> str:
        return f"""
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off;
user nobody nogroup;
worker_processes 2;
pid {self.directory}/nginx.pid;
error_log {self.directory}/error.log;
events {{ worker_connections 12000; }}
mail {{
    auth_http 127.0.0.1:{sink.http_port}/auth;
    server_name mx1.example.edu;
    ssl_certificate {tls.certificate};
    ssl_certificate_key {tls.key};
    server {{ listen 127.0.0.1:{self.port} backlog=4096; protocol imap; }}
    server {{ listen 127.0.0.1:{self.tls_port} ssl backlog=4096; protocol imap; }}
}}
"""

    def _command(self) -> list[str | Path]:
        return [binary("nginx"), "-p", self.directory, "-c", self.file]


class DovecotProxy(_Proxy):
    """Dovecot's login proxy."""

    def _text(self, tls: CertificateFiles, sink: ImapSinkProcess) -> str:
        return f"""
protocols = imap
listen = 127.0.0.1
base_dir = {self.directory}/run
state_dir = {self.directory}/state
log_path = {self.directory}/dovecot.log
ssl = yes
ssl_cert = <{tls.certificate}
ssl_key = <{tls.key}
disable_plaintext_auth = no
default_client_limit = 24000
default_vsz_limit = 1G
{self._passdb(sink)}
service imap-login {{
  service_count = 0
  process_min_avail = 2
  process_limit = 2
  client_limit = 12000
  inet_listener imap {{
    port = {self.port}
  }}
  inet_listener imaps {{
    port = {self.tls_port}
    ssl = yes
  }}
}}
"""

    def _command(self) -> list[str | Path]:
        return [binary("dovecot"), "-F", "-c", self.file]

    def _passdb(self, sink: ImapSinkProcess) -> str:
        """Who judges the password, and where the mailbox is."""
        return f"""
passdb {{
  driver = static
  args = proxy=y host=127.0.0.1 port={sink.port} nopassword=y
}}"""


class DovecotLdapProxy(DovecotProxy):
    """Dovecot's login proxy that asks LDAP: a search for the entry, then a bind as it, without a cache."""

    def __init__(self, name: str, tls: CertificateFiles, sink: ImapSinkProcess, slapd: Slapd) -> None:
        self._slapd = slapd
        super().__init__(name, tls, sink)

    def _passdb(self, sink: ImapSinkProcess) -> str:
        file = self.directory / "ldap.conf.ext"
        file.write_text(
            f"uris = {self._slapd.url}\ndn = {BIND_DN}\ndnpass = {BIND_PASSWORD}\nauth_bind = yes\nbase = {PEOPLE}\n"
            f"pass_filter = (uid=%u)\npass_attrs = uid=user,=proxy=y,=host=127.0.0.1,=port={sink.port}\n"
        )
        return f"""
passdb {{
  driver = ldap
  args = {file}
}}"""
