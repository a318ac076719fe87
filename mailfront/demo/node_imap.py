"""The IMAP server of a demo node: pymap on the node's Maildirs, with content that comes back byte for byte.

pymap gives a message back as Python's email package writes it, with LF line ends. One method is replaced, so that the
bytes on the disk are what a client sees. Passwords are compared in the clear: hashing costs a tenth of a second per
login, and this is a demo. There is no master user: pymap's Maildir backend cannot let one log in for another.
"""

import argparse
import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pymap.backend.maildir import Config, Login, MaildirBackend
from pymap.backend.maildir import mailbox as pymap_mailbox
from pymap.imap import IMAPService
from pymap.mime import MessageContent
from pymap.parsing.specials import FetchRequirement
from pysasl.hashing import Cleartext

_THREADS = 16
"""pymap works in threads, and each client that waits in IDLE holds one for up to a second."""


async def start_imap(stack: AsyncExitStack, directory: Path, users: Mapping[str, str], *, host: str, port: int) -> None:
    """Serve the Maildirs below `directory` until `stack` is closed. `users`: name to password. Raises OSError."""
    _write_accounts(directory, users)
    pymap_mailbox.Message.load_content = _load_content  # type: ignore[method-assign]
    logging.getLogger("pymap").setLevel(logging.CRITICAL)
    asyncio.get_running_loop().set_exception_handler(_without_lost_clients)
    config = Config.from_args(_arguments(directory, host, port), hash_context=Cleartext())
    config.apply_context()
    await IMAPService(MaildirBackend(Login(config), config), config).start(stack)


def _write_accounts(directory: Path, users: Mapping[str, str]) -> None:
    """pymap reads passwd and shadow files of its own; homes are relative to its directory."""
    passwd = "".join(f"{name}:x:1000:1000::mail/{name}:\n" for name in users)
    shadow = "".join(f"{name}:{password}\n" for name, password in users.items())
    (directory / "pymap-etc-passwd").write_text(passwd)
    (directory / "pymap-etc-shadow").write_text(shadow)


def _arguments(directory: Path, host: str, port: int) -> argparse.Namespace:
    """pymap is configured by its command line only."""
    parser = argparse.ArgumentParser()
    MaildirBackend.add_subparser("maildir", parser.add_subparsers(dest="backend"))
    IMAPService.add_arguments(parser)
    parser.set_defaults(debug=False, passlib_cfg=None, skip_services=[], set_uid=None, set_gid=None)
    ways = ["--host", host, "--port", str(port), "--no-tls"]
    return parser.parse_args([*ways, "maildir", "--concurrency", str(_THREADS), str(directory)])


async def _load_content(self: Any, requirement: Any) -> Any:
    wanted = not requirement.has_none(FetchRequirement.CONTENT)
    content = None
    if wanted and self._key is not None and self._maildir is not None:
        try:
            content = MessageContent.parse(self._maildir.get_bytes(self._key))
        except (KeyError, FileNotFoundError):
            pass  # expunged meanwhile
    return pymap_mailbox.LoadedMessage(self, requirement, content)


def _without_lost_clients(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A client that drops its connection is no fault of this node; pymap lets it out as an error."""
    if not isinstance(context.get("exception"), ConnectionError | EOFError):
        loop.default_exception_handler(context)
