"""The reference page of all commands, made from the commands. A test compares it with `docs/reference/cli.md`.

Run `python -m mailfront.cli.reference > docs/reference/cli.md` after changing a command.
"""

import inspect
import sys
from collections.abc import Iterator

import click

from mailfront.cli.main import cli

_HEAD = """\
# Commands

This page is made from the program; edit the commands, not the page.

`-c FILE` names the configuration file and with it the server; it may stand before or after the verb, and without it
`/etc/mailfront/mailfront.toml` is read. Every verb that reads has `--json`; without it there are tables on a terminal
and tab-separated lines elsewhere. Nothing is asked where there is no terminal.

{exit_codes}
While the server is down, `queue list`, `queue show`, `queue stats`, `queue check` and `queue export` read the database
themselves and say so on standard error; `config check` and `config show --file` need no server; every other verb exits
with 75.
Changes are kept in the audit with the caller's uid and the `--reason`.
"""
SHARED_OPTIONS = ("config", "help")
EXIT_CODES = (
    ("0", "done"),
    ("1", "failed: an unknown id or address, a check that found something"),
    ("2", "usage or configuration: no selector, a bad state, mistakes in the file"),
    ("75", "try later: the server is not running, the database or the directory is away"),
)


def render() -> str:
    """The whole page, in Markdown."""
    context = cli.make_context("mailfront", [], resilient_parsing=True)
    rows = ("| exit code | meaning |", "|---|---|", *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES), "")
    head = _HEAD.replace("{exit_codes}", "\n".join(rows))
    return head + "".join(
        f"\n{block}" for command, inner in commands(cli, context) for block in _blocks(command, inner)
    )


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """All commands at the ends of the lines, each with its context."""
    if not isinstance(command, click.Group):
        yield command, context
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from commands(inner, inner.make_context(name, [], parent=context, resilient_parsing=True))


def _blocks(command: click.Command, context: click.Context) -> Iterator[str]:
    pieces = [piece for parameter in command.params for piece in parameter.get_usage_pieces(context)]
    yield f"## `{' '.join([context.command_path, *dict.fromkeys(pieces)])}`\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    options = [
        each
        for each in command.params
        if isinstance(each, click.Option) and each.name not in SHARED_OPTIONS and each.help
    ]
    if options:
        yield "".join(_option(each, context) for each in options)


def _option(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None
    names, text = record
    return f"- `{names}`: {text}\n"


if __name__ == "__main__":
    sys.stdout.write(render())
