"""The kinds of filters: those that mailfront brings and those of plug-ins, found the same way.

A kind is an entry point in the group `mailfront.filters`: its name is what `kind = "..."` says, its object a `Kind`. An
entry point that cannot be loaded takes only its own kind away: who uses it is told why. Found once per process.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, ValidationError, create_model

from mailfront.base.errors import ConfigError
from mailfront.base.printable import printable
from mailfront.filters.contract import Kind
from mailfront.filters.settings import MOST_CONCURRENCY, FilterSettings

GROUP = "mailfront.filters"


@dataclass(frozen=True, slots=True)
class Found:
    """All kinds by name, and why others could not be loaded."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


@cache
def found() -> Found:
    """See the module."""
    result = Found()
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        kind, problem = _load(entry)
        if kind is None:
            result.broken[entry.name] = problem
        else:
            result.kinds[entry.name] = kind
    return result


def kind_of(settings: FilterSettings) -> Kind:
    """The kind of a table that was read. Raises ConfigError if there is none."""
    kind = found().kinds.get(settings.kind)
    if kind is None:
        raise ConfigError((f"filter {settings.name}: there is no kind {printable(settings.kind)}",))
    return kind


def _load(entry: EntryPoint) -> tuple[Kind | None, str]:
    origin = entry.dist.name if entry.dist is not None else "?"
    try:
        loaded = entry.load()
    except Exception as error:  # a plug-in may raise anything at import
        return None, f"{printable(str(error) or type(error).__name__)} (package {origin}, {entry.value})"
    if not isinstance(loaded, Kind):
        return None, f"{entry.value} of package {origin} is no mailfront.filters.contract.Kind"
    return loaded, ""


def _model(name: str, kind: Kind) -> type[FilterSettings]:
    """The table of one kind: its `kind` is fixed and its `settings` have their own model."""
    default: Any = ...
    try:
        default = kind.settings()
    except ValidationError:
        pass  # something in it must be given, so the table must be there
    own: dict[str, Any] = {
        "kind": (Literal[name], ...),
        "concurrency": (Annotated[int, Field(ge=1, le=MOST_CONCURRENCY)], kind.concurrency),
        "settings": (kind.settings, default),
    }
    title = f"{name.title()}FilterSettings"
    return create_model(title, __base__=FilterSettings, __doc__=kind.summary, **own)


if TYPE_CHECKING:
    AnyFilterSettings = FilterSettings
else:
    AnyFilterSettings = Annotated[
        Union[tuple(_model(name, kind) for name, kind in found().kinds.items())],  # noqa: UP007
        Field(discriminator="kind"),
    ]
"""The type of a `[[filter]]` table: one model for each kind that is installed."""
