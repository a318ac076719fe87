"""Messages straight from a node's disk, without asking the node."""

from pathlib import Path


def maildir_messages(maildir: Path) -> list[bytes]:
    """Return the messages of one Maildir folder (new and cur), oldest first.

    A server renames a message from new/ to cur/ at any moment. So a name that
    vanished is looked for again: the folder is listed until two listings name
    the same messages and all of them could be read.
    """
    while True:
        before = _listing(maildir)
        messages: list[tuple[str, bytes]] = []
        try:
            for key, path in before.items():
                messages.append((key, path.read_bytes()))
        except FileNotFoundError:
            continue
        if _listing(maildir).keys() == before.keys():
            return [data for _, data in sorted(messages)]


def maildir_folders(maildir: Path) -> dict[str, Path]:
    """Return the folders of a Maildir++ by name; the inbox is "INBOX"."""
    folders = {"INBOX": maildir} if maildir.is_dir() else {}
    if maildir.is_dir():
        for entry in sorted(maildir.iterdir()):
            if entry.name.startswith(".") and (entry / "cur").is_dir():
                folders[entry.name[1:].replace(".", "/")] = entry
    return folders


def _listing(maildir: Path) -> dict[str, Path]:
    """File names without flags, which stay the same when a message moves from new/ to cur/."""
    found: dict[str, Path] = {}
    for part in ("new", "cur", "new"):  # new twice: nothing slips through between the two
        folder = maildir / part
        if folder.is_dir():
            for entry in folder.iterdir():
                found[entry.name.partition(":")[0]] = entry
    return found
