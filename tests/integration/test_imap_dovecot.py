"""IMAP sessions with a real Dovecot that runs the files of deploy/dovecot/."""

import os
import smtplib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailfront.base.secret import Secret
from mailfront.transfer.imap import ImapFailed, ImapRefused, ImapSession
from mailfront.transfer.imap_wire import ImapEndpoint
from tests.support.certificates import Authority
from tests.support.dovecot import HANDOFF_PASSWORD, HANDOFF_USER, MASTER_PASSWORD, MASTER_USER, DovecotNode

LARGE = b"Subject: large\r\nMailfront-Id: large00000000000\r\n\r\n" + b"0123456789abcdef\r\n" * 60_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Iterator[DovecotNode]:
    server = DovecotNode("imapnode", tls=authority.issue())
    server.start()
    yield server
    server.stop()


def deliver(node: DovecotNode, user: str, data: bytes) -> None:
    with smtplib.LMTP(node.host, node.lmtp) as lmtp:
        lmtp.sendmail("", [user], data)


@pytest.fixture(params=["off", "starttls", "implicit"])
def endpoint(request: pytest.FixtureRequest, node: DovecotNode) -> ImapEndpoint:
    port = node.imap_tls if request.param == "implicit" else node.imap
    return ImapEndpoint(host=node.host, port=port, tls=request.param)


class Kept:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def __call__(self, piece: bytes) -> None:
        self.pieces.append(piece)

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


async def test_drain_of_a_handoff_mailbox(node: DovecotNode, authority: Authority, endpoint: ImapEndpoint) -> None:
    """Find a copy by its header, fetch it byte for byte, delete it and nothing else, over every kind of connection."""
    for number in range(3):
        deliver(node, HANDOFF_USER, b"Mailfront-Handoff: v1 id=copy%d\r\n\r\nbody %d\r\n" % (number, number))
    session = await ImapSession.connect(endpoint, authority.client_context(), timeout_s=10)
    await session.login(HANDOFF_USER, Secret(HANDOFF_PASSWORD.encode()))
    (uid,) = await session.search_header("INBOX", "Mailfront-Handoff", "copy1")
    kept = Kept()
    assert await session.fetch("INBOX", uid, kept, limit_bytes=10_000) == len(kept.data)
    assert kept.data.endswith(b"Mailfront-Handoff: v1 id=copy1\r\n\r\nbody 1\r\n")
    await session.delete("INBOX", [uid])
    await session.delete("INBOX", [uid])
    assert await session.fetch("INBOX", uid, Kept(), limit_bytes=10_000) is None
    rest = await session.search_all("INBOX")
    assert len(rest) == 2
    await session.delete("INBOX", rest)
    assert await session.search_all("INBOX") == []
    await session.close()
    assert node.handoff_messages() == []


async def test_search_as_master(node: DovecotNode, authority: Authority, endpoint: ImapEndpoint) -> None:
    """The master user looks into a user's mailbox, and the message stays unread."""
    user = f"ana-{endpoint.tls}"
    deliver(node, user, b"Subject: hi\r\nMailfront-Id: 0j3xabcdefgh1234\r\n\r\nhello\r\n")
    session = await ImapSession.connect(endpoint, authority.client_context(), timeout_s=10)
    await session.login_as(MASTER_USER, Secret(MASTER_PASSWORD.encode()), user)
    assert len(await session.search_header("INBOX", "Mailfront-Id", "0j3xabcdefgh1234")) == 1
    assert await session.search_header("INBOX", "Mailfront-Id", "0j3xabcdefgh9999") == []
    with pytest.raises(ImapRefused, match="doesn't exist"):
        await session.search_header("No such folder", "Mailfront-Id", "x")
    (uid,) = await session.search_all("INBOX")
    await session.fetch("INBOX", uid, Kept(), limit_bytes=10_000)
    await session.close()
    files = [path.name for path in node.mailbox_dirs()[user].glob("*/*:2,*")]
    assert not any("S" in name.rpartition(":2,")[2] for name in files), files


