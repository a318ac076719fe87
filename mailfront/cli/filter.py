"""`mailfront filter list|test`."""

import base64
from pathlib import Path
from typing import Any

import click

from mailfront.cli.conventions import EXIT_USAGE, Failed, Noun, ask, json_option
from mailfront.cli.output import facts, line, show_json, table

MOST_MESSAGE_BYTES = 5 * 1024 * 1024


@click.group("filter", cls=Noun)
def filter_() -> None:
    """What looks at mail before it is delivered."""


@filter_.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All filters in the order in which they are asked: settings, scanners that do not answer, times."""
    rows: list[dict[str, Any]] = ask("filter.list")
    if as_json:
        show_json(rows)
        return
    if not rows:
        line("no [[filter]] is configured")
        return
    table(
        ("filter", "kind", "stages", "after", "on error", "timeout", "answers", "p50 ms", "p99 ms", "scanners", "for"),
        [
            (row["name"] + (" (shadow)" if row["shadow"] else ""), row["kind"], ", ".join(row["stages"]),
             ", ".join(row["after"]), row["on_error"], f"{row['timeout_s']:g}s", sum(row["verdicts"].values()),
             row["p50_ms"], row["p99_ms"], _scanners(row["hosts"]), _only_for(row["only_for"]))
            for row in rows
        ],
        right=("answers", "p50 ms", "p99 ms"),
    )  # fmt: skip


@filter_.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE.eml")
@click.option("--from", "sender", default="", metavar="ADDRESS", help="Envelope sender. [default: the null sender]")
@click.option("--to", multiple=True, metavar="ADDRESS", help="Recipient; may be repeated. [default: the postmaster]")
@click.option("--ip", default="192.0.2.1", metavar="IP", show_default=True, help="The client's address.")
@click.option("--helo", default="localhost", metavar="NAME", show_default=True, help="What the client calls itself.")
@json_option
def test(file: Path, sender: str, to: tuple[str, ...], ip: str, helo: str, as_json: bool) -> None:
    """What the running server's filters say about the message in FILE.eml. Nothing is delivered or counted."""
    data = _read(file)
    arguments = {"message": base64.b64encode(data).decode(), "sender": sender, "to": list(to), "ip": ip, "helo": helo}
    answer: dict[str, Any] = ask("filter.test", arguments)
    if as_json:
        show_json(answer)
        return
    table(
        ("filter", "stage", "verdict", "score", "ms", "why"),
        [
            (each["filter"] + (" (shadow)" if each["shadow"] else ""), each["stage"],
             "failed: " + each["verdict"] if each["error"] else each["verdict"], each["score"], each["ms"],
             each["error"] or each["reason"])
            for each in answer["findings"]
        ],
        right=("score", "ms"),
    )  # fmt: skip
    for each in answer["findings"]:
        for edit in each["edits"]:
            line(f"{each['filter']}: {edit}")
    for ruling in answer["rulings"]:
        facts(
            [
                ("recipient", ruling["recipient"]),
                ("would be", _WOULD_BE.get(ruling["action"], ruling["action"])),
                ("reply", ruling["reply"]),
                ("because", ruling["reason"]),
            ]
        )
    line(f"took {answer['ms']} ms")


_WOULD_BE = {
    "continue": "delivered",
    "discard": "accepted and thrown away",
    "hold": "accepted and held in the queue",
    "quarantine": "accepted and quarantined in the queue",
    "tempfail": "refused for now",
    "reject": "refused",
}


def _read(file: Path) -> bytes:
    """The message with CRLF line ends, as a client would send it. Raises Failed."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_MESSAGE_BYTES + 1)
    except OSError as error:
        raise Failed(f"{file}: {error.strerror}", EXIT_USAGE) from error
    if len(data) > MOST_MESSAGE_BYTES:
        raise Failed(f"{file} is larger than {MOST_MESSAGE_BYTES} bytes, too large for a test", EXIT_USAGE)
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def _scanners(hosts: dict[str, str]) -> str:
    return "; ".join(f"{host} {state}" for host, state in hosts.items())


def _only_for(conditions: dict[str, Any]) -> str:
    shown = {name: ", ".join(value) if isinstance(value, list) else value for name, value in conditions.items()}
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items()) or "all"
