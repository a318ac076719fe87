"""A storage node that is a real Cyrus IMAP server.

Cyrus' packages conflict with Dovecot's, so tests/install-packages only unpacks
them into a private folder; this module runs the programs from there. Nothing
is chrooted or mounted: the configuration names full paths, and the libraries
are found through LD_LIBRARY_PATH.

Every name gets a mailbox at its first delivery (autocreate). Passwords are in a SASL database; the user "cyrus" is the
administrator and may log in as anybody with a SASL authorization identity.
"""

import os
import pwd
import re
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.support.certificates import CertificateFiles
from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, greeting, new_directory

USER_PASSWORD = "secret"
MASTER_USER = "cyrus"
MASTER_PASSWORD = "master-password"
REALM = "cyrus.test"
START_TIMEOUT_S = 60.0


class CyrusNode:
    """One Cyrus server on loopback: LMTP and IMAP over TCP, LMTP on a UNIX socket too.

    users  names with a password, who can log in; by default anna and bob
    tls    a certificate: STARTTLS for IMAP. (Cyrus has none on an LMTP port that trusts its clients, `lmtpd -a`.)
    """

    def __init__(
        self,
        node_id: str,
        *,
        host: str = "127.0.0.1",
        users: Sequence[str] = ("anna", "bob"),
        tls: CertificateFiles | None = None,
    ) -> None:
        self.id = node_id
        self.host = host
        self.directory = new_directory(node_id)
        # Debian has the POP3 server in a package of its own; nothing listens on that port.
        self.lmtp, self.imap, self.pop3, self.sieve = (free_port() for _ in range(4))
        self.lmtp_unix = self.directory / "lmtp.sock"
        self._tls = tls
        self._root = packages_root()
        self._bin = self._root / "usr" / "lib" / "cyrus" / "bin"
        self._user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        for name in (
            "conf",
            "conf/db",
            "conf/proc",
            "conf/socket",
            "conf/lock",
            "conf/log",
            "conf/msg",
            "spool",
            "sieve",
        ):
            (self.directory / name).mkdir()
        (self.directory / "imapd.conf").write_text(self._imapd_conf())
        (self.directory / "cyrus.conf").write_text(self._cyrus_conf())
        self._make_passwords([*users, MASTER_USER])
        self._give_away()
        self.process = ManagedProcess(
            [
                *(self._bin / "master", "-D"),
                *("-C", self.directory / "imapd.conf", "-M", self.directory / "cyrus.conf"),
                *("-p", self.directory / "conf" / "master.pid"),
            ],
            name=node_id,
            log_path=self.directory / "cyrus.log",
            environment=self._environment(),
        )

    def start(self) -> None:
        """Start and wait until LMTP and IMAP greet (the ports are open before anybody answers)."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start; returns at once."""
        self.process.launch()

    def wait_ready(self) -> None:
        """Wait for the greetings. Raises ServerDidNotStart with the end of the log."""
        for port, begin in ((self.lmtp, b"220"), (self.imap, b"* OK")):
            self.process.wait_for(partial(self._greets, port, begin), START_TIMEOUT_S, f"a greeting on port {port}")

    def stop(self) -> None:
        self.process.stop(timeout_s=3.0)

    def kill9(self) -> None:
        self.process.kill9()

    def hang(self) -> None:
        """Freeze: connections succeed and nothing ever answers."""
        self.process.hang()

    def resume(self) -> None:
        self.process.resume()

    def messages(self, user: str) -> list[bytes]:
        """Return the messages of a user's inbox, as they are on the disk (line ends are CRLF), oldest first."""
        folder = self.directory / "spool" / "user" / user.replace(".", "^")
        if not folder.is_dir():
            return []
        files = [entry for entry in folder.iterdir() if re.fullmatch(r"\d+\.", entry.name)]
        return [entry.read_bytes() for entry in sorted(files, key=lambda entry: int(entry.name[:-1]))]

    def all_messages(self) -> dict[str, list[bytes]]:
        """Return user -> messages of the inbox, for every mailbox."""
        spool = self.directory / "spool" / "user"
        users = [entry.name.replace("^", ".") for entry in spool.iterdir()] if spool.is_dir() else []
        return {user: self.messages(user) for user in users}

    def _greets(self, port: int, begin: bytes) -> bool:
        return greeting((self.host, port)).startswith(begin)

    def _environment(self) -> dict[str, str]:
        libraries = [str(path) for path in library_folders(self._root)]
        plugins = [str(Path(path) / "sasl2") for path in libraries]
        plugins += [str(path) for path in Path("/usr/lib").glob("*-linux-gnu/sasl2")]
        return {"LD_LIBRARY_PATH": ":".join(libraries), "SASL_PATH": ":".join(plugins), "CYRUS_VERBOSE": "0"}

    def _make_passwords(self, users: Sequence[str]) -> None:
        for user in users:
            password = MASTER_PASSWORD if user == MASTER_USER else USER_PASSWORD
            subprocess.run(
                [
                    *(str(self._root / "usr" / "sbin" / "saslpasswd2"), "-f", str(self.directory / "sasldb2")),
                    *("-c", "-p", "-u", REALM, user),
                ],
                input=password.encode(),
                check=True,
                capture_output=True,
                timeout=20,
                env={**os.environ, **self._environment()},
            )

    def _give_away(self) -> None:
        """As root, Cyrus becomes another user, who must own its files."""
        if os.getuid() == 0:
            account = pwd.getpwnam(self._user)
            for folder, _, files in os.walk(self.directory):
                for path in (folder, *(os.path.join(folder, name) for name in files)):
                    os.chown(path, account.pw_uid, account.pw_gid)

    def _imapd_conf(self) -> str:
        place = self.directory
        tls = ""
        if self._tls is not None:
            tls = f"tls_server_cert: {self._tls.certificate}\ntls_server_key: {self._tls.key}"
        return f"""
configdirectory: {place}/conf
proc_path: {place}/conf/proc
mboxname_lockpath: {place}/conf/lock
defaultpartition: default
partition-default: {place}/spool
sievedir: {place}/sieve
cyrus_user: {self._user}
admins: {MASTER_USER}
allowplaintext: yes
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {place}/sasldb2
sasl_mech_list: PLAIN LOGIN
altnamespace: yes
unixhierarchysep: yes
virtdomains: off
lmtp_downcase_rcpt: yes
autocreate_quota: 0
autocreate_post: yes
duplicatesuppression: no
mailbox_legacy_dirs: yes
syslog_prefix: {self.id}
servername: {REALM}
idlesocket: {place}/conf/socket/idle
lmtpsocket: {self.lmtp_unix}
notifysocket: {place}/conf/socket/notify
{tls}
"""

    def _cyrus_conf(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        # master passes its -C on to nobody.
        own = f"-C {self.directory}/imapd.conf"
        return f"""
START {{
  recover cmd="{self._bin}/ctl_cyrusdb {own} -r"
}}
SERVICES {{
  imap cmd="{self._bin}/imapd {own}" listen="{host}:{self.imap}" prefork=1 maxchild=50
  lmtp cmd="{self._bin}/lmtpd {own} -a" listen="{host}:{self.lmtp}" prefork=1 maxchild=20
  lmtpunix cmd="{self._bin}/lmtpd {own}" listen="{self.lmtp_unix}" prefork=0 maxchild=20
  sieve cmd="{self._bin}/timsieved {own}" listen="{host}:{self.sieve}" prefork=0 maxchild=10
}}
EVENTS {{
  checkpoint cmd="{self._bin}/ctl_cyrusdb {own} -c" period=30
}}
"""


def packages_root() -> Path:
    """Return the folder that tests/install-packages unpacked Cyrus into."""
    if folder := os.environ.get("MAILFRONT_TEST_CACHE"):
        cache = Path(folder)
    elif os.getuid() == 0:
        cache = Path("/var/cache/mailfront-tests")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mailfront-tests"
    if not (cache / "cyrus" / ".complete").exists():
        raise RuntimeError(f"Cyrus is not in {cache}/cyrus; run tests/install-packages")
    return cache / "cyrus"


def library_folders(root: Path) -> list[Path]:
    """Return the folders of shared libraries below an unpacked root."""
    return [path for pattern in ("usr/lib/*-linux-gnu", "lib/*-linux-gnu") for path in sorted(root.glob(pattern))]
