"""`mailfront directory lookup`."""

from typing import Any

import click

from mailfront.cli.conventions import EXIT_FAILED, EXIT_LATER, Noun, ask, json_option
from mailfront.cli.output import age, facts, line, show_json

_CODES = {"found": 0, "no such address": EXIT_FAILED, "cannot say": EXIT_LATER}


@click.group(cls=Noun)
def directory() -> None:
    """Who is it?"""


@directory.command()
@click.argument("address")
@json_option
def lookup(address: str, as_json: bool) -> None:
    """What the directory says about ADDRESS, from where, and how old that is; and where a forward or a list leads."""
    answer: dict[str, Any] = ask("directory.lookup", {"address": address})
    if as_json:
        show_json(answer)
    else:
        show_answer(answer)
    click.get_current_context().exit(_CODES.get(answer["answer"], EXIT_FAILED))


def show_answer(answer: dict[str, Any]) -> None:
    """Show the directory's answer as a list of facts."""
    record = answer["record"] or {}
    facts(
        [
            ("address", answer["address"]),
            ("directory", answer["answer"]),
            ("reason", answer["reason"]),
            ("from", answer["source"]),
            ("age", age(answer["age_s"]) if answer["source"] else ""),
            ("mailbox", record.get("mailbox")),
            ("mailbox key", record.get("mailbox_key")),
            ("primary address", record.get("address")),
            ("status", record.get("status")),
            ("over quota", "yes" if record.get("over_quota") else ""),
            ("host attribute", record.get("host")),
            ("forwards to", record.get("forwards")),
            ("keeps a copy", "yes" if record.get("keeps_copy") else ""),
            ("members", record.get("members_count") or ""),
            ("bounces go to", record.get("owner")),
            ("classes", record.get("classes")),
        ]
    )
    if answer["way"]:
        _show_way(answer["way"])


def _show_way(way: dict[str, Any]) -> None:
    """Draw where the mail goes as a tree of lines, on a pipe too."""

    def show(step: dict[str, Any], before: str, mark: str) -> None:
        line(f"{before}{mark}{step['name']}  {step['what']}{'  ' + step['detail'] if step['detail'] else ''}")
        below = step["leads_to"]
        inner = before + {"": "", "├─ ": "│  ", "└─ ": "   "}[mark]
        for number, each in enumerate(below, start=1):
            show(each, inner, "└─ " if number == len(below) else "├─ ")

    show(way, "", "")
