"""A real OpenLDAP server with a university's worth of people.

`Slapd` runs `slapd` on loopback with the schema, indexes, limits and access
rules of deploy/openldap/. People are loaded with slapadd before the start, and
changed afterwards with LDIF (`apply_ldif`). The data survives `stop()`,
`kill9()` and the next `start()`.

`searches()` counts the searches that slapd has answered, from its own log.
"""

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import CertificateFiles
from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, greeting, new_directory

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "openldap"

SUFFIX = "dc=example,dc=edu"
PEOPLE = f"ou=people,{SUFFIX}"
BIND_DN = f"cn=mailfront,{SUFFIX}"
BIND_PASSWORD = "ldap-password"
ADMIN_DN = f"cn=admin,{SUFFIX}"
ADMIN_PASSWORD = "admin-password"
USER_PASSWORD = "secret"
START_TIMEOUT_S = 60.0

# An anonymous bind, and the answer to it: slapd is ready when it says success.
_BIND_REQUEST = bytes.fromhex("300c020101600702010304008000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One entry below ou=people."""

    uid: str
    mail: Sequence[str]
    aliases: Sequence[str] = ()
    forwards: Sequence[str] = ()
    status: str | None = None
    host: str | None = None
    password: str = USER_PASSWORD

    def ldif(self, number: int) -> str:
        """Return the entry; `number` makes its DN, so that a hostile uid needs no escaping there."""
        attributes = [
            ("uid", self.uid),
            ("sn", self.uid),
            ("userPassword", self.password),
            *(("mail", value) for value in self.mail),
            *(("mailAlternateAddress", value) for value in self.aliases),
            *(("mailForwardingAddress", value) for value in self.forwards),
        ]
        if self.status is not None:
            attributes.append(("mailUserStatus", self.status))
        if self.host is not None:
            attributes.append(("mailHost", self.host))
        lines = [
            f"dn: cn=person-{number:05},{PEOPLE}",
            "objectClass: inetOrgPerson",
            "objectClass: mailfrontUser",
            f"cn: person-{number:05}",
            *(f"{name}:: {base64.b64encode(value.encode()).decode()}" for name, value in attributes),
        ]
        return "\n".join(lines) + "\n\n"


def ordinary_people(count: int, domain: str = "example.edu") -> list[Person]:
    """Return user0000@..., user0001@... with first.last style aliases."""
    return [
        Person(
            uid=f"user{number:04}",
            mail=(f"user{number:04}@{domain}",),
            aliases=(f"first{number:04}.last@{domain}",),
        )
        for number in range(count)
    ]


def special_people(domain: str = "example.edu") -> list[Person]:
    """Return the entries that are not like the others; see the uid of each."""
    return [
        Person(uid="suspended", mail=(f"suspended@{domain}",), status="suspended"),
        Person(uid="active", mail=(f"active@{domain}",), status="active"),
        Person(uid="forwarder", mail=(f"forwarder@{domain}",), forwards=("elsewhere@example.org",)),
        Person(uid="hosted", mail=(f"hosted@{domain}",), host="store2"),
        Person(uid="lost-host", mail=(f"lost-host@{domain}",), host="no-such-node"),
        # Two mailboxes for one address: nobody may guess.
        Person(uid="twin1", mail=(f"twin1@{domain}", f"twins@{domain}")),
        Person(uid="twin2", mail=(f"twin2@{domain}",), aliases=(f"twins@{domain}",)),
        # Names that are syntax in filters, DNs, logs or SQL.
        Person(uid="o'brien", mail=(f"o'brien@{domain}",)),
        Person(uid="star*", mail=(f"star*@{domain}",)),
        Person(uid="paren)(uid=*", mail=(f"paren)(uid=*@{domain}",)),
        Person(uid="back\\slash", mail=(f"back\\slash@{domain}",)),
        Person(uid="MixedCase", mail=(f"Mixed.Case@{domain}",)),
        Person(uid="müller", mail=(f"mueller@{domain}",)),
        Person(uid="handoff-thief", mail=(f"thief@{domain}",), aliases=(f"handoff@{domain}",)),
    ]


class Slapd:
    """One slapd on loopback: `url` (plain and StartTLS), `ldaps_url` with a certificate.

    people   the entries; by default 500 ordinary ones and the special ones
    tls      a certificate for StartTLS and ldaps
    """

    def __init__(self, *, people: Iterable[Person] | None = None, tls: CertificateFiles | None = None) -> None:
        self.people = list(people) if people is not None else [*ordinary_people(500), *special_people()]
        self.directory = new_directory("slapd")
        self.port, self.ldaps_port = free_port(), free_port()
        self.url = f"ldap://127.0.0.1:{self.port}"
        self.ldaps_url = f"ldaps://127.0.0.1:{self.ldaps_port}"
        self._tls = tls
        self._configuration = self.directory / "slapd.conf"
        self._configuration.write_text(self._configuration_text())
        (self.directory / "db").mkdir()
        self._load()
        urls = self.url + (f" {self.ldaps_url}" if tls else "")
        self.process = ManagedProcess(
            # Level 256 is "stats": one line per operation, on standard error.
            [*_command("slapd", self.directory), "-d", "256", "-f", self._configuration, "-h", urls],
            name="slapd",
            log_path=self.directory / "slapd.log",
        )

    def start(self) -> None:
        """Start and wait for an answer. Raises ServerDidNotStart with the end of the log."""
        self.process.launch()
        self.process.wait_for(self._answers, START_TIMEOUT_S, f"an answer on {self.url}")

    def stop(self) -> None:
        """Shut down; connections are refused afterwards."""
        self.process.stop()

    def kill9(self) -> None:
        self.process.kill9()

    def hang(self) -> None:
        """Freeze: connections succeed and nothing ever answers."""
        self.process.hang()

    def resume(self) -> None:
        """Go on after `hang`."""
        self.process.resume()

    def searches(self) -> int:
        """Return how many searches it has been asked since its first start."""
        return self._log().count(b' SRCH base="')

    def binds(self) -> int:
        """Return how many binds with a name it has been asked since its first start."""
        return len(re.findall(rb' BIND dn="[^"]+" method=', self._log()))

    def apply_ldif(self, changes: str) -> None:
        """Change entries as the administrator. Raises CalledProcessError when slapd refuses."""
        subprocess.run(
            ["ldapmodify", "-x", "-H", self.url, "-D", ADMIN_DN, "-w", ADMIN_PASSWORD],
            input=changes.encode(),
            check=True,
            capture_output=True,
            timeout=20,
        )

    def add(self, person: Person) -> str:
        """Add one person to the running server and return the DN."""
        self.people.append(person)
        number = len(self.people)
        self.apply_ldif(person.ldif(number).replace("\nobjectClass", "\nchangetype: add\nobjectClass", 1))
        return f"cn=person-{number:05},{PEOPLE}"

    def add_list(self, name: str, *lines: str, kind: str = "groupOfNames", domain: str | None = "example.edu") -> str:
        """Add a group with further LDIF lines (`member: DN`); with a domain it is a list with an address. Returns its
        DN."""
        mail = [] if domain is None else ["objectClass: mailfrontList", f"mail: {name}@{domain}"]
        dn = f"cn={name},{PEOPLE}"
        entry = [f"dn: {dn}", "changetype: add", f"objectClass: {kind}", f"cn: {name}", *mail, *lines]
        self.apply_ldif("\n".join(entry) + "\n")
        return dn

    def remove(self, *dns: str) -> None:
        """Delete entries."""
        self.apply_ldif("".join(f"dn: {dn}\nchangetype: delete\n\n" for dn in dns))

    def dn(self, uid: str) -> str:
        """Return the DN of a person by uid."""
        number = next(index for index, person in enumerate(self.people, start=1) if person.uid == uid)
        return f"cn=person-{number:05},{PEOPLE}"

    def _answers(self) -> bool:
        return greeting(("127.0.0.1", self.port), send=_BIND_REQUEST).startswith(b"\x30")

    def _log(self) -> bytes:
        log = self.process.log_path
        return log.read_bytes() if log.exists() else b""

    def _load(self) -> None:
        subprocess.run(
            [*_command("slapadd", self.directory), "-q", "-f", str(self._configuration), "-b", SUFFIX],
            input=self._ldif().encode(),
            check=True,
            timeout=60,
        )

    def _ldif(self) -> str:
        account = (DEPLOY / "mailfront-account.ldif").read_text()
        password = "{SSHA}replace-by-the-output-of-slappasswd"
        if password not in account:
            raise RuntimeError("deploy/openldap/mailfront-account.ldif no longer contains its example password")
        return "".join(
            [
                f"dn: {SUFFIX}\nobjectClass: domain\ndc: example\n\n",
                f"dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n",
                account.replace(password, BIND_PASSWORD) + "\n",
                *(person.ldif(number) for number, person in enumerate(self.people, start=1)),
            ]
        )

    def _configuration_text(self) -> str:
        schemas = "\n".join(
            f"include /etc/ldap/schema/{name}.schema" for name in ("core", "cosine", "nis", "inetorgperson")
        )
        tls = ""
        if self._tls is not None:
            tls = f"TLSCertificateFile {self._tls.certificate}\nTLSCertificateKeyFile {self._tls.key}\n"
        return f"""
{schemas}
include {DEPLOY}/mailfront.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {self.directory}/slapd.pid
threads 4
{tls}
database mdb
suffix "{SUFFIX}"
rootdn "{ADMIN_DN}"
rootpw {ADMIN_PASSWORD}
directory {self.directory}/db
maxsize 268435456
dbnosync
include {DEPLOY}/mailfront-database.conf
"""


def _command(name: str, directory: Path) -> list[str]:
    """Return the command that runs slapd under one of its names.

    Ubuntu confines /usr/sbin/slapd (AppArmor) to its own folders; the rule is
    bound to the path, so a copy may read the test's files.
    """
    path = shutil.which("slapd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise RuntimeError("slapd is not installed; run tests/install-packages")
    if Path("/sys/kernel/security/apparmor").exists():
        path = str(shutil.copy(path, directory / "slapd"))
    return [path] if name == "slapd" else [path, "-T", name.removeprefix("slap")]
