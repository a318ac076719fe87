"""What changed between two configurations, and what a reload would do about it. Pure.

Nodes are compared by id, listeners by address, filters by name and routes by what they are for, so that reordering them
is no change (of filters it is one, and shown as the order). Three effects: a reload applies it; a reload is refused and
a restart applies it; or neither takes it. A reload is all or nothing: one setting that it cannot apply leaves the whole
old configuration in force. Whether a node that goes away still owns mailboxes is known only to the running server,
which then refuses the reload; `with_possessions` puts its word into the changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from mailfront.config.model import Configuration


class Effect(Enum):
    """What brings a change into force: a reload, a restart, nothing."""

    RELOAD = "reload"
    RESTART = "restart"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting that differs. `old` and `new` are JSON values as written in the file; None: not set."""

    path: str
    old: Any
    new: Any
    effect: Effect
    reason: str


_NEEDS_RESTART = {
    "server.user": "root is given up once, at the start",
    "server.state_dir": "the database and the event files are open there",
    "server.runtime_dir": "the sockets are there",
    "server.state": "the database is open",
    "server.admin_group": "the admin socket is made at the start",
}
_REFUSED = {
    "storage.cluster": "it is the key of the placement hash: every mailbox would get another bucket",
    "storage.layout": "mailboxes would have to be moved",
    "directory.kind": "it makes the mailbox keys: every mailbox would get another bucket",
    "directory.attributes.id": "it is the mailbox key: every mailbox would get another bucket",
    "directory.attributes.mailbox": "it is the mailbox key: every mailbox would get another bucket",
    "directory.one_namespace": "it is part of the mailbox key: every mailbox would get another bucket",
}
_FIXED_WHILE_BOUND = (".role", ".socket_mode")
_NAMED_BY = {"node": ("id",), "listen": ("address",), "filter": ("name",), "route": ("domain", "address")}
_IN_ORDER = {"filter": "name"}


def compare(running: Configuration, new: Configuration) -> tuple[Change, ...]:
    """All settings in which `new` differs from `running`, in the order of their paths in the file."""
    old_values, new_values = dict(_values(running)), dict(_values(new))
    return tuple(
        _change(path, old_values.get(path), new_values.get(path))
        for path in dict.fromkeys((*old_values, *new_values))
        if old_values.get(path) != new_values.get(path)
    )


def with_possessions(changes: tuple[Change, ...], possessions: Mapping[str, str]) -> tuple[Change, ...]:
    """The changes as the running server sees them. `possessions`: what each node has that cannot go away with it."""
    told = []
    for change in changes:
        has = possessions.get(str(change.old)) if gone_node(change) is not None else None
        told.append(replace(change, effect=Effect.REFUSED, reason=f"it still has {has}") if has else change)
    return tuple(told)


def gone_node(change: Change) -> str | None:
    """The id of the node that this change takes out, if it does."""
    is_node = change.path.startswith("node[") and change.path.endswith(".id")
    return str(change.old) if is_node and change.new is None else None


def verdict(changes: tuple[Change, ...]) -> Effect:
    """What brings all these changes into force together. RELOAD if there are none."""
    effects = {change.effect for change in changes}
    for effect in (Effect.REFUSED, Effect.RESTART):
        if effect in effects:
            return effect
    return Effect.RELOAD


def as_document(configuration: Configuration) -> dict[str, Any]:
    """The configuration as a JSON-ready document with all defaults filled in. It holds no secret, only their files."""
    document: dict[str, Any] = configuration.model_dump(mode="json")
    return document


def _values(configuration: Configuration) -> Iterator[tuple[str, Any]]:
    for section, value in as_document(configuration).items():
        yield from _flat(section, value)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}", inner)
    elif isinstance(value, list) and value and all(isinstance(element, dict) for element in value):
        naming = _NAMED_BY.get(path, ())
        for number, element in enumerate(value):
            name = next((f'"{element[key]}"' for key in naming if element[key] is not None), number)
            yield from _flat(f"{path}[{name}]", element)
        if path in _IN_ORDER:
            yield f"{path}.order", [element[_IN_ORDER[path]] for element in value]
    else:
        yield path, value


def _change(path: str, old: Any, new: Any) -> Change:
    effect, reason = Effect.RELOAD, ""
    if path in _REFUSED:
        effect, reason = Effect.REFUSED, _REFUSED[path]
    elif path in _NEEDS_RESTART:
        effect, reason = Effect.RESTART, _NEEDS_RESTART[path]
    elif path.startswith("listen[") and path.endswith(_FIXED_WHILE_BOUND) and old is not None and new is not None:
        effect, reason = Effect.RESTART, "a bound socket keeps its role and mode"
    elif path.startswith("node[") and path.endswith(".id") and new is None:
        reason = "refused if the node still owns mailboxes"
    elif path.startswith("node[") and path.endswith((".weight", ".id")):
        reason = "moves no mailbox by itself"
    return Change(path=path, old=old, new=new, effect=effect, reason=reason)
