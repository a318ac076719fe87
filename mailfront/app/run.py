"""`mailfront run`: from a configuration file to a supervised server.

Exit status 2: the configuration cannot be used, and every reason was printed. 1: a process could not start. 0: asked
to end and drained.
"""

import asyncio
import os
import resource
import sys
from pathlib import Path

from mailfront.app import sockets
from mailfront.app.process_log import metrics_dir
from mailfront.app.supervisor import Generation, Supervisor
from mailfront.base.errors import ConfigError
from mailfront.config.load import parse
from mailfront.config.model import Configuration
from mailfront.config.server_section import read_text
from mailfront.net.connections import make_table_fd
from mailfront.net.failures import make_failure_fd
from mailfront.observe import log, metrics


def main(config_path: Path) -> int:
    """Run a front end until it is told to end. Returns the exit status."""
    try:
        text = read_text(config_path)
        config = parse(text, config_path)
        supervisor = _prepare(config_path, text, config)
    except ConfigError as error:
        for problem in error.problems:
            print(f"mailfront: {problem}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(supervisor.run())
    finally:
        config.server.admin_socket.unlink(missing_ok=True)
        log.close()


def _allow_descriptors() -> None:
    """Use what the system allows at most: a session has two descriptors, and the usual soft limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _prepare(path: Path, text: str, config: Configuration) -> Supervisor:
    """Everything that needs root, then no root any more."""
    _allow_descriptors()
    os.umask(os.umask(0o027) | 0o027)  # the database holds mail: whatever its folder allows, nobody else reads it
    sockets.prepare_folders(config)
    admin_socket = sockets.bind_admin(config)
    generation = Generation(config, text, sockets.bind_all(config))
    sockets.drop_root(config)
    metrics.prepare(metrics_dir(config))
    log.configure("supervisor", level=config.server.log_level, mask_addresses=config.server.mask_addresses)
    return Supervisor(path.absolute(), generation, admin_socket, (make_table_fd(), make_table_fd(), make_failure_fd()))
