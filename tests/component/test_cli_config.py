"""`config show`, `config diff` and `config check` as an administrator uses them."""

import imaplib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mailfront.config.load import parse
from tests.support.admin_stub import AdminStub, invoke
from tests.support.certificates import Authority
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer
from tests.support.ports import free_port
from tests.support.toml_text import toml_text

HANDOFF = "handoff@example.edu"


class FakeImap(socketserver.ThreadingTCPServer):
    """An IMAP server that knows the handoff account (password `secret`) and maybe a quota."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *, password: str = "secret", capabilities: str = "UIDPLUS", quota: bool = False) -> None:
        self.password = password
        self.capabilities = capabilities
        self.quota = quota
        super().__init__(("127.0.0.1", 0), _ImapSession)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def close(self) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()


class _ImapSession(socketserver.StreamRequestHandler):
    server: FakeImap

    def handle(self) -> None:
        self.wfile.write(b"* OK ready\r\n")
        for line in self.rfile:
            tag, _, command = line.decode().strip().partition(" ")
            verb = command.split(" ")[0].upper()
            done = f"{tag} OK done\r\n"
            if verb == "CAPABILITY":
                self.wfile.write(f"* CAPABILITY IMAP4rev1 {self.server.capabilities}\r\n".encode())
            elif verb == "LOGIN" and self.server.password not in command:
                done = f"{tag} NO [AUTHENTICATIONFAILED] wrong password\r\n"
            elif verb == "GETQUOTAROOT" and self.server.quota:
                self.wfile.write(b"* QUOTAROOT INBOX User\r\n* QUOTA User (STORAGE 1 1000)\r\n")
            elif verb == "EXAMINE":
                self.wfile.write(b"* 0 EXISTS\r\n")
            elif verb == "LOGOUT":
                self.wfile.write(b"* BYE\r\n")
            self.wfile.write(done.encode())


class Site:
    """A configuration whose parts are all there, and ways to break it."""

    def __init__(self, folder: Path, lmtp_port: int, imap_port: int) -> None:
        self.folder = folder
        self.path = folder / "mailfront.toml"
        for name in ("state", "run", "spool"):
            (folder / name).mkdir()
        for name in ("handoff", "hmac"):
            self.secret(name, "secret")
        (folder / "users.toml").write_text('[[user]]\naddress = "postmaster@example.edu"\nmailbox = "pm"\n')
        self.smtp_port = free_port()
        self.document: dict[str, Any] = {
            "server": {"hostname": "mx1.example.edu", "state_dir": "state", "runtime_dir": "run", "spool_dir": "spool"},
            "listen": [{"role": "smtp", "address": f"127.0.0.1:{self.smtp_port}"}],
            "domains": {"local": ["example.edu"]},
            "postmaster": {"address": "postmaster@example.edu"},
            "directory": {"kind": "static", "file": "users.toml"},
            "limits": {"body_disk": "60MiB", "free_space": "1MiB"},
            "storage": {
                "cluster": "example",
                "handoff_mailbox": HANDOFF,
                "handoff_password_file": "handoff",
                "secret_file": "hmac",
            },
            "node": [{"id": "store1", "host": "127.0.0.1", "lmtp": lmtp_port, "imap": imap_port}],
        }

    def secret(self, name: str, value: str) -> None:
        """Write a secret that only we may read."""
        path = self.folder / name
        path.write_text(value + "\n")
        path.chmod(0o600)

    def write(self) -> str:
        """Write the file; returns its text."""
        text = toml_text(self.document)
        self.path.write_text(text)
        return text

    def check(self) -> tuple[int, list[tuple[str, str, str]]]:
        """Run `config check`; returns the exit code and the findings (level, where, text)."""
        self.write()
        result = invoke(self.path, "config", "check", "--json")
        findings = json.loads(result.stdout)["findings"] if result.stdout else []
        return result.exit_code, [(each["level"], each["where"], each["text"]) for each in findings]

    def failures(self) -> dict[str, str]:
        """What `config check` calls failed; its exit code must agree."""
        code, findings = self.check()
        failed = {where: text for level, where, text in findings if level == "failed"}
        assert code == (1 if failed else 0)
        return failed


@pytest.fixture
def lmtp() -> Iterator[ScriptedLmtpPeer]:
    """A good LMTP server."""
    with ScriptedLmtpPeer({}) as peer:
        yield peer


@pytest.fixture
def imap() -> Iterator[FakeImap]:
    """A good IMAP server."""
    with closing(FakeImap()) as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, lmtp: ScriptedLmtpPeer, imap: FakeImap) -> Site:
    """A site where all is well."""
    return Site(tmp_path, lmtp.port, imap.port)


def test_a_good_site_passes_with_every_part_tried(site: Site, lmtp: ScriptedLmtpPeer) -> None:
    """Folders, files, ports, directory, postmaster, LMTP and IMAP are all named; no mail was sent."""
    code, findings = site.check()
    assert code == 0, findings
    tried = {where for _, where, _ in findings}
    assert {
        "server.state_dir", "storage.secret_file", f'listen "127.0.0.1:{site.smtp_port}"', "directory",
        "postmaster.address", 'node "store1" lmtp', 'node "store1" imap', "node",
    } <= tried  # fmt: skip
    assert any("cannot be seen from here" in text for level, _, text in findings if level == "note")
    assert invoke(site.path, "config", "check", "--quiet").exit_code == 0


def test_a_port_that_is_taken_fails_unless_it_is_our_own(site: Site) -> None:
    """Somebody else's server on our port is a failure; the running mailfront's own listener is not."""
    where = f'listen "127.0.0.1:{site.smtp_port}"'
    text = site.write()
    with closing(socket.create_server(("127.0.0.1", site.smtp_port))):
        assert where in site.failures()
        running = {"path": str(site.path), "text": text, "loaded_s": 0.0}
        with AdminStub(site.folder, {"config.show": running}):
            assert site.failures() == {}


def test_missing_and_wrong_files_are_named_by_their_setting(site: Site) -> None:
    """A secret that is not there, an empty one, a certificate with the wrong key: all in one run."""
    first = Authority(site.folder, "one").issue(file_name="first")
    second = Authority(site.folder, "two").issue(file_name="second")
    site.document["tls"] = {"certificate": first.certificate, "key": second.key}
    (site.folder / "hmac").unlink()
    site.secret("handoff", "")
    failed = site.failures()
    assert "does not exist" in failed["storage.secret_file"]
    assert "it is empty" in failed["storage.handoff_password_file"]
    assert "is not the key of" in failed["tls"]


def test_a_secret_that_everybody_can_read_is_a_warning(site: Site) -> None:
    """It works, so the check passes, but it is said."""
    (site.folder / "hmac").chmod(0o644)
    code, findings = site.check()
    assert code == 0
    assert ("warning", "storage.secret_file") in [(level, where) for level, where, _ in findings]


def test_files_are_tried_as_the_user_of_the_server(site: Site) -> None:
    """Root can read everything, and the account that the server runs as cannot; without root a warning says so."""
    site.document["server"]["user"] = "nobody"
    if os.geteuid() == 0:
        failed = site.failures()
        assert "nobody may not" in failed["storage.secret_file"]
        assert "nobody may not" in failed["server.state_dir"]
    else:
        _, findings = site.check()
        assert any("not root: files were tried as" in text for level, _, text in findings if level == "warning")


def test_an_unknown_account_and_group_are_failures(site: Site) -> None:
    """The line says how to make them."""
    site.document["server"] |= {"user": "mf-no-such", "admin_group": "mf-no-such"}
    failed = site.failures()
    assert "adduser" in failed["server.user"]
    assert "addgroup" in failed["server.admin_group"]


def test_an_unreachable_node_fails_and_is_named(site: Site) -> None:
    """Other findings are made all the same."""
    dead = free_port()
    site.document["node"].append({"id": "store2", "host": "127.0.0.1", "lmtp": dead, "imap": dead})
    failed = site.failures()
    assert set(failed) == {'node "store2" lmtp', 'node "store2" imap'}


def test_a_node_without_the_handoff_account_says_what_to_make(tmp_path: Path, imap: FakeImap) -> None:
    """RCPT for the handoff account is asked, with the node's own words in the line."""
    with ScriptedLmtpPeer({"RCPT": Action(replies=("550 5.1.1 unknown user",))}) as peer:
        failed = Site(tmp_path, peer.port, imap.port).failures()
    assert "refuses the handoff account" in failed['node "store1" lmtp']
    assert "unknown user" in failed['node "store1" lmtp']


