"""`mailfront trace`."""

from typing import Any

import click

from mailfront.cli.completion import message_ids
from mailfront.cli.conventions import Verb, ask, json_option
from mailfront.cli.output import line, moment, show_json, table

_COMMON = ("time", "event", "process", "id")


@click.command(cls=Verb)
@click.argument("wanted", metavar="ID|ADDRESS", shell_complete=message_ids)
@json_option
def trace(wanted: str, as_json: bool) -> None:
    """What became of a message, or of all messages of an address: events and queue in one timeline.

    A message that its client sent again after a temporary refusal has several ids; they are told as one story, and so
    are the notices about it.
    """
    document: dict[str, Any] = ask("trace.show", {"wanted": wanted})
    if as_json:
        show_json(document)
        return
    for story in document["stories"]:
        _show_story(story)
    if not document["rows"]:
        line("not in the queue")
        return
    table(
        ("id", "recipient", "state", "attempts", "next", "last reply"),
        [
            (row["id"], row["recipient"], row["state"], row["attempts"], moment(row["next_attempt_s"]),
             row["last_reply"])
            for row in document["rows"]
        ],
        right=("attempts",),
    )  # fmt: skip


def _show_story(story: dict[str, Any]) -> None:
    """A line of what it is, then its events. A later id of the story is named where it begins."""
    if story["tries"]:
        sender = story["sender"] or "<>"
        tries = "" if story["tries"] == 1 else f", offered {story['tries']} times"
        known_as = f" {story['message_id']}" if story["message_id"] else ""
        line(f"{story['ids'][0]}: from {sender} to {', '.join(story['recipients'])}{known_as}{tries}")
    seen: list[str] = []
    for event in story["events"]:
        id_ = event.get("id", "")
        if len(story["ids"]) > 1 and id_ not in seen:
            seen.append(id_)
            maybe = " (perhaps the same message: nothing but its envelope was seen)" if id_ in story["guessed"] else ""
            line(f"-- {id_}{maybe}")
        details = " ".join(f"{name}={_brief(value)}" for name, value in event.items() if _is_shown(name, value))
        line(f"{event.get('time', '')} {event.get('event', ''):<16} {event.get('process', '')}: {details}")


def _is_shown(name: str, value: Any) -> bool:
    return name not in _COMMON and value not in (None, "", [], {})


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_brief(each) for each in value) + "]"
    if isinstance(value, dict):
        return " ".join(_brief(each) for each in value.values() if each not in (None, ""))
    text = str(value)
    return f'"{text}"' if " " in text else text
