"""A storage node of the cluster: a real Dovecot that runs the files of deploy/dovecot/.

`DovecotNode` writes a configuration that includes those files, and adds only
what a test needs: ports, a temporary folder, users, certificates. It does what
deploy/dovecot/README.md tells an administrator to do: the lines marked CHANGE.

By default every name is a user, with the password "secret". The mailboxes are
Maildirs, and `messages()` reads them from the disk. They survive `stop()`,
`kill9()` and the next `start()`.

As root the mailboxes belong to "nobody"; otherwise all runs as this user.
"""

import grp
import os
import pwd
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.support.certificates import CertificateFiles
from tests.support.maildir import maildir_folders, maildir_messages
from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, greeting, new_directory

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "dovecot"

USER_PASSWORD = "secret"
HANDOFF_USER = "handoff@example.edu"
HANDOFF_PASSWORD = "handoff-password"
TINY = ("tiny", *(f"tiny{number}" for number in range(1, 40)))
"""Mailboxes of the shared nodes that have a small quota: one that was full is refused at RCPT for a while."""
MASTER_USER = "mailfront"
MASTER_PASSWORD = "master-password"
START_TIMEOUT_S = 60.0


class DovecotNode:
    """One Dovecot server on loopback.

    users      the names that exist (others get 550 5.1.1); None: every name does
    quotas     mailbox -> quota rule, for example {"tiny": "*:storage=10K"}
    tls        a certificate: STARTTLS everywhere, and the ports lmtp_tls and imap_tls
    settings   more lines of dovecot.conf, for example a site-wide Sieve script
    """

    def __init__(
        self,
        node_id: str,
        *,
        host: str = "127.0.0.1",
        users: Sequence[str] | None = None,
        quotas: Mapping[str, str] | None = None,
        tls: CertificateFiles | None = None,
        settings: str = "",
    ) -> None:
        self.id = node_id
        self.host = host
        self.directory = new_directory(node_id)
        self.lmtp, self.imap, self.pop3, self.sieve = (free_port() for _ in range(4))
        self.lmtp_tls, self.imap_tls = (free_port() for _ in range(2))
        self.lmtp_unix = self.directory / "lmtp.sock"
        self.mail = self.directory / "mail"
        self._users = users
        self._quotas = dict(quotas or {})
        self._tls = tls
        self._settings = settings
        self._base = self.directory / "base"
        self._log = self.directory / "dovecot.log"
        self._write_files()
        self.process = ManagedProcess(
            [_binary("dovecot"), "-F", "-c", self.directory / "dovecot.conf"], name=node_id, log_path=self._log
        )

    # Life

    def start(self) -> None:
        """Start and wait until every protocol greets."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start; returns at once. For several nodes: launch all, then `wait_ready` for each."""
        # Sockets of a killed server: a client would wait for the dead.
        shutil.rmtree(self._base, ignore_errors=True)
        self._base.mkdir(mode=0o755)
        self.process.launch()

    def wait_ready(self) -> None:
        """Wait for the greetings. Raises ServerDidNotStart with the end of the log."""
        for port, begin in ((self.lmtp, b"220"), (self.imap, b"* OK"), (self.pop3, b"+OK"), (self.sieve, b'"IMPL')):
            self.process.wait_for(partial(self._greets, port, begin), START_TIMEOUT_S, f"a greeting on port {port}")

    def _greets(self, port: int, begin: bytes) -> bool:
        return greeting((self.host, port)).startswith(begin)

    def stop(self) -> None:
        """Shut down; new connections are refused afterwards."""
        self.process.stop(timeout_s=3.0)

    def kill9(self) -> None:
        """Kill all its processes, in the middle of whatever they do."""
        self.process.kill9()

    def hang(self) -> None:
        """Freeze: connections succeed and nothing ever answers."""
        self.process.hang()

    def resume(self) -> None:
        """Go on after `hang`."""
        self.process.resume()

    @property
    def running(self) -> bool:
        return self.process.running

    # Mail

    def messages(self, user: str, folder: str = "INBOX") -> list[bytes]:
        """Return the messages of a folder, as they are on the disk (line ends are LF), oldest first."""
        path = maildir_folders(self._home(user) / "Maildir").get(folder)
        return [] if path is None else maildir_messages(path)

    def folders(self, user: str) -> list[str]:
        """Return the names of a mailbox's folders."""
        return list(maildir_folders(self._home(user) / "Maildir"))

    def mailbox_dirs(self) -> dict[str, Path]:
        """Return the Maildir of every mailbox that got mail or a login; the handoff mailbox is not among them."""
        return {
            entry.name: entry / "Maildir"
            for entry in sorted(self.mail.iterdir())
            if (entry / "Maildir").is_dir() and entry.name != "mailfront-handoff"
        }

    def all_messages(self) -> dict[str, list[bytes]]:
        """Return user -> messages in all folders, for every mailbox."""
        return {
            user: [data for folder in maildir_folders(path).values() for data in maildir_messages(folder)]
            for user, path in self.mailbox_dirs().items()
        }

    def handoff_messages(self) -> list[bytes]:
        """Return what lies in the handoff mailbox."""
        return self.messages(HANDOFF_USER)

    def log_text(self) -> str:
        """Return Dovecot's whole log."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _home(self, user: str) -> Path:
        return self.mail / ("mailfront-handoff" if user == HANDOFF_USER else user)

    # Files

    def _write_files(self) -> None:
        uid, gid = (65534, 65534) if os.getuid() == 0 else (os.getuid(), os.getgid())
        for folder in (self.mail, self.directory / "state"):
            folder.mkdir()
            folder.chmod(0o755)
        os.chown(self.mail, uid, gid)
        owner = f"uid={uid} gid={gid}"
        (self.directory / "handoff.passwd").write_text(f"{HANDOFF_USER}:{{PLAIN}}{HANDOFF_PASSWORD}::::::\n")
        (self.directory / "master.passwd").write_text(f"{MASTER_USER}:{{PLAIN}}{MASTER_PASSWORD}::::::\n")
        (self.directory / "users").write_text(self._user_lines())
        (self.directory / "05-mailfront-auth.conf").write_text(self._changed_auth_file(owner))
        (self.directory / "dovecot.conf").write_text(self._configuration(owner))

    def _user_lines(self) -> str:
        names = dict.fromkeys([*(self._users or ()), *self._quotas])
        lines = []
        for name in names:
            rule = f"userdb_quota_rule={self._quotas[name]}" if name in self._quotas else ""
            lines.append(f"{name}:::::::{rule}\n")
        return "".join(lines)

    def _changed_auth_file(self, owner: str) -> str:
        text = (DEPLOY / "05-mailfront-auth.conf").read_text()
        changes = (
            ("/etc/dovecot/mailfront/", f"{self.directory}/"),
            ("uid=vmail gid=vmail", owner),
            ("home=/var/vmail/", f"home={self.mail}/"),
        )
        for old, new in changes:
            if old not in text:
                raise RuntimeError(f"deploy/dovecot/05-mailfront-auth.conf no longer contains {old!r}")
            text = text.replace(old, new)
        return text

    def _configuration(self, owner: str) -> str:
        everybody = (
            "" if self._users is not None else _userdb("static", f"{owner} home={self.mail}/%u allow_all_users=yes")
        )
        return f"""