def test_a_wrong_handoff_password_fails_without_being_shown(site: Site) -> None:
    """The node's refusal is shown, the password is not."""
    site.secret("handoff", "not-the-password")
    failed = site.failures()
    assert "cannot log in" in failed['node "store1" imap']
    assert "wrong password" in failed['node "store1" imap']
    assert "not-the-password" not in str(failed)


def test_what_is_missing_at_a_node_is_a_warning(tmp_path: Path, lmtp: ScriptedLmtpPeer) -> None:
    """A quota on the handoff account and a missing UIDPLUS work until the day they are needed."""
    with closing(FakeImap(capabilities="QUOTA", quota=True)) as imap:
        code, findings = Site(tmp_path, lmtp.port, imap.port).check()
    texts = [text for level, where, text in findings if level == "warning" and where == 'node "store1" imap']
    assert code == 0
    assert any("has a quota" in text for text in texts)
    assert any("UIDPLUS" in text for text in texts)


def test_a_directory_that_is_away_fails(site: Site) -> None:
    """LDAP is asked, not only configured."""
    site.document["directory"] = {"kind": "ldap", "urls": [f"ldap://127.0.0.1:{free_port()}"], "base": "dc=example"}
    assert "directory" in site.failures()


def test_a_postmaster_that_nobody_reads_is_a_warning(site: Site) -> None:
    """The address must be in the directory."""
    (site.folder / "users.toml").write_text('[[user]]\naddress = "ana@example.edu"\nmailbox = "ana"\n')
    code, findings = site.check()
    assert code == 0
    assert ("warning", "postmaster.address") in [(level, where) for level, where, _ in findings]


