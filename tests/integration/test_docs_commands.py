"""Every command of the documentation runs: against a real mailfront with real Dovecot nodes and a real OpenLDAP.

The server runs deploy/mailfront.toml, with only addresses, folders and secrets replaced. The same replacements are made
in the commands, and `mailfront` means the one under test with its configuration file. Before each page there is
delivered mail, and one queued recipient whose id stands for the id of the examples.
"""

import os
import re
import smtplib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailfront.config.load import parse
from tests.support.certificates import Authority, CertificateFiles
from tests.support.doc_blocks import Block, blocks_of
from tests.support.dovecot import TINY, DovecotNode
from tests.support.ldap import PEOPLE, Person, Slapd, ordinary_people
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.processes import new_directory, wait_until
from tests.support.toml_text import toml_text

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("README.md")))
SAMPLE = ROOT / "deploy" / "mailfront.toml"
EXAMPLE_ID = "06h0eg0rj6a7hfxa"
KNOWN_INFO = {"", "text", "python", "console", "console may-fail", "console elsewhere", "toml"}
COMMAND_TIMEOUT_S = 120.0
FRESH = iter(TINY)
BIG_BODY = "Subject: too large for tiny\r\n\r\n" + ("x" * 70 + "\r\n") * 1000

RUNNABLE = {
    page: [block for block in blocks_of(page) if block.info in ("console", "console may-fail")] for page in PAGES
}
WITH_COMMANDS = [page for page, blocks in RUNNABLE.items() if blocks]


