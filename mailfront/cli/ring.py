"""`mailfront ring show|explain`."""

from typing import Any

import click

from mailfront.cli.conventions import EXIT_FAILED, EXIT_LATER, Noun, ask, json_option
from mailfront.cli.directory import show_answer
from mailfront.cli.output import bar, facts, line, on_terminal, show_json, table

_BAR_WIDTH = 40


@click.group(cls=Noun)
def ring() -> None:
    """Where mailboxes live."""


@ring.command()
@json_option
def show(as_json: bool) -> None:
    """Each node's share of the mailboxes, and what it would be by today's weights."""
    document: dict[str, Any] = ask("ring.show")
    if as_json:
        show_json(document)
        return
    nodes = document["nodes"]
    most = max((each["buckets_count"] for each in nodes), default=0)
    table(
        (
            "node",
            "weight",
            "zone",
            "buckets",
            "share",
            *(["", "by weight"] if on_terminal() else ["by weight"]),
            "pins",
        ),
        [
            (
                each["id"],
                each["weight"],
                each["zone"],
                each["buckets_count"],
                f"{100 * each['buckets_count'] / max(document['buckets_count'], 1):.1f} %",
                *([bar(each["buckets_count"], most, _BAR_WIDTH)] if on_terminal() else []),
                each["desired_count"],
                each["pins_count"],
            )
            for each in nodes
        ],
        right=("weight", "buckets", "share", "by weight", "pins"),
    )
    if document["differing_count"]:
        line(
            f"{document['differing_count']} of {document['buckets_count']} buckets would have another owner "
            "by today's nodes and weights; nothing moves by itself."
        )


@ring.command()
@click.argument("address")
@json_option
def explain(address: str, as_json: bool) -> None:
    """Where ADDRESS lives, why, and what would happen to a message for it now. Changes nothing."""
    document: dict[str, Any] = ask("ring.explain", {"address": address})
    if as_json:
        show_json(document)
    else:
        _show(document)
    if not document["accepted"]:
        click.get_current_context().exit(EXIT_LATER if document["reply"].startswith("4") else EXIT_FAILED)


def _show(document: dict[str, Any]) -> None:
    if document["directory"] is not None:
        show_answer(document["directory"])
    facts([("RCPT is answered", document["reply"])])
    if document["leads_to"]:
        _show_leaves(document)
    if document["home"] is None:
        return
    facts(
        [
            ("node user", document["node_user"]),
            ("bucket", document["bucket"]),
            ("home", document["home"]),
            ("because", document["reason"]),
            ("by hash and weight", document["desired"] if document["desired"] != document["home"] else ""),
            ("secondaries", document["secondaries"]),
            ("a message now", f"{document['now']} {document['now_at'] or ''}".strip()),
            ("for", document["now_reason"]),
        ]
    )
    table(
        ("node", "admin", "lmtp", "imap", "handoff", "may hold", "zone", "reason"),
        [
            (each["id"], each["admin"], each["lmtp"], each["imap"], each["handoff"], each["may_hold"], each["zone"],
             each["reason"])
            for each in document["nodes"]
        ],
    )  # fmt: skip


def _show_leaves(document: dict[str, Any]) -> None:
    left_out_count = document["leads_to_count"] - len(document["leads_to"])
    facts([("leads to", f"{document['leads_to_count']} recipients"), ("not shown", left_out_count or "")])
    table(
        ("recipient", "at", "through", "bounces go to", "queue"),
        [
            (each["address"], each["at"], each["via"], each["list_owner"] or "", "yes" if each["through_queue"] else "")
            for each in document["leads_to"]
        ],
    )
