"""Mailboxes of a demo node on the disk."""

from pathlib import Path

import pytest

from mailfront.demo.maildir import Mailboxes, stored_messages

USERS = ("ana", "handoff@example.edu")


@pytest.fixture
def mailboxes(tmp_path: Path) -> Mailboxes:
    return Mailboxes(tmp_path, USERS, node="store1")


@pytest.mark.parametrize(
    ("path", "user"),
    [
        ("ana", "ana"),
        ("ANA+lists+more", "ana"),
        ("handoff@example.edu", "handoff@example.edu"),
        ("Handoff+x@Example.EDU", "handoff@example.edu"),
        ("ana@example.edu", None),
        ("ana/../ana", None),
        ("..", None),
        ("+", None),
        ("@", None),
        ("", None),
    ],
)
def test_who_a_path_means(mailboxes: Mailboxes, path: str, user: str | None) -> None:
    """A name in any case, with or without a detail, means its user; everything else means nobody."""
    assert mailboxes.find(path) == user


def test_a_message_appears_at_once_and_whole(mailboxes: Mailboxes, tmp_path: Path) -> None:
    """Nothing is in a mailbox before the commit; afterwards each has the bytes, and tmp is empty."""
    incoming = mailboxes.receive()
    incoming.write(b"one\r\n")
    incoming.write(b"two\r\n")
    assert stored_messages(tmp_path / "mail") == []
    assert incoming.commit(["ana", "handoff@example.edu", "ana"]) == ["", "", ""]
    incoming.discard()
    assert sorted(stored_messages(tmp_path / "mail")) == [
        ("ana", b"one\r\ntwo\r\n"),
        ("ana", b"one\r\ntwo\r\n"),
        ("handoff@example.edu", b"one\r\ntwo\r\n"),
    ]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_write_that_fails_is_said_to_everybody(mailboxes: Mailboxes, tmp_path: Path) -> None:
    """On a full disk the rest of the message is swallowed, and no mailbox gets a part of it."""
    incoming = mailboxes.receive()
    incoming.write(b"one\r\n")
    own = incoming._file
    with Path("/dev/full").open("wb", buffering=0) as full:
        incoming._file = full
        incoming.write(b"two\r\n")
        incoming.write(b"three\r\n")
        assert incoming.commit(["ana", "ana"]) == ["No space left on device"] * 2
    own.close()
    incoming.discard()
    assert stored_messages(tmp_path / "mail") == []


def test_a_start_after_a_kill_clears_up(mailboxes: Mailboxes, tmp_path: Path) -> None:
    """Half a message and a stale lock go; a stored message stays, also when it was read."""
    kept = mailboxes.receive()
    kept.write(b"kept\r\n")
    kept.commit(["ana"])
    kept.discard()
    (stored,) = (tmp_path / "mail" / "ana" / "new").iterdir()
    stored.rename(tmp_path / "mail" / "ana" / "cur" / f"{stored.name}:2,S")
    half = mailboxes.receive()
    half.write(b"half")
    half._file.close()
    (tmp_path / "mail" / "ana" / "dovecot-uidlist.lock").touch()
    Mailboxes(tmp_path, USERS, node="store1")
    assert stored_messages(tmp_path / "mail") == [("ana", b"kept\r\n")]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "mail" / "ana" / "dovecot-uidlist.lock").exists()
