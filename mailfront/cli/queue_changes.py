"""`mailfront queue retry|hold|release|bounce|delete|redirect`: changes of what waits. All of them need the server."""

from collections.abc import Callable
from typing import Any

import click

from mailfront.cli.conventions import (
    EXIT_FAILED,
    EXIT_USAGE,
    Failed,
    Verb,
    ask,
    is_interactive,
    json_option,
    reason_option,
)
from mailfront.cli.output import line, show_json, table
from mailfront.cli.selectors import selection, selector_options

_PAST = {
    "retry": "will be tried now",
    "hold": "held",
    "release": "released",
    "bounce": "bounced",
    "delete": "deleted",
    "redirect": "redirected",
}


def _change_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        json_option,
        reason_option,
        click.option("--dry-run", is_flag=True, help="Only show what would be changed."),
        click.option("--everything", is_flag=True, help="All rows; needed if no condition is given."),
        selector_options,
    ):
        command = option(command)
    return command


@click.command(cls=Verb)
@_change_options
def retry(**options: Any) -> None:
    """Try the selected recipients now instead of at their next attempt."""
    _change("retry", options)


@click.command(cls=Verb)
@_change_options
def hold(**options: Any) -> None:
    """Keep the selected recipients and do not try them until they are released."""
    _change("hold", options)


@click.command(cls=Verb)
@_change_options
def release(**options: Any) -> None:
    """Try held recipients again."""
    _change("release", options)


_yes_option = click.option("--yes", is_flag=True, help="Do not ask, even on a terminal.")


@click.command(cls=Verb)
@_change_options
@_yes_option
def bounce(yes: bool, **options: Any) -> None:
    """Give up the selected recipients and tell their senders by a notice. On a terminal it asks first.

    Mail of the null sender, such as notices, is left alone unless --id or --sender <> names it.
    """
    _change_if_sure("bounce", "Bounce these?", yes, options)


@click.command(cls=Verb)
@_change_options
@_yes_option
def delete(yes: bool, **options: Any) -> None:
    """Give up the selected recipients for good. Their sender is not told. On a terminal it asks first."""
    _change_if_sure("delete", "Delete these?", yes, options)


@click.command(cls=Verb)
@click.option("--to", required=True, metavar="ADDRESS", help="Who gets the mail instead.")
@_change_options
@_yes_option
def redirect(yes: bool, to: str, **options: Any) -> None:
    """Deliver to another address instead of the selected recipients. On a terminal it asks first.

    The new address is looked up as RCPT would: it may be a mailbox of ours, a forward, a list, or outside. It gets one
    copy of each message. Senders who asked for a notice hear of the recipient whom they had named.
    """
    _change_if_sure("redirect", f"Send these to {to}?", yes, {**options, "to": to})


def _change_if_sure(verb: str, question: str, yes: bool, options: dict[str, Any]) -> None:
    """On a terminal: show what would be changed, then ask."""
    if is_interactive() and not (yes or options["dry_run"]):
        _show_change(_order(verb, {**options, "dry_run": True}))
        click.confirm(question, abort=True)
    _change(verb, options)


def _change(verb: str, options: dict[str, Any]) -> None:
    done = _order(verb, options)
    if options["as_json"]:
        show_json(done)
    else:
        _show_change(done)
    if done["matched"] and not done["changed"]:
        click.get_current_context().exit(EXIT_FAILED)


def _order(verb: str, options: dict[str, Any]) -> dict[str, Any]:
    conditions = selection(options)
    if not conditions and not options["everything"]:
        raise Failed(
            "say which recipients: --id, --sender, --recipient, --node, --state, --older; or --everything", EXIT_USAGE
        )
    if conditions and options["everything"]:
        raise Failed("--everything and a condition contradict each other; leave one out", EXIT_USAGE)
    arguments: dict[str, Any] = {
        name: options[name] for name in ("everything", "dry_run", "reason", "to") if name in options
    }
    done: dict[str, Any] = ask(f"queue.{verb}", {**conditions, **arguments})
    return done


def _show_change(done: dict[str, Any]) -> None:
    would = f"would be {_PAST[done['verb']].removeprefix('will be ')}" if done["dry_run"] else _PAST[done["verb"]]
    rows = [(row["id"], row["recipient"], would) for row in done["changed_rows"]]
    rows += [(row["id"], row["recipient"], f"left alone: {row['reason']}") for row in done["skipped_rows"]]
    if rows:
        table(("id", "recipient", ""), rows)
    line(f"{done['changed']} of {done['matched']} matching recipients {would}")
    hidden = done["matched"] - len(rows)
    if hidden > 0:
        line(f"{hidden} of them are not shown")


CHANGES = (retry, hold, release, bounce, delete, redirect)