base_dir = {self._base}
state_dir = {self.directory}/state
log_path = {self._log}
listen = {self.host}
first_valid_uid = 1
mail_location = maildir:~/Maildir
mail_fsync = never
postmaster_address = postmaster@example.edu
{_rootless_settings()}
{self._tls_settings()}
!include {self.directory}/05-mailfront-auth.conf
passdb {{
  driver = static
  args = password={USER_PASSWORD}
}}
userdb {{
  driver = passwd-file
  args = {self.directory}/users
  default_fields = {owner} home={self.mail}/%u
}}
{everybody}
!include {DEPLOY}/90-mailfront.conf
login_trusted_networks = 127.0.0.1 ::1
auth_failure_delay = 0
service lmtp {{
  process_min_avail = 1
  inet_listener lmtp {{
    address = {self.host}
    port = {self.lmtp}
  }}
  unix_listener {self.lmtp_unix} {{
    mode = 0666
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = {self.imap}
  }}
  inet_listener imaps {{
    port = {self.imap_tls if self._tls else 0}
  }}
}}
service pop3-login {{
  process_min_avail = 0
  inet_listener pop3 {{
    port = {self.pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service managesieve-login {{
  inet_listener sieve {{
    port = {self.sieve}
  }}
}}
{self._settings}
"""

    def _tls_settings(self) -> str:
        if self._tls is None:
            return "ssl = no"
        return f"""
ssl = yes
ssl_cert = <{self._tls.certificate}
ssl_key = <{self._tls.key}
service lmtp {{
  inet_listener lmtps {{
    address = {self.host}
    port = {self.lmtp_tls}
    ssl = yes
  }}
}}
"""


def start_together(nodes: Sequence[DovecotNode]) -> None:
    """Start several nodes at the same time and wait for all of them."""
    for node in nodes:
        node.launch()
    for node in nodes:
        node.wait_ready()


def _userdb(driver: str, arguments: str) -> str:
    return f"userdb {{\n  driver = {driver}\n  args = {arguments}\n}}\n"


def _rootless_settings() -> str:
    """Without root Dovecot cannot change user or root directory."""
    if os.getuid() == 0:
        return ""
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    services = ("anvil", "imap-login", "pop3-login", "managesieve-login", "stats", "ipc")
    return "\n".join(
        [
            f"default_internal_user = {user}",
            f"default_internal_group = {group}",
            f"default_login_user = {user}",
            *(f"service {name} {{\n  chroot =\n}}" for name in services),
        ]
    )


def _binary(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise RuntimeError(f"{name} is not installed; run tests/install-packages")
    return found
