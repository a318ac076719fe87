"""Reads every file that a configuration names, before a reload ends the keeper that works.

The old configuration names most of the same files. If one of them is broken, the old keeper could not come back either.
"""

from mailfront.base.clock import SystemClock
from mailfront.base.errors import ConfigError
from mailfront.config.check_local import check_files
from mailfront.config.findings import Level
from mailfront.config.model import Configuration
from mailfront.directory.directory import Directory


def refuse_unusable_files(config: Configuration) -> None:
    """Raise ConfigError with all that is wrong with certificates, keys, passwords and the file of users. Blocks for as
    long as it takes to read them; connects to nothing."""
    problems = [f"{found.where}: {found.text}" for found in check_files(config) if found.level is Level.FAILED]
    if not problems:
        try:
            Directory(config.directory, state_dir=config.server.state_dir, clock=SystemClock())
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(tuple(problems))
