"""`mailfront health`."""

from typing import Any

import click

from mailfront.cli.conventions import EXIT_FAILED, Verb, ask, json_option
from mailfront.cli.output import age, facts, line, moment, show_json, table


@click.command(cls=Verb)
@json_option
def health(as_json: bool) -> None:
    """How the running server is, and why. Exit code 1 if it cannot do its work."""
    document: dict[str, Any] = ask("health.show")
    if as_json:
        show_json(document)
    else:
        _show(document)
    if document["state"] == "failed":
        click.get_current_context().exit(EXIT_FAILED)


def _show(document: dict[str, Any]) -> None:
    facts(
        [
            ("state", document["state"]),
            ("version", document["version"]),
            ("running for", age(document["uptime_s"])),
        ]
    )
    if document["conditions"]:
        table(
            ("part", "state", "since", "reason"),
            [(each["name"], each["state"], moment(each["since_s"]), each["reason"]) for each in document["conditions"]],
        )
    if document["alarms"]:
        table(
            ("alarm", "times", "last", "text"),
            [(each["name"], each["count"], moment(each["last_s"]), each["text"]) for each in document["alarms"]],
            right=("times",),
        )
    if document["move_requests_count"]:
        line(f"{document['move_requests_count']} mailboxes live elsewhere than the directory's host attribute says:")
        table(
            ("mailbox", "home", "directory says", "seen"),
            [(each["key"], each["home"], each["host"], moment(each["seen_s"])) for each in document["move_requests"]],
        )
