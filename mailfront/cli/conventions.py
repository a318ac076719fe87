"""What all commands share: `-c FILE` before or after the verb, errors as one line, the four exit codes.

    0   done
    1   failed: an unknown id, an address that does not exist, a check that found something
    2   usage or configuration: no selector, a bad state, mistakes in the file
    75  try later: the server is not running, the database or the directory is away

Imports nothing heavy: `mailfront --help` must be quick. Modules of nouns import what they need inside their verbs.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mailfront.admin.errors import AdminError, Kind
from mailfront.base.errors import ConfigError, MailfrontError, Unavailable
from mailfront.base.printable import printable

if TYPE_CHECKING:
    from mailfront.admin.client import AdminClient
    from mailfront.config.settings import ServerSettings

DEFAULT_CONFIG = Path("/etc/mailfront/mailfront.toml")
EXIT_FAILED, EXIT_USAGE, EXIT_LATER = 1, 2, 75
_MAX_ERROR_CHARS = 2000

_CODES = {Kind.FAILED: EXIT_FAILED, Kind.USAGE: EXIT_USAGE, Kind.LATER: EXIT_LATER}


class Failed(MailfrontError):
    """The verb could not do its work. The text goes to standard error; `code` is the exit code."""

    def __init__(self, text: str, code: int = EXIT_FAILED) -> None:
        super().__init__(text)
        self.code = code


def _remember(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.find_root().meta["config"] = value


class _ConfigOption(click.Option):
    """`-c FILE`. The one that stands last counts."""

    def __init__(self) -> None:
        super().__init__(
            ["-c", "--config"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            expose_value=False,
            callback=_remember,
            help=f"Configuration file. [default: {DEFAULT_CONFIG}]",
        )


class Verb(click.Command):
    """A command at the end of the line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_ConfigOption())


class Noun(click.Group):
    """A group of verbs."""

    command_class = Verb

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_ConfigOption())


class Root(Noun):
    """`mailfront` itself: turns what went wrong anywhere below into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Exits with its code."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                _say(problem)
            ctx.exit(EXIT_USAGE)
        except AdminError as error:
            _say(error)
            ctx.exit(_CODES[error.kind])
        except Failed as error:
            _say(error)
            ctx.exit(error.code)
        except Unavailable as error:
            _say(error)
            ctx.exit(EXIT_LATER)
        except MailfrontError as error:
            _say(error)
            ctx.exit(EXIT_FAILED)


def _say(error: Exception | str) -> None:
    click.echo(f"mailfront: {printable(str(error), _MAX_ERROR_CHARS)}", err=True)


def config_path() -> Path:
    """The configuration file that this command is about."""
    path: Path = click.get_current_context().find_root().meta.get("config", DEFAULT_CONFIG)
    return path


def server_settings() -> "ServerSettings":
    """`[server]` of the file. Raises ConfigError."""
    from mailfront.config.server_section import load_server

    return load_server(config_path())


def admin_client() -> "AdminClient":
    """The way to the running server. It connects at the first call. Raises ConfigError."""
    from mailfront.admin.client import AdminClient

    return AdminClient(server_settings().admin_socket)


def ask(verb: str, arguments: dict[str, Any] | None = None) -> Any:
    """Ask the running server one thing; shows a bar on a terminal while it works. Raises AdminError, ConfigError."""
    from mailfront.cli.output import ProgressBar

    with admin_client() as client, ProgressBar() as bar:
        return client.call(verb, arguments, progress=bar.show)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`: for programs. Every verb that reads has it."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def reason_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--reason`: kept in the audit."""
    return click.option("--reason", default="", metavar="TEXT", help="Why; kept with your uid in the audit.")(command)


def is_interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
