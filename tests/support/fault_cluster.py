"""A front end and its nodes for fault tests, with one ledger per case.

    cluster = FaultCluster.of_dovecots(3)          real Dovecots, each behind a HoldingProxy
    case = cluster.case()                          fresh mailboxes, fresh ledger
    letter = case.letter("store1", "store2")       one fresh mailbox at each node
    posting = case.post(letter)                    a client that tries until it is answered
    case.settle()                                  all that was kept is where it belongs
    case.check()                                   the invariant; prints the counts

What is durable is read from the database file, what was delivered from the nodes' disks; neither asks mailfront.
"""

import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mailfront.base.secret import read_secret_file
from mailfront.cluster.hashing import Node, bucket_of, plan_assignment
from mailfront.delivery.handoff_block import open_block
from mailfront.mail.names import MailboxKey, NodeId
from tests.support.dovecot import DovecotNode, start_together
from tests.support.holding_proxy import Hold, HoldingProxy, Step
from tests.support.ledger import Ledger, LedgerReport, ReadableNode, id_of, token_of
from tests.support.lmtp_peer import ScriptedLmtpPeer
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.senders import DOMAIN, Letter, Posting, send

T = TypeVar("T")

USERS_COUNT = 3000
CLUSTER_NAME = "example"
IMPATIENT: Mapping[str, Mapping[str, object]] = {
    "queue": {"retry": ["1s"]},
    "intake": {"deadline": "4s"},
    "delivery": {"connect_timeout": "2s", "reply_timeout": "3s", "body_timeout": "3s", "final_timeout": "20s"},
    "limits": {"free_space": "1MiB"},
}
"""Short waits, so that a fault is noticed within a test."""


