"""A front end that people log in to, with Dovecot and Cyrus nodes behind it; for tests of sessions.

Everybody is called `u0` to `u39`, with the password "secret" at the directory and at the nodes. `at(node)` gives a
fresh one whose home is that node: tests do not share mailboxes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mailfront.admin.client import AdminClient
from tests.support.certificates import CertificateFiles
from tests.support.cyrus import CyrusNode
from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port

USERS = tuple(f"u{number}" for number in range(40))
PASSWORD = "secret"
START_WITHIN_S = 180.0
WITHOUT_HANDOFF = {
    "storage": {"secondaries": 0, "handoff_mailbox": None, "handoff_password_file": None, "secret_file": None}
}
"""Sessions need no handoff account, and Cyrus nodes have none."""
ROLES = ("imap", "pop3", "sieve")


class SessionCluster:
    """See the module. The nodes belong to whoever made them."""

    def __init__(
        self,
        nodes: Sequence[DovecotNode | CyrusNode],
        tls: CertificateFiles,
        *,
        listen: Sequence[Mapping[str, object]] = (),
        settings: Mapping[str, Mapping[str, object]] | None = None,
        name: str = "sessions",
        passwords: Mapping[str, str] | None = None,
    ) -> None:
        """Listeners are SMTP, and IMAP, POP3 and ManageSieve with STARTTLS, and what `listen` adds. `passwords`: whose
        password at the directory is another one."""
        tables = [listener("smtp"), *(listener(role, "starttls") for role in ROLES), *listen]
        known = passwords or {}
        self.nodes = {node.id: node for node in nodes}
        self.server = MailfrontServer(
            nodes,
            [
                {"address": address(user), "mailbox": user, "password": f"{{PLAIN}}{known.get(user, PASSWORD)}"}
                for user in USERS
            ],
            listen=tables,
            tls=tls,
            settings=settings,
            name=name,
        )
        self.server.change(
            {"login": {"failure_delay": "0s", **self.server.document.get("login", {})}, **WITHOUT_HANDOFF}
        )
        self._homes: dict[str, str] = {}
        self._unused = list(USERS)

    def start(self) -> None:
        """Start the front end, also on a machine that has much else to do."""
        self.server.launch()
        self.server.wait_ready(START_WITHIN_S)

    def endpoint(self, role: str, number: int = 0) -> tuple[str, int]:
        """Host and port of the n-th listener with this role."""
        found = self.server.endpoint(role, number)
        assert isinstance(found, tuple)
        return found

    def at(self, node: str) -> str:
        """A user whom no other test has, and whose home is this node."""
        user = next(user for user in self._unused if self.home(user) == node)
        self._unused.remove(user)
        return user

    def home(self, user: str) -> str:
        """The node that `user where` names."""
        if user not in self._homes:
            self._homes[user] = str(self.ask("user.where", address=address(user))["home"])
        return self._homes[user]

    def ask(self, verb: str, **arguments: object) -> Any:
        """Ask as the command line does, without the time that it takes to start one."""
        with AdminClient(self.server.runtime_dir / "admin.sock") as client:
            return client.call(verb, arguments)

    def sessions(self, user: str) -> list[dict[str, Any]]:
        """The open sessions of a user, as `session list` shows them."""
        rows: list[dict[str, Any]] = self.ask("session.list", users=[user])["rows"]
        return rows


def listener(role: str, tls: str = "off", **more: object) -> dict[str, object]:
    """A `[[listen]]` table on a free port."""
    return {"role": role, "address": f"127.0.0.1:{free_port()}", "tls": tls, **more}


def address(user: str) -> str:
    """The mail address of a user."""
    return f"{user}@example.edu"
