"""`--id --sender --recipient --node --state --older` and `--everything`: which rows a queue verb is about."""

from collections.abc import Callable
from typing import Any

import click

from mailfront.cli.completion import message_ids, node_ids

STATES = ("due", "active", "deferred", "held", "quarantined", "unknown", "handed-off")


def _seconds(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Read `90s`, `2h`, `5d`; anything else is a usage error."""
    from mailfront.base.units import parse_duration_s

    try:
        return None if value is None else parse_duration_s(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_OPTIONS = (
    click.option("--id", "ids", multiple=True, metavar="ID", shell_complete=message_ids,
                 help="Message id; may be repeated."),
    click.option("--sender", "senders", multiple=True, metavar="ADDRESS",
                 help="Sender, @domain, or <> for the null sender."),
    click.option("--recipient", "recipients", multiple=True, metavar="ADDRESS", help="Recipient or @domain."),
    click.option("--node", "nodes", multiple=True, metavar="NODE", shell_complete=node_ids,
                 help="Home of the mailbox, or where it was tried."),
    click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="State of the row."),
    click.option("--older", "older_s", callback=_seconds, metavar="TIME", help="Arrived longer ago, such as 2h."),
)  # fmt: skip


def selector_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All conditions. Those that are given must hold together; of one repeated condition any."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def selection(values: dict[str, Any]) -> dict[str, Any]:
    """The conditions that were given, as the server wants them."""
    names = ("ids", "senders", "recipients", "nodes", "states", "older_s")
    return {name: values[name] for name in names if values[name] not in ((), None)}
