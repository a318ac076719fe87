"""`mailfront completion`, and what is completed besides the names of commands and options.

The shell runs `mailfront` at each TAB: nodes are read from the configuration file, message ids from the running server,
and where that does not work there is nothing to choose from.
"""

import contextlib
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mailfront.cli.conventions import DEFAULT_CONFIG, Verb

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

_SHELLS = ("bash", "zsh", "fish")
_MOST_IDS = 200

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete mailfront's commands, options, nodes and message ids.

    For bash, put it into /etc/bash_completion.d/mailfront, or try it: source <(mailfront completion bash).
    """
    from click.shell_completion import get_completion_class

    of_shell: type[ShellComplete] | None = get_completion_class(shell)
    assert of_shell is not None
    made = of_shell(click.get_current_context().find_root().command, {}, "mailfront", "_MAILFRONT_COMPLETE")
    click.echo(made.source_template % made.source_vars())


def node_ids(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The nodes of the configuration file."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nodes = tomllib.loads(_config(ctx).read_text()).get("node", [])
        return [name for each in nodes if (name := str(each.get("id", ""))).startswith(incomplete)]
    return []


def message_ids(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Messages in the queue."""
    from mailfront.admin.client import AdminClient
    from mailfront.base.errors import MailfrontError
    from mailfront.config.server_section import load_server

    with contextlib.suppress(MailfrontError), AdminClient(load_server(_config(ctx)).admin_socket) as client:
        rows: list[dict[str, Any]] = client.call("queue.list", {"limit": _MOST_IDS})["rows"]
        return [id_ for id_ in dict.fromkeys(row["id"] for row in rows) if id_.startswith(incomplete)]
    return []


def _config(ctx: click.Context) -> Any:
    return ctx.find_root().meta.get("config", DEFAULT_CONFIG)
