"""A mailbox of 10,000 messages, fetched by mbsync through mailfront and straight from its node: the same bytes."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.support.certificates import Authority, CertificateFiles
from tests.support.dovecot import DovecotNode
from tests.support.processes import new_directory, wait_until
from tests.support.session_client import Clients
from tests.support.session_cluster import PASSWORD, SessionCluster

pytestmark = pytest.mark.serial

MESSAGES_COUNT = 10_000
LIMIT_S = 300.0


@pytest.fixture(scope="module")
def cluster(three_nodes: tuple[DovecotNode, ...], server_certificate: CertificateFiles) -> Iterator[SessionCluster]:
    """A front end before three nodes."""
    made = SessionCluster(three_nodes, server_certificate, name="mbsync")
    made.start()
    yield made
    made.server.stop()


def messages() -> Iterator[bytes]:
    """Messages of all sizes up to 100 KB, with long lines, dots, NUL-free bytes above 127, and what looks like IMAP."""
    random = Random(4)
    strange = b"* BYE\n.\n..\na OK done\n)\n{5}\n\xc3\xa4\xff\n" + b"l" * 3000 + b"\n"
    for number in range(MESSAGES_COUNT):
        size = 100_000 if number % 500 == 0 else random.randrange(20, 1200)
        yield b"Message-ID: <%d@test>\nSubject: %d\n\n%b%b\n" % (
            number,
            number,
            strange if number % 7 == 0 else b"",
            b"%d " % number * (size // 5),
        )


def fill(node: DovecotNode, user: str) -> None:
    """Put the messages into a mailbox that exists, as deliveries do."""
    maildir = node.mailbox_dirs()[user]
    stat = maildir.stat()
    for number, message in enumerate(messages()):
        path = maildir / "cur" / f"{1_700_000_000 + number}.M{number}P1.test:2,{'S' if number % 3 else ''}"
        path.write_bytes(message)
        path.chmod(0o666)
    subprocess.run(["chown", "-R", f"{stat.st_uid}:{stat.st_gid}", str(maildir)], check=True)


def mbsync(user: str, port: int, ca: Path, name: str) -> Path:
    """Fetch the inbox into a new Maildir, and return it."""
    folder = new_directory(name)
    (folder / "mail").mkdir()
    (folder / "mbsyncrc").write_text(
        "FSync no\n\n"
        f"IMAPStore far\nHost localhost\nPort {port}\nUser {user}\nPass {PASSWORD}\nAuthMechs PLAIN\nSSLType STARTTLS\n"
        f"SystemCertificates no\nCertificateFile {ca}\n\nMaildirStore near\nInbox {folder}/mail/inbox\n\n"
        f"Channel all\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Near\nSync Pull\nSyncState {folder}/state-\n"
        "CopyArrivalDate no\n"
    )
    done = subprocess.run(
        ["mbsync", "-q", "-c", str(folder / "mbsyncrc"), "all"], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    return folder / "mail" / "inbox"


def by_uid(maildir: Path) -> dict[int, tuple[str, bytes]]:
    """UID -> flags and content, of a Maildir that mbsync wrote."""
    found = {}
    for part in ("new", "cur"):
        for path in (maildir / part).iterdir():
            match = re.search(r",U=(\d+)(?::2,([A-Z]*))?$", path.name)
            assert match is not None, path.name
            # mbsync puts a line of its own into what it stores, each time another one.
            content = re.sub(rb"^X-TUID: .{12}\n", b"", path.read_bytes(), count=1, flags=re.MULTILINE)
            found[int(match[1])] = (match[2] or "", content)
    return found


def test_ten_thousand_messages_are_the_same_bytes_through_mailfront(
    cluster: SessionCluster, authority: Authority
) -> None:
    """UIDs, flags and every byte of every message, as without mailfront; and they are those that were put there."""
    user = cluster.at("store2")
    node = cluster.nodes["store2"]
    assert isinstance(node, DovecotNode)
    with Clients(cluster) as clients:
        first = clients.log_in("imap", user)
        assert first.ask("a SELECT INBOX").startswith("a OK")
    fill(node, user)
    _, proxied_port = cluster.endpoint("imap")
    with ThreadPoolExecutor(2) as pool:
        straight = pool.submit(mbsync, user, node.imap, authority.ca_file, "straight")
        proxied = pool.submit(mbsync, user, proxied_port, authority.ca_file, "proxied")
        through, without = by_uid(proxied.result()), by_uid(straight.result())
    assert len(through) == MESSAGES_COUNT
    assert through == without
    assert {content for _, content in through.values()} == set(messages())
    line = wait_until(
        lambda: [each for each in cluster.server.events("session") if each.get("login") == user][1:], 60.0, "its line"
    )[0]
    assert line["end"] == "logout"
    assert line["from_node_bytes"] > sum(len(content) for _, content in through.values())
