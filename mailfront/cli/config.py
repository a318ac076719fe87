"""`mailfront config check|show|diff`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mailfront.cli.conventions import EXIT_FAILED, EXIT_USAGE, Noun, ask, config_path, json_option
from mailfront.cli.output import line, show_json, table

if TYPE_CHECKING:
    from mailfront.config.diff import Change
    from mailfront.config.model import Configuration


@click.group(cls=Noun)
def config() -> None:
    """The configuration file."""


@config.command()
@json_option
@click.option("--quiet", is_flag=True, help="Show only what is not well.")
def check(as_json: bool, quiet: bool) -> None:
    """Read the file, then try everything that it describes: ports, files, directory, nodes, accounts.

    Works whether or not the server runs, and changes nothing. Warnings do not fail it.
    """
    from mailfront.config.check import check as try_everything
    from mailfront.config.findings import Level, is_good
    from mailfront.config.load import load

    findings = try_everything(load(config_path()))
    good = is_good(findings)
    if as_json:
        shown = [{"level": each.level.value, "where": each.where, "text": each.text} for each in findings]
        show_json({"good": good, "findings": shown})
    else:
        kept = [each for each in findings if not quiet or each.level not in (Level.OK, Level.NOTE)]
        table(("", "where", "what"), [(each.level.value, each.where, each.text) for each in kept])
        failures = sum(each.level is Level.FAILED for each in findings)
        warnings = sum(each.level is Level.WARNING for each in findings)
        line(f"failed: {failures}, warnings: {warnings}, tried: {len(findings)}")
    if not good:
        click.get_current_context().exit(EXIT_FAILED)


@config.command()
@json_option
@click.option("--file", "from_file", is_flag=True, help="The file's settings instead of the running server's.")
def show(as_json: bool, from_file: bool) -> None:
    """All settings in force in the running server, defaults filled in. Secrets are in files and not shown."""
    from mailfront.config.diff import as_document
    from mailfront.config.load import load
    from mailfront.config.write import to_toml

    configuration = load(config_path()) if from_file else _running()
    if as_json:
        show_json(as_document(configuration))
    else:
        click.echo(to_toml(configuration), nl=False)


@config.command()
@json_option
def diff(as_json: bool) -> None:
    """What in the file differs from what runs, and whether a reload (SIGHUP) would apply it."""
    from mailfront.config.diff import Effect, compare, gone_node, verdict, with_possessions
    from mailfront.config.load import load

    changes = compare(_running(), load(config_path()))
    if any(gone_node(each) is not None for each in changes):
        changes = with_possessions(changes, _possessions())
    effect = verdict(changes)
    if as_json:
        shown = [
            {"path": each.path, "running": each.old, "file": each.new, "effect": each.effect.value,
             "reason": each.reason}
            for each in changes
        ]  # fmt: skip
        show_json({"effect": effect.value if changes else "none", "changes": shown})
        return
    if not changes:
        line("the file is what runs")
        return
    table(("setting", "running", "file", "applied by", "because"), [_row(each) for each in changes])
    line(
        {
            Effect.RELOAD: "A reload applies all of it.",
            Effect.RESTART: "A reload is refused and changes nothing; a restart applies all of it.",
            Effect.REFUSED: "Neither a reload nor a restart takes this.",
        }[effect]
    )


def _possessions() -> dict[str, str]:
    """What each node has that the server would not let go with it: the node's id, and the counts in words."""
    counted = {}
    for row in ask("node.list"):
        has = (("buckets", row["buckets_count"]), ("pins", row["pins_count"]),
               ("handed-off copies", row["held_for_others_count"] + row["waiting_for_it_count"]))  # fmt: skip
        counted[row["id"]] = ", ".join(f"{count} {what}" for what, count in has if count)
    return counted


def _row(change: "Change") -> tuple[str, str, str, str, str]:
    from mailfront.config.diff import Effect

    means = "nothing" if change.effect is Effect.REFUSED else change.effect.value
    return change.path, _value(change.old), _value(change.new), means, change.reason


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(each) for each in value)
    return "(not set)" if value is None else str(value)


def _running() -> "Configuration":
    from mailfront.base.errors import ConfigError
    from mailfront.cli.conventions import Failed
    from mailfront.config.load import parse

    running: dict[str, Any] = ask("config.show")
    try:
        return parse(running["text"], Path(running["path"]))
    except ConfigError as error:
        raise Failed(f"the server's configuration cannot be read by this version: {error}", EXIT_USAGE) from error
