"""`mailfront trace`."""

from typing import Any

import click

from mailfront.cli.conventions import Verb, ask, json_option
from mailfront.cli.output import line, show_json, table

_COMMON = ("time", "event", "process", "id")


@click.command(cls=Verb)
@click.argument("wanted", metavar="ID")
@json_option
def trace(wanted: str, as_json: bool) -> None:
    """What became of the message ID: its events in order, and its rows in the queue.

    With an address instead of an ID: all kept events that name it.
    """
    document: dict[str, Any] = ask("trace.show", {"wanted": wanted})
    if as_json:
        show_json(document)
        return
    for event in document["events"]:
        details = " ".join(f"{name}={_brief(value)}" for name, value in event.items() if _is_shown(name, value))
        line(f"{event.get('time', '')} {event.get('event', ''):<16} {event.get('process', '')}: {details}")
    queued = document["queue"]
    if queued is None:
        if "@" not in wanted:
            line("not in the queue")
        return
    table(
        ("recipient", "state", "attempts", "last reply"),
        [(row["recipient"], row["state"], row["attempts"], row["last_reply"]) for row in queued["recipients"]],
        right=("attempts",),
    )


def _is_shown(name: str, value: Any) -> bool:
    return name not in _COMMON and value not in (None, "", [], {})


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_brief(each) for each in value) + "]"
    if isinstance(value, dict):
        return " ".join(_brief(each) for each in value.values() if each not in (None, ""))
    text = str(value)
    return f'"{text}"' if " " in text else text
