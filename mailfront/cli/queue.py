"""`mailfront queue`: what waits, and changes of it.

`list`, `show`, `stats` and `check` read the database themselves when no server runs; everything else needs the server.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from mailfront.admin.errors import NotRunning
from mailfront.cli.conventions import (
    EXIT_FAILED,
    EXIT_USAGE,
    Failed,
    Noun,
    admin_client,
    ask,
    is_interactive,
    json_option,
    reason_option,
    server_settings,
)
from mailfront.cli.output import age, aside, facts, line, moment, show_json, table
from mailfront.cli.selectors import selection, selector_options

if TYPE_CHECKING:
    from mailfront.admin.queues import QueueReader

_PAGE = 1000
_SHOWN_DESTINATIONS = 20
_PAST = {"retry": "will be tried now", "hold": "held", "release": "released", "bounce": "bounced", "delete": "deleted"}


@click.group(cls=Noun)
def queue() -> None:
    """Mail that could not be delivered yet."""


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
    while True:
        arguments["limit"] = min(_PAGE, limit - len(rows))
        page = _read("queue.list", arguments)
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
@click.argument("id_", metavar="ID")
@json_option
def show(id_: str, as_json: bool) -> None:
    """One message and all its recipients that are not done."""
    document = _read("queue.show", {"id": id_})
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


@queue.command()
@click.option("--by", type=click.Choice(("domain", "node")), default="domain", show_default=True,
              help="What the ages are counted against.")  # fmt: skip
@json_option
def stats(by: str, as_json: bool) -> None:
    """Counts per state, and how long mail has waited for which destination (minutes)."""
    document = _read("queue.stats", {})
    if as_json:
        show_json(document)
        return
    from mailfront.base.units import show_size
    from mailfront.cli.selectors import STATES

    facts(
        [
            ("recipients", document["total"]),
            *((state, document[state]) for state in STATES if document[state]),
            ("messages", document["messages"]),
            ("size", show_size(document["size_bytes"])),
            ("oldest", age(document["oldest_age_s"])),
        ]
    )
    limits = [f"{limit_s / 60:g}" for limit_s in document["age_limits_s"]]
    columns = (by, "total", *limits, f"{limits[-1]}+")
    shapes: dict[str, list[int]] = document[f"by_{by}"]
    if not shapes:
        return
    largest = sorted(shapes.items(), key=lambda item: -sum(item[1]))
    together = [sum(ages) for ages in zip(*shapes.values(), strict=True)]
    rows = [("TOTAL", together), *largest[:_SHOWN_DESTINATIONS]]
    table(columns, [(name, sum(ages), *(count or "." for count in ages)) for name, ages in rows], right=columns[1:])
    if len(largest) > _SHOWN_DESTINATIONS:
        line(f"and {len(largest) - _SHOWN_DESTINATIONS} more; --json shows all")


@queue.command()
@json_option
def check(as_json: bool) -> None:
    """Look for damage in the stored queue. Exit code 1 if there is any. Changes nothing."""
    document = _read("queue.check", {})
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


@queue.command()
@_change_options
def retry(**options: Any) -> None:
    """Try the selected recipients now instead of at their next attempt."""
    _change("retry", options)


@queue.command()
@_change_options
def hold(**options: Any) -> None:
    """Keep the selected recipients and do not try them until they are released."""
    _change("hold", options)


@queue.command()
@_change_options
def release(**options: Any) -> None:
    """Try held recipients again."""
    _change("release", options)


@queue.command()
@_change_options
@click.option("--yes", is_flag=True, help="Do not ask, even on a terminal.")
def bounce(yes: bool, **options: Any) -> None:
    """Give up the selected recipients and tell their senders by a notice. On a terminal it asks first."""
    if is_interactive() and not (yes or options["dry_run"]):
        _show_change(_order("bounce", {**options, "dry_run": True}))
        click.confirm("Bounce these?", abort=True)
    _change("bounce", options)


@queue.command()
@_change_options
@click.option("--yes", is_flag=True, help="Do not ask, even on a terminal.")
def delete(yes: bool, **options: Any) -> None:
    """Give up the selected recipients for good. Their sender is not told. On a terminal it asks first."""
    if is_interactive() and not (yes or options["dry_run"]):
        _show_change(_order("delete", {**options, "dry_run": True}))
        click.confirm("Delete these?", abort=True)
    _change("delete", options)


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
    arguments = {name: options[name] for name in ("everything", "dry_run", "reason")}
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


def _read(verb: str, arguments: dict[str, Any]) -> Any:
    """Ask the server; if none runs, read the database and say so."""
    import asyncio

    from mailfront.cli.output import ProgressBar

    context = click.get_current_context().find_root()
    if not context.meta.get("offline"):
        try:
            with admin_client() as client, ProgressBar() as bar:
                return client.call(verb, arguments, progress=bar.show)
        except NotRunning:
            aside("the server is not running; reading its database")
            context.meta["offline"] = True
    return asyncio.run(_read_database(server_settings().state_url, _OFFLINE[verb], arguments))


async def _read_database(
    url: str, question: "Callable[[QueueReader, dict[str, Any]], Awaitable[Any]]", arguments: dict[str, Any]
) -> Any:
    import orjson

    from mailfront.admin.offline import reading

    async with reading(url) as reader:
        answer = await question(reader, arguments)
    # The same form as over the socket.
    return orjson.loads(orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS))


async def _list_offline(reader: "QueueReader", arguments: dict[str, Any]) -> Any:
    from mailfront.admin.requests import ListRequest, read

    return await reader.list(read(ListRequest, arguments))


async def _show_offline(reader: "QueueReader", arguments: dict[str, Any]) -> Any:
    return await reader.show(arguments["id"])


async def _stats_offline(reader: "QueueReader", _arguments: dict[str, Any]) -> Any:
    return await reader.stats()


async def _check_offline(reader: "QueueReader", _arguments: dict[str, Any]) -> Any:
    return await reader.check()


_OFFLINE: "dict[str, Callable[[QueueReader, dict[str, Any]], Awaitable[Any]]]" = {
    "queue.list": _list_offline,
    "queue.show": _show_offline,
    "queue.stats": _stats_offline,
    "queue.check": _check_offline,
}