def test_mistakes_in_the_file_are_all_told_and_exit_with_2(site: Site) -> None:
    """Nothing is tried before the file is right."""
    site.document["server"]["wrkers"] = 1
    site.document["domains"]["local"] = []
    site.write()
    result = invoke(site.path, "config", "check")
    assert result.exit_code == 2
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == ["server.wrkers", "domains.local"]


def test_show_prints_what_runs_or_what_is_in_the_file(site: Site) -> None:
    """Defaults are filled in, the output is TOML, secrets stay in their files."""
    text = site.write()
    configuration = parse(text, site.path)
    shown = invoke(site.path, "config", "show", "--file")
    assert parse(shown.stdout, site.path) == configuration
    site.document["limits"]["recipients"] = 200
    site.write()
    with AdminStub(site.folder, {"config.show": {"path": str(site.path), "text": text, "loaded_s": 0.0}}):
        site.write()
        assert parse(invoke(site.path, "config", "show").stdout, site.path) == configuration
        document = json.loads(invoke(site.path, "config", "show", "--json").stdout)
    assert document["limits"]["recipients"] == 1000


def test_diff_says_what_a_reload_would_do(site: Site) -> None:
    """Each changed setting with both values and what applies it."""
    text = site.write()
    with AdminStub(site.folder, {"config.show": {"path": str(site.path), "text": text, "loaded_s": 0.0}}):
        site.write()
        assert "the file is what runs" in invoke(site.path, "config", "diff").stdout
        site.document["limits"]["recipients"] = 200
        site.write()
        document = json.loads(invoke(site.path, "config", "diff", "--json").stdout)
        assert document["effect"] == "reload"
        assert [(each["path"], each["running"], each["file"]) for each in document["changes"]] == [
            ("limits.recipients", 1000, 200)
        ]
        site.document["server"]["state_dir"] = "elsewhere"
        site.write()
        assert "a restart applies all of it" in invoke(site.path, "config", "diff").stdout


def test_imaplib_still_lets_us_choose_the_socket() -> None:
    """The check of a node overrides one method of the standard library's client."""
    assert callable(vars(imaplib.IMAP4)["_create_socket"])
