"""The reference page of all settings, made from the models. A test compares it with `docs/reference/settings.md`.

Run `python -m mailfront.config.reference > docs/reference/settings.md` after changing a setting.
"""

import sys
import types
import typing
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailfront.base.settings import DurationS, FilePath, SizeBytes
from mailfront.base.units import show_duration, show_size
from mailfront.cluster.settings import NodePort
from mailfront.config.meanings import meaning
from mailfront.config.mistakes import models_in
from mailfront.config.model import Configuration
from mailfront.config.write import document_to_toml
from mailfront.filters.contract import Kind, Stage
from mailfront.filters.registry import found
from mailfront.filters.settings import FilterSettings

_HEAD = """\
# Settings

One TOML file, by default `/etc/mailfront/mailfront.toml`. This page is made from the program; edit the models, not the
page. A setting without a default must be given. Relative paths are relative to the file's folder.

- A **duration** is text with units: `"250ms"`, `"30s"`, `"1h30m"`, `"5d"`. A **size** likewise: `"128KiB"`, `"50MiB"`.
- Passwords and keys are never in this file: settings that end in `_file` name a file whose first line is the secret.
- `mailfront config check` reports all mistakes at once and tries what the file describes; `mailfront config diff` says
  what a reload would change.
"""
_MARKERS = (
    (typing.get_args(DurationS)[1], "duration"),
    (typing.get_args(SizeBytes)[1], "size"),
    (typing.get_args(FilePath)[1], "path"),
)
_PLAIN_TYPES: dict[Any, str] = {
    NodePort: 'a port, a table such as `{ port = 24, tls = "starttls" }`, or `"unix:/path"`',
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    IPv4Network: "network",
    IPv6Network: "network",
}


def render() -> str:
    """The whole page, in Markdown."""
    return _HEAD + "".join(
        f"\n{block}"
        for name, field in Configuration.model_fields.items()
        for block in (_filters() if name == "filter" else _section(name, field))
    )


def _filters() -> Iterator[str]:
    """What all filters have is said once; each kind then has its own settings."""
    yield "## `[[filter]]`\n"
    yield f"{_text(FilterSettings.__doc__)}\n"
    fields = FilterSettings.model_fields
    yield "".join(
        _entry(FilterSettings, name, each)
        for name, each in fields.items()
        if name != "settings" and not _is_table(each)
    )
    yield from _section("filter.only_for", fields["only_for"])
    for name, kind in found().kinds.items():
        yield f'## `[filter.settings]`, kind = "{name}"\n'
        yield f"{_text(kind.summary)}{_asked_at(kind)} {_text(kind.settings.__doc__)}\n"
        yield "".join(_entry(kind.settings, each, field) for each, field in kind.settings.model_fields.items())


def _asked_at(kind: Kind) -> str:
    stages = kind.stages
    if not isinstance(stages, frozenset):
        return ""
    return f" Asked at {', '.join(f'`{each.value}`' for each in Stage if each in stages)}."


def _section(path: str, field: FieldInfo) -> Iterator[str]:
    models = list(models_in(field.annotation))
    repeated = typing.get_origin(field.annotation) is tuple or _may_be_tables(field)
    for model in models:
        kind = f", kind = {_kind(model)}" if len(models) > 1 else ""
        yield f"## `{f'[[{path}]]' if repeated else f'[{path}]'}`{kind}\n"
        yield f"{_text(model.__doc__)}\n"
        plain = {name: each for name, each in model.model_fields.items() if not _is_table(each)}
        if plain:
            yield "".join(_entry(model, name, each) for name, each in plain.items())
        for name, each in model.model_fields.items():
            if name not in plain or _may_be_tables(each):
                yield from _section(f"{path}.{name}", each)


def _is_table(field: FieldInfo) -> bool:
    """Whether a field is written as a section of its own and in no shorter way."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and not field.metadata


def _may_be_tables(field: FieldInfo) -> bool:
    """Whether a plain setting may also be written as `[[tables]]`."""
    return typing.get_origin(field.annotation) in (typing.Union, types.UnionType) and any(
        typing.get_origin(each) is tuple and list(models_in(each)) for each in typing.get_args(field.annotation)
    )


def _kind(model: type[BaseModel]) -> str:
    return " or ".join(f'"{value}"' for value in typing.get_args(model.model_fields["kind"].annotation))


def _entry(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    facts = [_type(field.annotation, field.metadata), *_bounds(field)]
    facts.append("**required**" if field.is_required() else _default(field))
    return f"- **`{name}`**: {'; '.join(facts)}.\n  {_text(meaning(model, name))}\n"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value in (None, (), ""):
        return "default: none"
    if isinstance(value, BaseModel):
        return f"default: `{document_to_toml({'_': value.model_dump(mode='json')}).removeprefix('_ = ').strip()}`"
    return f"default: `{_written(value, field)}`"


def _written(value: Any, field: FieldInfo) -> str:
    kind = _type(field.annotation, field.metadata)
    if kind == "duration":
        value = show_duration(value)
    elif kind == "size":
        value = show_size(value)
    elif isinstance(value, tuple):
        value = [str(each) for each in value]
    elif not isinstance(value, bool | int | float):
        value = str(value)
    return document_to_toml({"_": value}).removeprefix("_ = ").strip()


def _bounds(field: FieldInfo) -> Iterator[str]:
    kind = _type(field.annotation, field.metadata)
    show: Callable[[Any], str] = show_duration if kind == "duration" else show_size if kind == "size" else str
    bounds = list(field.metadata)
    low = next((show(each.ge) for each in bounds if isinstance(each, annotated_types.Ge)), None)
    above = next((show(each.gt) for each in bounds if isinstance(each, annotated_types.Gt)), None)
    high = next((show(each.le) for each in bounds if isinstance(each, annotated_types.Le)), None)
    if low is not None and high is not None:
        yield f"{low} to {high}"
    elif low is not None:
        yield f"at least {low}"
    elif above is not None and high is not None:
        yield f"more than {above}, at most {high}"
    elif above is not None:
        yield f"more than {above}"
    elif high is not None:
        yield f"at most {high}"


def _type(annotation: Any, metadata: list[Any]) -> str:
    for marker, name in _MARKERS:
        if marker in metadata:
            return name
    if annotation in _PLAIN_TYPES:
        return _PLAIN_TYPES[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0], list(arguments[1:]))
    if origin is typing.Literal:
        return ", ".join(f'`"{value}"`' for value in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0], [])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(each, []) for each in arguments if each is not type(None)))
    models = list(models_in(annotation))
    return "table" if models else "text"


def _text(documentation: str | None) -> str:
    return " ".join((documentation or "").split())


if __name__ == "__main__":
    sys.stdout.write(render())
