"""`mailfront queue list|show|stats|check`: what waits. The other verbs of the noun are in `queue_changes`,
`queue_export` and `queue_import`.

These four read the database themselves when no server runs.
"""

from typing import Any

import click

from mailfront.cli.completion import message_ids
from mailfront.cli.conventions import EXIT_FAILED, Noun, json_option
from mailfront.cli.output import age, aside, bar, facts, line, moment, on_terminal, show_json, sparkline, table
from mailfront.cli.queue_changes import CHANGES
from mailfront.cli.queue_export import export
from mailfront.cli.queue_import import import_
from mailfront.cli.queue_source import QueueSource, read_queue
from mailfront.cli.selectors import STATES, selection, selector_options

_PAGE = 1000
_SHOWN_DESTINATIONS = 20
_BAR_CHARS = 30


@click.group(cls=Noun)
def queue() -> None:
    """Mail that could not be delivered yet."""


for each in (*CHANGES, export, import_):
    queue.add_command(each)


@queue.command("list")
@selector_options
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most rows.")
@json_option
def list_(limit: int, as_json: bool, **conditions: Any) -> None:
    """Waiting recipients in the order of arrival."""
    rows, is_cut = _read_rows(selection(conditions), limit)
    if as_json:
        show_json(rows)
        return
    table(
        ("id", "age", "size", "state", "home", "attempts", "next", "sender", "recipient", "last reply"),
        [_list_row(row) for row in rows],
        right=("size", "attempts"),
    )
    if is_cut:
        aside(f"there are more; these are the first {limit} (--limit)")


def _read_rows(conditions: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """All pages up to `limit` rows, and whether there are more."""
    rows: list[dict[str, Any]] = []
    arguments = dict(conditions)
    with QueueSource() as source:
        while True:
            arguments["limit"] = min(_PAGE, limit - len(rows))
            page = source.ask("queue.list", arguments)
            rows += page["rows"]
            if page["next"] is None or len(rows) >= limit:
                return rows, page["next"] is not None
            arguments["after"] = page["next"]


def _list_row(row: dict[str, Any]) -> tuple[object, ...]:
    wait_s = None if row["next_attempt_s"] is None else row["next_attempt_s"] - row["arrived_s"] - row["age_s"]
    return (
        row["id"],
        age(row["age_s"]),
        row["size_bytes"],
        row["state"],
        row["home"],
        row["attempts"],
        "now" if row["state"] == "due" else age(wait_s),
        row["sender"] or "<>",
        row["recipient"],
        row["reason"] or row["last_reply"],
    )


@queue.command()
@click.argument("id_", metavar="ID", shell_complete=message_ids)
@click.option("--headers", "part", flag_value="headers", help="The message's header too.")
@click.option("--body", "part", flag_value="body", help="The whole message too, up to its first MiB.")
@json_option
def show(id_: str, part: str | None, as_json: bool) -> None:
    """One message and all its recipients that are not done.

    What a terminal might obey is replaced in the message's text by `?`; `queue export` has its exact bytes. Who looked
    into which message is kept in the audit.
    """
    document = read_queue("queue.show", {"id": id_} if part is None else {"id": id_, "part": part})
    if as_json:
        show_json(document)
        return
    facts(
        [
            ("id", document["id"]),
            ("sender", (document["sender"] or "<>") if "sender" in document else ""),
            ("arrived", moment(document.get("arrived_s"))),
            ("given up", moment(document.get("expires_s"))),
            ("bytes", document.get("size_bytes")),
            ("client", document.get("client_ip")),
            ("body", document.get("body_type")),
        ]
    )
    table(
        ("recipient", "state", "home", "node", "attempts", "next", "last reply", "reason"),
        [
            (row["recipient"], row["state"], row["home"], row["node"], row["attempts"], moment(row["next_attempt_s"]),
             row["last_reply"], row["reason"])
            for row in document["recipients"]
        ],
        right=("attempts",),
    )  # fmt: skip
    if part is not None:
        _show_content(document["content"])


def _show_content(content: dict[str, Any]) -> None:
    """The message's own lines, after an empty one."""
    line("")
    for text in content["text"].replace("\r\n", "\n").split("\n"):
        line(text.expandtabs())
    if content["cut"]:
        aside(f"this is the beginning; the message has {content['size_bytes']} bytes (queue export has all of it)")


@queue.command()
@click.option("--by", type=click.Choice(("domain", "node")), default="domain", show_default=True,
              help="What the ages are counted against.")  # fmt: skip
@json_option
def stats(by: str, as_json: bool) -> None:
    """Counts per state, and how long mail has waited for which destination (minutes)."""
    document = read_queue("queue.stats")
    if as_json:
        show_json(document)
        return
    from mailfront.base.units import show_size

    facts(
        [
            ("recipients", document["total"]),
            *(() if on_terminal() else ((state, document[state]) for state in STATES if document[state])),
            ("messages", document["messages"]),
            ("size", show_size(document["size_bytes"])),
            ("oldest", age(document["oldest_age_s"])),
        ]
    )
    if on_terminal() and document["total"]:
        _draw_states(document)
    _show_ages(document, by)


def _draw_states(document: dict[str, Any]) -> None:
    """One bar per state that has rows."""
    most = max(document[state] for state in STATES)
    table(
        ("state", "recipients", ""),
        [(state, document[state], bar(document[state], most, _BAR_CHARS)) for state in STATES if document[state]],
        right=("recipients",),
    )


def _show_ages(document: dict[str, Any], by: str) -> None:
    """How long mail has waited, per destination; on a terminal with the picture of each row, young on the left."""
    limits = [f"{limit_s / 60:g}" for limit_s in document["age_limits_s"]]
    columns = (by, "total", *limits, f"{limits[-1]}+")
    shapes: dict[str, list[int]] = document[f"by_{by}"]
    if not shapes:
        return
    largest = sorted(shapes.items(), key=lambda item: -sum(item[1]))
    together = [sum(ages) for ages in zip(*shapes.values(), strict=True)]
    rows = [("TOTAL", together), *largest[:_SHOWN_DESTINATIONS]]
    shown = [(name, sum(ages), *(count or "." for count in ages)) for name, ages in rows]
    if on_terminal():
        most = max(together)
        drawn = ((*row, sparkline(ages, most)) for row, (_, ages) in zip(shown, rows, strict=True))
        table((*columns, "young to old"), list(drawn), right=columns[1:])
    else:
        table(columns, shown, right=columns[1:])
    if len(largest) > _SHOWN_DESTINATIONS:
        line(f"and {len(largest) - _SHOWN_DESTINATIONS} more; --json shows all")


@queue.command()
@click.option("--bodies", is_flag=True, help="Read every byte of every message too.")
@json_option
def check(bodies: bool, as_json: bool) -> None:
    """Look for damage in the stored queue. Exit code 1 if there is any.

    Changes nothing: what is damaged is set aside (held, with the alarm queue.damaged) when it is tried.
    """
    document = read_queue("queue.check", {"bodies": True} if bodies else {})
    if as_json:
        show_json(document)
    else:
        for problem in document["problems"]:
            line(problem)
        line(
            f"{document['messages_count']} messages with {document['recipients_count']} recipients looked at, "
            f"{len(document['problems']) or 'no'} problems"
        )
    if document["problems"]:
        click.get_current_context().exit(EXIT_FAILED)
