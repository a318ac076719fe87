"""`mailfront user where|kick`."""

from typing import Any

import click

from mailfront.cli.conventions import Noun, ask, json_option, reason_option
from mailfront.cli.output import facts, show_json
from mailfront.cli.session import show_kick, show_sessions


@click.group(cls=Noun)
def user() -> None:
    """One person: where the mailbox lives, and who has it open."""


@user.command()
@click.argument("address")
@json_option
def where(address: str, as_json: bool) -> None:
    """The home node of ADDRESS, why it is that one, and the open sessions."""
    found: dict[str, Any] = ask("user.where", {"address": address})
    if as_json:
        show_json(found)
        return
    facts(
        [
            ("address", found["address"]),
            ("home", found["home"]),
            ("reason", found["reason"]),
            ("mailbox key", found["mailbox_key"]),
            ("node user", found["node_user"]),
            ("pinned to", found["pinned"]),
            ("secondaries", found["secondaries"]),
            ("sessions", len(found["sessions"])),
        ]
    )
    if found["sessions"]:
        show_sessions(found["sessions"])


@user.command()
@click.argument("address")
@click.option("--dry-run", is_flag=True, help="Only show what would be ended.")
@reason_option
@json_option
def kick(address: str, dry_run: bool, reason: str, as_json: bool) -> None:
    """End all sessions of ADDRESS now. The person may log in again at once."""
    show_kick(ask("user.kick", {"address": address, "dry_run": dry_run, "reason": reason}), as_json)
