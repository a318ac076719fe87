"""Real milters from Debian: opendkim, spamass-milter with its spamd, and one of libmilter's Python binding.

The last one (`EDITING_MILTER`) makes every edit that the protocol knows, as the header `X-Wish` of a message asks; it
runs in the system's Python, for which Debian's package `python3-milter` is built.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, connect, new_directory

START_TIMEOUT_S = 30.0

EDITING_MILTER = '''
import sys
import Milter


class Editing(Milter.Base):
    """Does what the fields X-Wish of the message ask for."""

    def connect(self, name, family, address):
        self.seen = [f"connect {name} {family} {address}"]
        return Milter.CONTINUE

    def hello(self, name):
        self.seen.append(f"helo {name}")
        return Milter.CONTINUE

    def envfrom(self, path, *parameters):
        self.wishes, self.body_bytes, self.fields = [], 0, 0
        self.seen = self.seen[:2] + [f"mail {path} {' '.join(parameters)} i={self.getsymval('i')}"]
        return Milter.CONTINUE

    def envrcpt(self, path, *parameters):
        self.seen.append(f"rcpt {path} {self.getsymval('{rcpt_addr}')}")
        return Milter.REJECT if "refused" in path else Milter.CONTINUE

    def header(self, name, value):
        self.fields += 1
        if name == "X-Wish":
            self.wishes.append(value)
        if value == "reject at once":
            self.setreply("550", "5.7.1", "100%% sure, no")
            return Milter.REJECT
        return Milter.CONTINUE

    def body(self, piece):
        self.body_bytes += len(piece)
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Seen", f"{self.fields} fields, {self.body_bytes} bytes", 0)
        for line in self.seen:
            self.addheader("X-Step", line)
        for wish in self.wishes:
            if wish == "edit":
                self.addheader("X-Top", "top\\n\\tfolded", 0)
                self.chgheader("Subject", 1, "changed")
                self.chgheader("X-Gone", 1, "")
            elif wish == "body":
                self.replacebody(b"new\\r\\nbody\\r\\n")
            elif wish == "recipients":
                self.addrcpt("<added@example.test>")
                self.delrcpt("<ana@example.test>")
            elif wish == "redirect":
                self.addrcpt("<user7@example.edu>")
                self.delrcpt("<user6@example.edu>")
            elif wish == "sender":
                self.chgfrom("<bounces@example.edu>", "SIZE=1")
            elif wish == "null sender":
                self.chgfrom("<>")
            elif wish == "quarantine":
                self.quarantine("looks odd")
            elif wish == "wait":
                self.progress()
            elif wish.startswith("echo "):
                self.chgheader("Subject", 1, wish)
            elif wish == "tempfail":
                self.setreply("451", "4.7.1", "later, please")
                return Milter.TEMPFAIL
            elif wish == "discard":
                return Milter.DISCARD
        return Milter.CONTINUE


Milter.factory = Editing
Milter.set_flags(
    Milter.ADDHDRS | Milter.CHGHDRS | Milter.CHGBODY | Milter.ADDRCPT | Milter.DELRCPT | Milter.QUARANTINE
    | Milter.CHGFROM
)
Milter.runmilter("editing", sys.argv[1], 30)
'''


class ServerProcess:
    """One program that listens on a port or a path. `start` waits until it accepts."""

    def __init__(self, name: str, *, directory: Path | None = None) -> None:
        self.name = name
        self.directory = directory or new_directory(name)
        self.port = free_port()
        self.process: ManagedProcess | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def launch(self, command: Sequence[str | Path], endpoint: tuple[str, int] | Path | None = None) -> None:
        self.process = ManagedProcess(command, name=self.name, log_path=self.directory / f"{self.name}.log")
        self.process.launch()
        where = endpoint or ("127.0.0.1", self.port)
        self.process.wait_for(lambda: _accepts(where), START_TIMEOUT_S, f"{self.name} on {where}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill9()


def _accepts(endpoint: tuple[str, int] | Path) -> bool:
    try:
        connect(endpoint, timeout_s=2.0).close()
    except OSError:
        return False
    return True


class EditingMilter(ServerProcess):
    """See `EDITING_MILTER`; over TCP, or over a UNIX socket at `path`."""

    def __init__(self, *, unix: bool = False) -> None:
        super().__init__("editing-milter")
        self.path = self.directory / "milter.sock" if unix else None

    @property
    def address(self) -> str:
        return f"unix:{self.path}" if self.path else super().address

    def start(self) -> None:
        script = self.directory / "editing.py"
        script.write_text(EDITING_MILTER)
        where = f"unix:{self.path}" if self.path else f"inet:{self.port}@127.0.0.1"
        self.launch(["/usr/bin/python3", script, where], self.path)


class OpenDkim(ServerProcess):
    """opendkim, which signs what comes from 127.0.0.1 for example.test, and verifies the rest by keys in a file."""

    def __init__(self) -> None:
        super().__init__("opendkim")
        self.public_key = ""

    def start(self) -> None:
        subprocess.run(
            ["opendkim-genkey", "-b", "2048", "-s", "s1", "-d", "example.test", "-D", self.directory],
            check=True,
            capture_output=True,
        )
        record = (self.directory / "s1.txt").read_text()
        self.public_key = "".join(record.split('"')[1::2])
        (self.directory / "dns").write_text(f"s1._domainkey.example.test {self.public_key.replace(' ', '')}\n")
        (self.directory / "internal").write_text("127.0.0.1\n")
        config = {
            "Socket": f"inet:{self.port}@127.0.0.1",
            "Mode": "sv",
            "Domain": "example.test",
            "Selector": "s1",
            "KeyFile": self.directory / "s1.private",
            "InternalHosts": self.directory / "internal",
            "TestDNSData": f"file:{self.directory}/dns",
            "UserID": "opendkim" if os.getuid() == 0 else os.getlogin(),
            "Background": "no",
            "Syslog": "no",
            "AlwaysAddARHeader": "yes",
            "AuthservID": "mx.example.test",
            "RequireSafeKeys": "no",
            "PidFile": self.directory / "opendkim.pid",
        }
        path = self.directory / "opendkim.conf"
        path.write_text("".join(f"{key} {value}\n" for key, value in config.items()))
        self.directory.chmod(0o777)
        (self.directory / "s1.private").chmod(0o644)
        self.launch(["/usr/sbin/opendkim", "-f", "-x", path])


class Spamd(ServerProcess):
    """SpamAssassin's daemon with Debian's rules, without network tests."""

    def __init__(self) -> None:
        super().__init__("spamd")

    def start(self) -> None:
        site, home = self.directory / "site", self.directory / "home"
        site.mkdir()
        home.mkdir()
        for each in Path("/etc/spamassassin").glob("*.pre"):
            shutil.copy(each, site)
        (site / "local.cf").write_text(
            "dns_available no\nskip_rbl_checks 1\nuse_bayes 0\nuse_auto_welcomelist 0\nuse_razor2 0\nuse_pyzor 0\n"
            "use_dcc 0\nrequired_score 5\n"
        )
        home.chmod(0o777)
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
        self.launch(
            [
                *user,
                "env",
                f"HOME={home}",
                "/usr/sbin/spamd",
                *("-x", "-L", "-i", "127.0.0.1", "-p", str(self.port), "--min-children=1", "--max-children=2"),
                *(f"--siteconfigpath={site}", "--configpath=/usr/share/spamassassin", "-s", "stderr"),
            ]
        )


class SpamassMilter(ServerProcess):
    """spamass-milter in front of a spamd."""

    def __init__(self, spamd: Spamd) -> None:
        super().__init__("spamass-milter")
        self._spamd = spamd

    def start(self) -> None:
        spamd = ["-d", "127.0.0.1", "-p", str(self._spamd.port)]
        self.launch(["/usr/sbin/spamass-milter", "-p", f"inet:{self.port}@127.0.0.1", "-r", "15", "--", *spamd])