def name_of(page: Path) -> str:
    """The page's path in the repository."""
    return str(page.relative_to(ROOT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Documented:
    """A running front end as the documentation describes it."""

    server: MailfrontServer
    admin: str
    bin_dir: Path
    backups: Path

    def queued_id(self) -> str:
        """Send a message that one mailbox takes and another, over its quota, does not; return its id."""
        full = f"{next(FRESH)}@example.edu"  # a mailbox that was full a moment ago is refused at RCPT
        with smtplib.SMTP(*self.server.smtp) as client:
            client.sendmail("sender@example.org", ["ana@example.edu", full], BIG_BODY)
        rows = wait_until(
            lambda: self.server.cli_json("queue", "list", "--recipient", full), 30.0, "a queued recipient"
        )
        return str(rows[-1]["id"])

    def here(self, command: str, message_id: str) -> str:
        """The command with the places of this machine instead of those of the example."""
        host, port = self.server.smtp
        document = self.server.document["server"]
        for example, real in (
            ("127.0.0.1:25 ", f"{host}:{port} "),
            ("127.0.0.1:9465", self.admin),
            ("/var/lib/mailfront", str(document["state_dir"])),
            ("/var/spool/mailfront", str(document["spool_dir"])),
            ("/var/backups", str(self.backups)),
            (EXAMPLE_ID, message_id),
        ):
            command = command.replace(example, real)
        return command

    def run(self, block: Block, message_id: str) -> None:
        """Run a block's commands. Raises AssertionError with what was said by one that fails."""
        good = (0, 1) if block.info.endswith("may-fail") else (0,)
        for command in block.commands:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", self.here(command, message_id)],
                env={**os.environ, "PATH": f"{self.bin_dir}:{os.environ['PATH']}", "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
            )
            assert done.returncode in good, (
                f"{name_of(block.page)}:{block.line}: {command}: {done.returncode}\n{done.stdout}{done.stderr}"
            )


@pytest.fixture(scope="module")
def people(server_certificate: CertificateFiles) -> Iterator[Slapd]:
    """OpenLDAP with the people of the examples."""
    names = ("ana", *TINY, "postmaster")
    people = [Person(uid=name, mail=(f"{name}@example.edu",)) for name in names]
    server = Slapd(people=[*people, *ordinary_people(3)], tls=server_certificate)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def documented(
    three_nodes: tuple[DovecotNode, ...], people: Slapd, authority: Authority, server_certificate: CertificateFiles
) -> Iterator[Documented]:
    """mailfront with the sample configuration; only what this machine must differ in is replaced."""
    server = MailfrontServer(three_nodes, people, tls=server_certificate, name="documented")
    admin = f"127.0.0.1:{free_port()}"
    server.document = sample_for(server, admin, people, server_certificate, authority.ca_file)
    server.change({})
    bin_dir, backups = new_directory("bin"), new_directory("backups")
    wrapper = bin_dir / "mailfront"
    wrapper.write_text(
        f'#!/bin/sh\ncd {ROOT}\n[ "$*" = --version ] || set -- "$@" -c {server.configuration_file}\n'
        f'exec {sys.executable} -m mailfront "$@"\n'
    )
    wrapper.chmod(0o755)
    server.start()
    yield Documented(server=server, admin=admin, bin_dir=bin_dir, backups=backups)
    server.stop()


def sample_for(server: MailfrontServer, admin: str, people: Slapd, tls: CertificateFiles, ca: Path) -> dict[str, Any]:
    """deploy/mailfront.toml with the addresses, folders and secrets of this machine."""
    sample, ours = tomllib.loads(SAMPLE.read_text()), server.document
    folders = {name: ours["server"][name] for name in ("state_dir", "runtime_dir", "spool_dir")}
    sample["server"] |= {**folders, "user": None, "admin_group": None}
    smtp_v4, *others = sample["listen"]
    smtp_v4["address"] = ours["listen"][0]["address"]
    for listener in others:
        host = "[::1]" if listener["address"].startswith("[") else "127.0.0.1"
        listener["address"] = admin if listener["role"] == "admin" else f"{host}:{free_port()}"
    sample["tls"] |= {"certificate": tls.certificate, "key": tls.key}
    sample["directory"] |= {
        "urls": [people.ldaps_url],
        "base": PEOPLE,
        "password_file": ours["directory"]["password_file"],
        "ca": ca,
    }
    secrets = ("handoff_password_file", "secret_file", "master_password_file")
    sample["storage"] |= {name: ours["storage"][name] for name in secrets}
    for node, real in zip(sample["node"], ours["node"], strict=True):
        assert node["id"] == real["id"]
        node |= {name: real[name] for name in ("host", "lmtp", "imap", "pop3", "sieve")}
    return sample


def test_sample_configuration_passes_the_check(documented: Documented) -> None:
    """`config check` accepts deploy/mailfront.toml on a machine where everything that it names is there."""
    findings = documented.server.cli_json("config", "check")
    assert findings["good"], findings
    assert [each for each in findings["findings"] if each["level"] == "warning" and each["where"] != "tls.key"] == []


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands_of_the_page(page: Path, documented: Documented) -> None:
    """Each command of a runnable block ends with 0."""
    message_id = documented.queued_id()
    for block in RUNNABLE[page]:
        assert block.commands, f"{name_of(page)}:{block.line}: a console block without a command"
        documented.run(block, message_id)
    for row in documented.server.cli_json("node", "list"):
        assert row["admin"] == "active", f"{name_of(page)} leaves {row['id']} in {row['admin']}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_the_page(page: Path) -> None:
    """Each block is of a known kind; commands that are not run have at least a shell's syntax; TOML is accepted."""
    for block in blocks_of(page):
        where = f"{name_of(page)}:{block.line}"
        assert block.info in KNOWN_INFO, f"{where}: unknown kind {block.info!r}"
        if block.info.startswith("console"):
            script = "\n".join(block.commands)
            done = subprocess.run(
                ["bash", "-n"], input=script, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
            )
            assert script, f"{where}: no command behind a prompt"
            assert done.returncode == 0, f"{where}: {done.stderr}"
        elif block.info == "toml":
            check_toml(block.text)


def check_toml(text: str) -> None:
    """Put a piece of configuration into the sample. Raises ConfigError if it is not accepted there."""
    document: dict[str, Any] = tomllib.loads(SAMPLE.read_text())
    for section, values in tomllib.loads(text).items():
        if isinstance(values, list):
            document.setdefault(section, []).extend(values)
        else:
            document.setdefault(section, {}).update(values)
    parse(toml_text(document), SAMPLE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_the_page(page: Path) -> None:
    """Each relative link leads to a file, and to a heading of it where it names one."""
    for target in links_in(page.read_text()):
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: no {target}"
        if heading:
            assert heading in headings_of(file), f"{name_of(page)}: no heading for {target}"


def links_in(text: str) -> list[str]:
    """Targets of Markdown links that are not addresses in the network."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [target for target in found if "://" not in target]


def headings_of(page: Path) -> set[str]:
    """Names by which headings can be linked to."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
