"""`config check`: try everything that a configuration describes, and say what was found.

The file must have been loaded; its mistakes are `load`'s. Works whether or not the server runs: addresses that the
running server listens on are no failure. Nothing is changed and no mail is sent. Takes as long as the slowest
directory server or node, some 30 seconds at most.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from mailfront.admin.client import AdminClient
from mailfront.admin.errors import AdminError, NotRunning
from mailfront.base.clock import SystemClock
from mailfront.base.errors import ConfigError
from mailfront.config.check_filters import check_filters
from mailfront.config.check_local import check_account, check_files, check_folders, check_listeners
from mailfront.config.check_nodes import check_nodes
from mailfront.config.check_outbound import check_outbound
from mailfront.config.check_sessions import check_sessions
from mailfront.config.findings import Finding, failed, ok, warning
from mailfront.config.load import parse
from mailfront.config.model import Configuration
from mailfront.directory.answers import CannotSay, Found, NoSuch
from mailfront.directory.directory import Directory
from mailfront.mail.address import parse_path


def check(configuration: Configuration, *, step: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Try everything. `step` is told what is being tried. Blocks; not for use inside an event loop."""
    findings: list[Finding] = []
    step("this machine")
    findings += check_account(configuration)
    findings += check_folders(configuration)
    findings += check_files(configuration)
    step("the listeners")
    findings += check_listeners(configuration, addresses_in_use(configuration))
    step("the directory, the nodes, the scanners and the servers for other mail")
    findings += asyncio.run(_check_outside(configuration))
    return findings


def addresses_in_use(configuration: Configuration) -> frozenset[str]:
    """What the running server listens on; empty if none runs. One that runs and does not tell us is taken to listen on
    all that is configured."""
    try:
        with AdminClient(configuration.server.admin_socket) as client:
            running = client.call("config.show")
            configuration = parse(running["text"], Path(running["path"]))
    except NotRunning:
        return frozenset()
    except (AdminError, ConfigError):
        pass
    return frozenset(listener.address for listener in configuration.listen)


async def _check_outside(configuration: Configuration) -> list[Finding]:
    directory, nodes, sessions, others, filters = await asyncio.gather(
        _check_directory(configuration),
        check_nodes(configuration),
        check_sessions(configuration),
        check_outbound(configuration),
        check_filters(configuration),
    )
    return [*directory, *nodes, *sessions, *others, *filters]


async def _check_directory(configuration: Configuration) -> list[Finding]:
    try:
        directory = Directory(configuration.directory, state_dir=configuration.server.state_dir, clock=SystemClock())
    except ConfigError as error:
        return [failed("directory", problem) for problem in error.problems]
    try:
        problems = await directory.reachable()
        if problems:
            return [failed("directory", problem) for problem in problems]
        return [ok("directory", "answers"), await _check_postmaster(configuration, directory)]
    finally:
        await directory.close()


async def _check_postmaster(configuration: Configuration, directory: Directory) -> Finding:
    where, address = "postmaster.address", parse_path(configuration.postmaster.address)
    assert address is not None
    match await directory.recipient(address):
        case Found(record) if record.group is not None and not record.group.posters.is_everybody:
            return warning(
                where, f"{address} is a list to which not everybody may post; strangers must reach postmaster"
            )
        case Found():
            return ok(where, f"{address} is in the directory")
        case NoSuch():
            return warning(where, f"{address} is not in the directory; mail to postmaster will wait at its senders")
        case CannotSay(reason):
            return warning(where, f"{address} cannot be looked up: {reason}")
