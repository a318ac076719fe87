"""The mailboxes of a demo node: Maildirs on its disk, and how a message gets into them.

    incoming = mailboxes.receive()        a file in the node's own tmp folder
    incoming.write(data) ...              the message as it arrives, byte for byte
    incoming.commit(users)                fsynced, then in each mailbox's new/ at once; one answer per user
    incoming.discard()                    always, at the end

A user is looked up in a fixed table, so nothing that a client says becomes part of a path. `+detail` is cut off: such
mail goes to the inbox. Mail is read by `node_imap`; `stored_messages` is for who counts what the disk holds.
"""

import itertools
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

_FOLDERS = ("tmp", "new", "cur")


class Incoming:
    """One message on its way in. After a failed write it takes no more, and `commit` says so for everybody."""

    def __init__(self, path: Path, homes: "dict[str, Path]") -> None:
        self._path = path
        self._homes = homes
        self._problem = ""
        self._file = path.open("xb", buffering=0)

    def write(self, data: bytes) -> None:
        """Add bytes. A full disk is remembered, not raised: the client must first be listened to."""
        left = memoryview(data)
        while left and not self._problem:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                self._problem = error.strerror or "cannot write"

    def commit(self, users: Sequence[str]) -> list[str]:
        """Put the message into each user's mailbox. Returns '' or what went wrong, one per user. Blocks on the disk."""
        if not self._problem:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._problem = error.strerror or "cannot write"
        return [self._problem or self._link(user, number) for number, user in enumerate(users)]

    def discard(self) -> None:
        """Close, and remove the file from tmp; the mailboxes keep theirs."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _link(self, user: str, number: int) -> str:
        new = self._homes[user] / "new"
        try:
            os.link(self._path, new / f"{self._path.name}R{number}")
            folder = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            return error.strerror or "cannot write"
        return ""


class Mailboxes:
    """The Maildirs below one directory, one per user. One object per node."""

    def __init__(self, directory: Path, users: Iterable[str], *, node: str) -> None:
        """Make what is missing, and remove what a killed node left half done."""
        self._homes = {user: directory / "mail" / user for user in users}
        self._tmp = directory / "tmp"
        self._node = node
        self._numbers = itertools.count()
        self._tmp.mkdir(parents=True, exist_ok=True)
        for home in self._homes.values():
            for folder in _FOLDERS:
                (home / folder).mkdir(parents=True, exist_ok=True)
        for leftover in (*self._tmp.iterdir(), *directory.glob("mail/*/*.lock"), *directory.glob("mail/*/.*/*.lock")):
            leftover.unlink()

    def find(self, path: str) -> str | None:
        """The user that an LMTP path means, without its detail; None if there is no such user."""
        local, at, domain = path.lower().rpartition("@") if "@" in path else (path.lower(), "", "")
        base, _, _ = local.partition("+")
        return next((name for name in (f"{local}{at}{domain}", f"{base}{at}{domain}") if name in self._homes), None)

    def receive(self) -> Incoming:
        """Begin to take a message. Raises OSError."""
        now_us = time.time_ns() // 1000
        name = f"{now_us // 1_000_000}.M{now_us % 1_000_000}P{os.getpid()}Q{next(self._numbers)}.{self._node}"
        return Incoming(self._tmp / name, self._homes)


def stored_messages(mail: Path) -> list[tuple[str, bytes]]:
    """Every message below a node's `mail` folder, as user and bytes, while the node runs.

    A message moves from new/ to cur/ at any moment; then it is looked for again.
    """
    while True:
        before = _listing(mail)
        try:
            found = [(user, path.read_bytes()) for (user, _), path in before.items()]
        except FileNotFoundError:
            continue
        if _listing(mail).keys() == before.keys():
            return found


def _listing(mail: Path) -> dict[tuple[str, str], Path]:
    """User and file name without flags, which stay the same when a message moves."""
    return {
        (path.parent.parent.name, path.name.partition(":")[0]): path
        for folder in ("new", "cur", "new")  # new twice: nothing slips through in between
        for path in mail.glob(f"*/{folder}/*")
    }
