"""`mailfront node list|drain|maintenance|activate`."""

from typing import Any

import click

from mailfront.cli.completion import node_ids
from mailfront.cli.conventions import Noun, ask, json_option, reason_option
from mailfront.cli.output import line, show_json, table


@click.group(cls=Noun)
def node() -> None:
    """The storage nodes."""


@node.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All nodes: state, share of the mailboxes, mail that waits for them or that they hold for others."""
    rows: list[dict[str, Any]] = ask("node.list")
    if as_json:
        show_json(rows)
        return
    table(
        ("node", "state", "lmtp", "imap", "handoff", "host", "zone", "weight", "buckets", "pins", "waiting", "holding",
         "reason"),
        [
            (row["id"], row["state"], row["lmtp"], row["imap"], row["handoff"], row["host"], row["zone"], row["weight"],
             row["buckets_count"], row["pins_count"], row["waiting_for_it_count"], row["held_for_others_count"],
             row["reason"])
            for row in rows
        ],
        right=("weight", "buckets", "pins", "waiting", "holding"),
    )  # fmt: skip


def _change(verb: str, id_: str, reason: str, as_json: bool) -> None:
    changed: dict[str, Any] = ask(f"node.{verb}", {"node": id_, "reason": reason})
    if as_json:
        show_json(changed)
    else:
        line(f"{changed['id']}: {changed['admin']}")


@node.command()
@click.argument("id_", metavar="NODE", shell_complete=node_ids)
@reason_option
@json_option
def drain(id_: str, reason: str, as_json: bool) -> None:
    """NODE goes on serving its mailboxes, but takes no mail for others and no new mailboxes."""
    _change("drain", id_, reason, as_json)


@node.command()
@click.argument("id_", metavar="NODE", shell_complete=node_ids)
@reason_option
@json_option
def maintenance(id_: str, reason: str, as_json: bool) -> None:
    """Treat NODE as down without alarm: its mail is handed to other nodes or waits."""
    _change("maintenance", id_, reason, as_json)


@node.command()
@click.argument("id_", metavar="NODE", shell_complete=node_ids)
@reason_option
@json_option
def activate(id_: str, reason: str, as_json: bool) -> None:
    """NODE is in normal use again; mail that others hold for it comes home."""
    _change("activate", id_, reason, as_json)