async def test_all_folders_can_be_searched(node: DovecotNode) -> None:
    """A message that was filed, and even marked as deleted, is found; not if it is wanted from a later day."""
    deliver(node, "filer", b"Mailfront-Id: 0j3xabcdefgh5678\r\n\r\nhello\r\n")
    inbox = node.mailbox_dirs()["filer"]
    owner = inbox.stat()
    for name in (".Lists", ".Lists/cur", ".Lists/new", ".Lists/tmp"):
        (inbox / name).mkdir()
        os.chown(inbox / name, owner.st_uid, owner.st_gid)
    (message,) = (inbox / "new").iterdir()
    message.rename(inbox / ".Lists" / "cur" / f"{message.name}:2,T")
    session = await ImapSession.connect(ImapEndpoint(host=node.host, port=node.imap), timeout_s=10)
    await session.login_as(MASTER_USER, Secret(MASTER_PASSWORD.encode()), "filer")
    assert await session.folders() == ["INBOX", "Lists"]
    today = datetime.now(tz=UTC).date()
    found = {
        days: len(
            await session.search_header("Lists", "Mailfront-Id", "0j3xabcdefgh5678", since=today + timedelta(days=days))
        )
        for days in (-1, 2)
    }
    assert found == {-1: 1, 2: 0}
    await session.close()


async def test_large_message(node: DovecotNode) -> None:
    """A megabyte comes in pieces, whole; a limit below its size ends the session; the head alone can be had."""
    deliver(node, "large", LARGE)
    endpoint = ImapEndpoint(host=node.host, port=node.imap)
    session = await ImapSession.connect(endpoint, timeout_s=10)
    await session.login_as(MASTER_USER, Secret(MASTER_PASSWORD.encode()), "large")
    (uid,) = await session.search_all("INBOX")
    kept, head = Kept(), Kept()
    await session.fetch("INBOX", uid, kept, limit_bytes=2 * len(LARGE))
    assert kept.data.endswith(LARGE)
    assert len(kept.pieces) > 1
    assert await session.fetch("INBOX", uid, head, limit_bytes=4096, head_bytes=4096) == 4096
    assert kept.data.startswith(head.data)
    with pytest.raises(ImapFailed, match="at most 1000 are taken"):
        await session.fetch("INBOX", uid, Kept(), limit_bytes=1000)
    await session.close()


async def test_wrong_passwords(node: DovecotNode) -> None:
    """A wrong password is ImapRefused with the code that says so, for the account and for the master user."""
    endpoint = ImapEndpoint(host=node.host, port=node.imap)
    session = await ImapSession.connect(endpoint, timeout_s=20)
    with pytest.raises(ImapRefused) as caught:
        await session.login(HANDOFF_USER, Secret(b"wrong"))
    assert caught.value.code == "AUTHENTICATIONFAILED"
    with pytest.raises(ImapRefused) as caught:
        await session.login_as(MASTER_USER, Secret(b"wrong"), "ana")
    assert caught.value.code == "AUTHENTICATIONFAILED"
    await session.close()


async def test_strange_passwords_are_only_data(node: DovecotNode) -> None:
    """Line ends, quotes and UTF-8 in a password are sent as data: the answer is a refusal, not a protocol error."""
    endpoint = ImapEndpoint(host=node.host, port=node.imap)
    for password in ('"', "\\", "a\r\nm9 LOGOUT", "ünï", " ", "{5}", "{5}\r\nabcde"):
        session = await ImapSession.connect(endpoint, timeout_s=20)
        with pytest.raises(ImapRefused) as caught:
            await session.login(HANDOFF_USER, Secret(password.encode()))
        assert caught.value.code == "AUTHENTICATIONFAILED"
        await session.close()


async def test_certificate_name(node: DovecotNode, authority: Authority) -> None:
    """A certificate for another name is refused; `server_name` says which name is wanted."""
    context = authority.client_context()
    wrong = ImapEndpoint(host=node.host, port=node.imap, tls="starttls", server_name="store9.example.edu")
    with pytest.raises(ImapFailed, match="certificate is not accepted"):
        await ImapSession.connect(wrong, context, timeout_s=10)
    right = ImapEndpoint(host=node.host, port=node.imap, tls="starttls", server_name="localhost")
    session = await ImapSession.connect(right, context, timeout_s=10)
    await session.close()


def test_fixture_files_are_where_they_should_be(node: DovecotNode) -> None:
    """The tests above ran with the deployed files, not with copies."""
    assert "deploy/dovecot/90-mailfront.conf" in (Path(node.directory) / "dovecot.conf").read_text()
