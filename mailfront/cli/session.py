"""`mailfront session list|kick`."""

from collections.abc import Callable
from typing import Any

import click

from mailfront.cli.conventions import EXIT_FAILED, EXIT_USAGE, Failed, Noun, ask, json_option, reason_option
from mailfront.cli.output import age, aside, line, show_json, table

_PROTOCOLS = ("imap", "pop3", "sieve")
_NAMES = ("ids", "users", "nodes", "addresses", "protocols")
_OPTIONS = (
    click.option("--id", "ids", multiple=True, metavar="ID", help="Session id; may be repeated."),
    click.option("--user", "users", multiple=True, metavar="NAME", help="Login name or mailbox key."),
    click.option("--node", "nodes", multiple=True, metavar="NODE", help="The storage node."),
    click.option("--address", "addresses", multiple=True, metavar="NETWORK",
                 help="The client's address, or a network such as 192.0.2.0/24."),
    click.option("--protocol", "protocols", multiple=True, type=click.Choice(_PROTOCOLS), help="The protocol."),
)  # fmt: skip


def _condition_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All conditions. Those that are given must hold together; of one repeated condition any."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group(cls=Noun)
def session() -> None:
    """People who are logged in over IMAP, POP3 and ManageSieve."""


@session.command("list")
@_condition_options
@click.option("--limit", type=click.IntRange(min=1, max=10_000), default=100, show_default=True, help="Most rows.")
@json_option
def list_(limit: int, as_json: bool, **conditions: tuple[str, ...]) -> None:
    """Open sessions, the oldest first."""
    page: dict[str, Any] = ask("session.list", {**_given(conditions), "limit": limit})
    if as_json:
        show_json(page["rows"])
        return
    show_sessions(page["rows"])
    if page["total_count"] > len(page["rows"]):
        aside(f"there are {page['total_count']}; these are the oldest {limit} (--limit)")


@session.command()
@_condition_options
@click.option("--everything", is_flag=True, help="All sessions; needed if no condition is given.")
@click.option("--dry-run", is_flag=True, help="Only show what would be ended.")
@reason_option
@json_option
def kick(everything: bool, dry_run: bool, reason: str, as_json: bool, **conditions: tuple[str, ...]) -> None:
    """End sessions now. Their clients may log in again at once."""
    given = _given(conditions)
    if not given and not everything:
        raise Failed("say which: --id, --user, --node, --address, --protocol, or --everything", EXIT_USAGE)
    if given and everything:
        raise Failed("--everything and a condition contradict each other; leave one out", EXIT_USAGE)
    order = {**given, "everything": everything, "dry_run": dry_run, "reason": reason}
    show_kick(ask("session.kick", order), as_json)


def show_sessions(rows: list[dict[str, Any]]) -> None:
    """Show sessions as a table."""
    table(
        ("id", "protocol", "login", "node", "client", "tls", "since"),
        [
            (row["id"], row["protocol"], row["login"], row["node"], row["client_ip"], row["tls"] or "none",
             age(row["age_s"]))
            for row in rows
        ],
    )  # fmt: skip


def show_kick(done: dict[str, Any], as_json: bool) -> None:
    """Show what a kick did, or would do. Exits with 1 if sessions are left."""
    if as_json:
        show_json(done)
    else:
        show_sessions(done["rows"])
        hidden = done["matched"] - len(done["rows"])
        if hidden > 0:
            line(f"and {hidden} more")
        if done["dry_run"]:
            line(f"{done['matched']} sessions would be ended")
        else:
            line(f"{done['ended']} of {done['matched']} matching sessions ended")
    if done["left_count"] and not done["dry_run"]:
        click.get_current_context().exit(EXIT_FAILED)


def _given(conditions: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    return {name: conditions[name] for name in _NAMES if conditions[name]}
