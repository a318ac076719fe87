"""One storage node of the demo as a process of its own, so that it can be killed like one: LMTP in, IMAP out.

    python -m mailfront.demo.node --id store1 --directory DIR --users FILE --lmtp 127.0.0.1:2401 --imap 127.0.0.1:1431

FILE is JSON: user name to password, the handoff account among them. All that was answered with 250 is on the disk:
after SIGKILL and a new start with the same directory it is there again. SIGTERM ends the process at once.
`--lmtp` may be given several times, also as unix:/path; with a certificate those on TCP offer STARTTLS.
"""

import argparse
import asyncio
import json
import logging
import signal
import ssl
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from mailfront.base.errors import ConfigError
from mailfront.demo.maildir import Mailboxes
from mailfront.demo.node_imap import start_imap
from mailfront.demo.node_lmtp import lmtp_factory
from mailfront.net.sockets import TcpAddress, UnixAddress, bind_listener, parse_listen_address


def main() -> int:
    """Run a node until SIGTERM. Returns the exit status: 1 if it cannot listen."""
    options = _options()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_run(options))
    except (ConfigError, OSError) as error:
        print(f"{options.id}: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    users: dict[str, str] = json.loads(options.users.read_text())
    mailboxes = Mailboxes(options.directory, users, node=options.id)
    tls_context = None
    if options.certificate is not None:
        tls_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls_context.load_cert_chain(options.certificate, options.key)
    async with AsyncExitStack() as stack:
        for address in options.lmtp:
            (listening,) = bind_listener(address)
            context = None if isinstance(address, UnixAddress) else tls_context
            factory = lmtp_factory(mailboxes, hostname=options.id, tls_context=context)
            if isinstance(address, UnixAddress):
                server = await loop.create_unix_server(factory, sock=listening)
            else:
                server = await loop.create_server(factory, sock=listening)
            stack.callback(server.close)
        await start_imap(stack, options.directory, users, host=options.imap.host, port=options.imap.port)
        await ended.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mailfront.demo.node", description="A storage node of the demo.")
    parser.add_argument("--id", required=True, help="name of the node")
    parser.add_argument("--directory", required=True, type=Path, help="where its mailboxes are")
    parser.add_argument("--users", required=True, type=Path, help="JSON file: name to password")
    parser.add_argument("--lmtp", required=True, action="append", type=parse_listen_address, metavar="ADDRESS")
    parser.add_argument("--imap", required=True, type=_tcp, metavar="HOST:PORT")
    parser.add_argument("--certificate", type=Path, help="PEM file, for STARTTLS")
    parser.add_argument("--key", type=Path, help="PEM file")
    return parser.parse_args()


def _tcp(text: str) -> TcpAddress:
    address = parse_listen_address(text)
    if not isinstance(address, TcpAddress):
        raise ValueError(text)
    return address


if __name__ == "__main__":
    sys.exit(main())