_READER = """
import pickle, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], uri=True, timeout=5.0)
sys.stdout.buffer.write(pickle.dumps(connection.execute(sys.argv[2]).fetchall()))
"""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One row of the queue as the database has it."""

    id: str
    mailbox: str
    state: str
    node: str | None
    token: str | None
    last_reply: str
    attempts: int


@dataclass(frozen=True, slots=True)
class HandoffRow:
    """One hint row as the database has it."""

    id: str
    holder: str
    home: str
    mailbox: str
    state: str


class PeerAsNode:
    """A scripted peer seen as a storage node: what it was sent to its end counts as stored."""

    def __init__(self, node_id: str, peer: ScriptedLmtpPeer) -> None:
        self.id = node_id
        self.peer = peer

    def all_messages(self) -> Mapping[str, list[bytes]]:
        """Per mailbox, what a reply 2xx was sent for (or no reply at all: it may be stored)."""
        found: dict[str, list[bytes]] = {}
        for transaction in self.peer.received():
            replies = list(transaction.replies) + [""] * len(transaction.accepted)
            for mailbox, reply in zip(transaction.accepted, replies, strict=False):
                if mailbox != "handoff@example.edu" and not reply.startswith(("4", "5")):
                    found.setdefault(mailbox, []).append(transaction.body)
        return found

    def handoff_messages(self) -> list[bytes]:
        """Copies that it was handed."""
        return [
            transaction.body
            for transaction in self.peer.received()
            if "handoff@example.edu" in transaction.accepted
            and not "".join(transaction.replies[:1]).startswith(("4", "5"))
        ]


class StorageNode(ReadableNode, Protocol):
    """What a cluster is made of."""


class FaultCluster:
    """See the module."""

    def __init__(
        self,
        nodes: Sequence[StorageNode],
        tables: Sequence[Mapping[str, object]],
        *,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        directory: Any = None,
        name: str = "fault",
    ) -> None:
        ids = [NodeId(node.id) for node in nodes]
        self.nodes = {node.id: node for node in nodes}
        owners = plan_assignment([Node(node) for node in ids], CLUSTER_NAME)
        self._home: dict[str, str] = {}
        self._fresh: dict[str, Iterator[str]] = {}
        names: dict[str, list[str]] = {node: [] for node in ids}
        for number in range(USERS_COUNT):
            mailbox = f"user{number:04}"
            home = owners[bucket_of(MailboxKey(f"{mailbox}@{DOMAIN}"), CLUSTER_NAME)]
            self._home[mailbox] = home
            names[home].append(mailbox)
        self._fresh = {node: iter(found) for node, found in names.items()}
        users = [{"address": f"{mailbox}@{DOMAIN}", "mailbox": mailbox} for mailbox in self._home]
        users.append({"address": f"postmaster@{DOMAIN}", "mailbox": "postmaster"})
        self.server = MailfrontServer(tables, directory or users, settings=IMPATIENT, name=name)
        self.server.change(settings or {})
        self.proxies: dict[str, HoldingProxy] = {}
        self._sees_own_disk = False

    @classmethod
    @contextmanager
    def of_dovecots(
        cls,
        count: int = 3,
        *,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        with_proxies: bool = True,
        disk_bytes: int | None = None,
    ) -> Iterator["FaultCluster"]:
        """Real nodes store1, store2, ..., started, with the front end in front of them. With `disk_bytes`, its state is
        on a disk of its own of that size."""
        nodes = [DovecotNode(f"store{number}") for number in range(1, count + 1)]
        proxies = {node.id: HoldingProxy(node.lmtp) for node in nodes} if with_proxies else {}
        tables = [
            {
                "id": node.id,
                "host": node.host,
                "lmtp": proxies[node.id].port if proxies else node.lmtp,
                "imap": node.imap,
            }
            for node in nodes
        ]
        cluster = cls(nodes, tables, settings=settings)
        cluster.proxies = proxies
        if disk_bytes is not None:
            cluster._use_small_disk(disk_bytes)
        try:
            start_together(nodes)
            for proxy in proxies.values():
                proxy.start()
            cluster.server.start()
            yield cluster
        finally:
            cluster.server.kill9_all()
            for proxy in proxies.values():
                proxy.stop()
            for node in nodes:
                node.kill9()

    @classmethod
    @contextmanager
    def of_peers(
        cls, peers: Mapping[str, ScriptedLmtpPeer], *, settings: Mapping[str, Mapping[str, object]] | None = None
    ) -> Iterator["FaultCluster"]:
        """Scripted nodes without IMAP, started, with the front end in front of them."""
        no_imap = free_port()
        tables = [
            {"id": node, "host": peer.host, "lmtp": peer.port, "imap": no_imap, "lmtp_connections": 8}
            for node, peer in peers.items()
        ]
        cluster = cls([PeerAsNode(node, peer) for node, peer in peers.items()], tables, settings=settings)
        try:
            for peer in peers.values():
                peer.start()
            cluster.server.start()
            yield cluster
        finally:
            cluster.server.kill9_all()
            for peer in peers.values():
                peer.stop()

    def _use_small_disk(self, size_bytes: int) -> None:
        """Start the server in a mount namespace of its own, which ends with it."""
        mount = 'mount -t tmpfs -o "size=$0" tmpfs "$1" && shift && exec "$@"'
        as_root = [] if os.getuid() == 0 else ["-r"]
        command = ["unshare", "-m", *as_root, "sh", "-c", mount, str(size_bytes), str(self.server.state_dir)]
        self.server.process.command = [*command, *self.server.process.command]
        self._sees_own_disk = True

    @property
    def state_dir(self) -> Path:
        """The server's state directory as it sees it itself."""
        if not self._sees_own_disk:
            return self.server.state_dir
        return Path(f"/proc/{self.server.process.pid}/root{self.server.state_dir}")

    def dovecot(self, node: str) -> DovecotNode:
        """A real node by its id."""
        found = self.nodes[node]
        assert isinstance(found, DovecotNode)
        return found

    def hold(self, node: str, step: Step, mailbox: str | None = None) -> Hold:
        """Stop the next message for a mailbox (None: any) at this node, at this step."""
        return self.proxies[node].hold(step, mailbox)

    def fresh_mailbox(self, node: str) -> str:
        """A mailbox at this node that no test has used."""
        return next(self._fresh[node])

    def home_of(self, mailbox: str) -> str:
        """The node of a mailbox by the first assignment of an empty database."""
        return self._home[mailbox]

    def case(self) -> "Case":
        """Begin a case: from now on events count for it."""
        return Case(self)

    # What the database says

    def queue_rows(self) -> list[QueueRow]:
        """All rows of the queue, with their message's token."""
        query = (
            "SELECT r.message_id, r.node_user, r.state, r.node, r.last_reply, r.attempts, c.data FROM recipient r "
            "LEFT JOIN body_chunk c ON c.message_id = r.message_id AND c.number = 0"
        )
        return [
            QueueRow(id_, user, state, node, None if data is None else token_of(data), said, attempts)
            for id_, user, state, node, said, attempts, data in self._select(query)
        ]

    def handoff_rows(self) -> list[HandoffRow]:
        """All hint rows, tombstones included."""
        return [
            HandoffRow(*row) for row in self._select("SELECT message_id, holder, home, node_user, state FROM handoff")
        ]

    def _select(self, query: str) -> list[tuple[Any, ...]]:
        if self._sees_own_disk:
            return self._select_inside(query)
        connection = sqlite3.connect(f"file:{self.server.state_dir}/state.db?mode=ro", uri=True, timeout=5.0)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def _select_inside(self, query: str) -> list[tuple[Any, ...]]:
        """The same from inside the server's mount namespace: SQLite resolves every link of a path by itself."""
        enter = ["nsenter", "-m", *([] if os.getuid() == 0 else ["-U", "--preserve-credentials"])]
        command = [*enter, "-t", str(self.server.process.pid), sys.executable, "-c", _READER]
        done = subprocess.run(
            [*command, f"file:{self.server.state_dir}/state.db?mode=ro", query], capture_output=True, timeout=20
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        rows: list[tuple[Any, ...]] = pickle.loads(done.stdout)
        return rows

    # Waiting

    def wait_until_well(self, timeout_s: float = 60.0) -> None:
        """Wait until every worker reaches every node and the keeper: until several letters to all nodes in a row were
        delivered, none of their recipients refused."""
        in_a_row = 0

        def is_well() -> bool:
            nonlocal in_a_row
            letter = Letter([self.fresh_mailbox(node) for node in self.nodes])
            result = send(self.server.smtp, letter)
            in_a_row = in_a_row + 1 if result.text.endswith("delivered") and not result.refused else 0
            return in_a_row >= 6

        wait_until(is_well, timeout_s, "everything well", 0.05)


class Case:
    """One fault, its letters, and what became of them."""

    def __init__(self, cluster: FaultCluster) -> None:
        self.cluster = cluster
        self.letters: list[Letter] = []
        self._seen_count = len(cluster.server.events())

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The log lines since the case began: all, or the events of this name."""
        lines = self.cluster.server.events()[self._seen_count :]
        return [line for line in lines if not name or line.get("event") == name]

    def answers(self) -> list[dict[str, Any]]:
        """The `message` events of this case's letters: lines are written late, so others may be among `events`."""
        ours = {f"{mailbox}@{DOMAIN}" for letter in self.letters for mailbox in letter.mailboxes}
        return [event for event in self.events("message") if ours & {to["address"] for to in event["recipients"]}]

    def resolved(self, letter: Letter) -> list[str]:
        """How the search for a letter's unknown rows ended, each time."""
        mailboxes = [f"{mailbox}@{DOMAIN}" for mailbox in letter.mailboxes]
        return [event["outcome"] for event in self.events("queue_resolved") if event["recipient"] in mailboxes]

    def letter(self, *homes: str, size_bytes: int = 0) -> Letter:
        """A new letter to one fresh mailbox at each of these nodes."""
        letter = Letter([self.cluster.fresh_mailbox(home) for home in homes], size_bytes)
        self.letters.append(letter)
        return letter

    def letter_to(self, *mailboxes: str, size_bytes: int = 0) -> Letter:
        """A new letter to these mailboxes."""
        letter = Letter(mailboxes, size_bytes)
        self.letters.append(letter)
        return letter

    def post(self, letter: Letter, *, retries: bool = True) -> Posting:
        """Send it from a client that tries until it is answered."""
        return Posting(self.cluster.server.smtp, letter, retries=retries)

    def send(self, letter: Letter) -> str:
        """Send it once and wait. Returns the reply, "250 2.0.0 ..." for example; "" if there was none."""
        result = send(self.cluster.server.smtp, letter)
        return f"{result.code} {result.text}" if result.code else ""

    def rows(self) -> list[QueueRow]:
        """Queue rows of this case's letters."""
        tokens = {letter.token for letter in self.letters}
        return [row for row in self.cluster.queue_rows() if row.token in tokens]

    def wait_for_row(self, condition: Callable[[QueueRow], bool], what: str, timeout_s: float = 60.0) -> QueueRow:
        """Wait until a queue row of this case is like that."""
        return self.wait_until(lambda: list(filter(condition, self.rows())), what, timeout_s)[0]

    def wait_for_hold(self, holds: Sequence[Hold], timeout_s: float = 60.0) -> Hold:
        """Wait until one of the holds is reached, and return it."""
        return self.wait_until(lambda: next((hold for hold in holds if hold.reached), None), "a hold", timeout_s)

    def wait_until(self, condition: Callable[[], T | None], what: str, timeout_s: float = 60.0) -> T:
        """Wait for a condition; what the database says is part of the error."""
        try:
            found = wait_until(condition, timeout_s, what, 0.05)
        except TimeoutError as error:
            raise AssertionError(f"{error}; queue {self.rows()}, hints {self.hints()}") from None
        assert found is not None
        return found

    def alarms(self) -> list[dict[str, Any]]:
        """The alarms that are active now."""
        alarms: list[dict[str, Any]] = self.cluster.server.cli_json("health")["alarms"]
        return alarms

    def hints(self) -> list[HandoffRow]:
        """Hint rows of this case's mailboxes."""
        mailboxes = {mailbox for letter in self.letters for mailbox in letter.mailboxes}
        return [row for row in self.cluster.handoff_rows() if row.mailbox in mailboxes]

    def settle(self, timeout_s: float = 40.0, *, handed_off: bool = True) -> None:
        """Wait until nothing of this case is queued, and (with `handed_off`) nothing is away from home."""

        def settled() -> bool:
            if self.rows():
                return False
            waiting = [row for row in self.hints() if row.state in ("stored", "draining", "done", "held")]
            return not (handed_off and waiting)

        self.wait_until(settled, "everything at home", timeout_s)

    def copies(self, letter: Letter) -> dict[str, int]:
        """Mailbox -> copies of this letter, over all nodes."""
        found = dict.fromkeys(letter.mailboxes, 0)
        for node in self.cluster.nodes.values():
            for mailbox, messages in node.all_messages().items():
                if mailbox in found:
                    found[mailbox] += sum(token_of(message) == letter.token for message in messages)
        return found

    def away(self) -> list[str]:
        """Tokens of this case's letters that lie in a handoff mailbox."""
        tokens = {letter.token for letter in self.letters}
        found = [token_of(copy) for node in self.cluster.nodes.values() for copy in node.handoff_messages()]
        return [token for token in found if token is not None and token in tokens]

    def check(self, title: str = "") -> LedgerReport:
        """Assert the invariant over all letters of the case, and print the counts."""
        ledger = Ledger()
        for letter in self.letters:
            letter.enter(ledger)
        tokens = {letter.token for letter in self.letters}
        for node in self.cluster.nodes.values():
            for mailbox, messages in node.all_messages().items():
                for message in messages:
                    if (token := token_of(message)) in tokens:
                        assert token is not None
                        ledger.found_in_mailbox(token, mailbox, node.id, id_of(message) or "")
            for message in node.handoff_messages():
                if (token := token_of(message)) in tokens:
                    assert token is not None
                    for mailbox in self._handed_to(message):
                        ledger.found_handed_off(token, mailbox)
        for row in self.rows():
            assert row.token is not None
            ledger.found_queued(row.token, row.mailbox)
        for event in self.events():
            if is_unknown(event):
                ledger.outcome_unknown(event["id"])
        report = ledger.check(home=self.cluster.home_of)
        print(f"{title or 'ledger'}: {report}")
        report.assert_kept()
        return report

    def _handed_to(self, message: bytes) -> list[str]:
        """The mailboxes that a copy is for, from its verified block."""
        secret = read_secret_file(self.cluster.server.directory / "hmac.secret")
        crlf = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        envelope, _, _ = open_block(crlf, secret)
        return [str(recipient.node_user) for recipient in envelope.recipients]


def is_unknown(event: Mapping[str, Any]) -> bool:
    """Whether this event records that the outcome of an attempt is not known."""
    name = event.get("event")
    return (
        name == "queue_resolved"
        or (name == "delivery" and any(to["outcome"] == "unknown" for to in event["recipients"]))
        or (name == "drain" and (event.get("step") == "unknown" or bool(event.get("possible_duplicate"))))
    )
