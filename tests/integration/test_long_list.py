"""A list of 5,000 over a real OpenLDAP and the real queue: one body, 5,000 rows, flat memory, one copy each."""

import smtplib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ldap import BIND_DN, BIND_PASSWORD, PEOPLE, Slapd, ordinary_people
from tests.support.lmtp_peer import ScriptedLmtpPeer
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.processes import wait_until

MEMBERS_COUNT = 5000
GROWTH_KIB = 64 * 1024
"""Most that a process may grow by: less than 14 KiB per member, whatever the message's size."""
BODY_BYTES = 200_000


@pytest.fixture(scope="module")
def peers() -> Iterator[tuple[ScriptedLmtpPeer, ScriptedLmtpPeer]]:
    """Two nodes, down for now."""
    made = ScriptedLmtpPeer(), ScriptedLmtpPeer()
    yield made
    for peer in made:
        peer.stop()


@pytest.fixture(scope="module")
def front(peers: tuple[ScriptedLmtpPeer, ScriptedLmtpPeer]) -> Iterator[MailfrontServer]:
    slapd = Slapd(people=ordinary_people(MEMBERS_COUNT))
    slapd.start()
    members = [f"member: cn=person-{number:05},{PEOPLE}" for number in range(1, MEMBERS_COUNT + 1)]
    slapd.add_list("everybody", *members, "mgrpErrorsTo: user0007@example.edu")
    password = slapd.directory / "mailfront.secret"
    password.write_text(BIND_PASSWORD)
    nodes = [
        {"id": f"store{number}", "host": peer.host, "lmtp": peer.port, "imap": free_port()}
        for number, peer in enumerate(peers, start=1)
    ]
    server = MailfrontServer(
        nodes,
        {
            "kind": "ldap",
            "urls": [slapd.url],
            "base": PEOPLE,
            "bind_dn": BIND_DN,
            "password_file": password,
        },
        settings={
            "server": {"workers": 1},
            "storage": {"secondaries": 0},
            "queue": {"retry": ["1s"]},
        },
    )
    server.start()
    yield server
    server.stop()
    slapd.kill9()


def _rss_kib(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


def _counts(server: MailfrontServer) -> tuple[int, int, int]:
    """Messages, bytes of bodies, recipients in the database."""
    connection = sqlite3.connect(f"file:{server.state_dir}/state.db?mode=ro", uri=True, timeout=20.0)
    try:
        messages = connection.execute("SELECT count(*) FROM message WHERE state = 'queued'").fetchone()[0]
        size_bytes = connection.execute("SELECT coalesce(sum(length(data)), 0) FROM body_chunk").fetchone()[0]
        rows = connection.execute("SELECT count(*) FROM recipient").fetchone()[0]
    finally:
        connection.close()
    return messages, size_bytes, rows


def test_one_body_many_rows_flat_memory_one_copy_each(
    front: MailfrontServer, peers: tuple[ScriptedLmtpPeer, ScriptedLmtpPeer]
) -> None:
    """Accepted while both nodes are down, delivered when they are up: everybody once, in the owner's name."""
    pids = [front.keeper_pid(), *front.workers()]
    before = {pid: _rss_kib(pid) for pid in pids}
    message = b"Subject: to everybody\r\n\r\n" + b"x" * 78 + b"\r\n"
    message += (b"y" * 78 + b"\r\n") * (BODY_BYTES // 80)
    with smtplib.SMTP(*front.smtp, timeout=120) as client:
        client.sendmail("dean@example.org", ["everybody@example.edu"], message)
    messages, size_bytes, rows = _counts(front)
    assert (messages, rows) == (1, MEMBERS_COUNT)
    assert BODY_BYTES < size_bytes < BODY_BYTES + 10_000
    for peer in peers:
        peer.start()
    wait_until(lambda: _counts(front)[2] == 0, 120.0, "an empty queue", 0.5)
    received = [transaction for peer in peers for transaction in peer.transactions if transaction.body]
    copies = Counter(user for transaction in received for user in transaction.accepted)
    assert copies == Counter(f"user{number:04}" for number in range(MEMBERS_COUNT))
    assert {transaction.mail for transaction in received} == {"MAIL FROM:<user0007@example.edu>"}
    growth = {pid: _rss_kib(pid) - before[pid] for pid in pids}
    print("growth in KiB (keeper, worker):", list(growth.values()), "transactions:", len(received))
    assert max(growth.values()) < GROWTH_KIB
