"""Turning what the models say about a file into lines for people: the path in the file, what is wrong, what to do.

Paths are written as in `node[2].lmtp.port`; lists count from 0, and where the table has a name of its own (an id, an
address) the line says it too. Values are shown only where a model's own message shows them.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mailfront.base.printable import printable
from mailfront.config.meanings import meaning

Path = tuple[str | int, ...]

LATER = frozenset(
    {
        "directory.attributes.class",
        "listen[].auth",
        "storage.takeover",
    }
)
"""Settings that mailfront will have but does not have yet, without list indexes."""

_PLAIN_REASONS = {
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": 'must be text in quotes, such as "..."',
    "float_type": "must be a number",
    "tuple_type": "must be a list, such as [...]",
    "list_type": "must be a list, such as [...]",
    "is_instance_of": 'must be text in quotes, such as "..."',
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}
_NAMING = ("id", "name", "address", "domain", "names")


def problems_of(error: ValidationError, data: dict[str, Any], model: type[BaseModel]) -> tuple[str, ...]:
    """All mistakes that validation found, one line each, in the order of the models."""
    found = [
        (details, *_path_in_file(details["loc"], data, last_may_be_absent=details["type"] == "missing"))
        for details in error.errors(include_url=False)
    ]
    lines: dict[Path, str] = {}
    for details, path, owner in found:
        # Where several forms are allowed, each form complains: the first will do, and one that got further is better.
        # A list is called too short also because its elements are wrong.
        is_superseded = details["type"] in (*_PLAIN_REASONS, "too_short") and any(
            len(other) > len(path) and other[: len(path)] == path for _, other, _ in found
        )
        if not is_superseded:
            lines.setdefault(path, _line(details, path, owner, model))
    return tuple(lines.values())


def show_path(path: Path) -> str:
    """Write a path as people do: `node[2].lmtp`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _line(details: ErrorDetails, path: Path, owner: str, model: type[BaseModel]) -> str:
    where = printable(show_path(path)) or "the file"
    return f"{where}: {_reason(details, path, model)}{owner}"


def _path_in_file(loc: Path, data: Any, *, last_may_be_absent: bool) -> tuple[Path, str]:
    """Drop the steps that pydantic adds for unions; find what the innermost list element calls itself."""
    path: list[str | int] = []
    owner = ""
    here = data
    for number, step in enumerate(loc):
        if isinstance(here, dict) and isinstance(step, str) and step in here:
            here = here[step]
        elif isinstance(here, list | tuple) and isinstance(step, int) and step < len(here):
            here = here[step]
            owner = _own_name(here) or owner
        elif not (last_may_be_absent and number == len(loc) - 1):
            continue
        path.append(step)
    return tuple(path), owner


def _own_name(table: Any) -> str:
    if isinstance(table, dict):
        for name in _NAMING:
            if isinstance(table.get(name), str):
                return f' ({name} "{printable(table[name], 80)}")'
    return ""


def _reason(details: ErrorDetails, path: Path, model: type[BaseModel]) -> str:
    kind = details["type"]
    if kind == "extra_forbidden":
        return _unknown(path, model)
    if kind == "missing":
        return _missing(path, model)
    if kind == "value_error":
        return details["msg"].removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        return f'kind "{printable(details["ctx"]["tag"], 40)}" is not one of {details["ctx"]["expected_tags"]}'
    if kind == "union_tag_not_found":
        return "kind is missing"
    if kind == "literal_error":
        return f"must be one of {details['ctx']['expected'].replace(' or ', ', ')}"
    if kind == "too_short":
        return f"needs at least {details['ctx']['min_length']} of them"
    if kind in _PLAIN_REASONS:
        return _PLAIN_REASONS[kind]
    return details["msg"].replace("Input should", "must").replace("must be a valid", "must be a")


def _unknown(path: Path, model: type[BaseModel]) -> str:
    without_indexes = show_path(tuple("[]" if isinstance(step, int) else step for step in path)).replace(".[]", "[]")
    if without_indexes in LATER:
        return "is not in this version of mailfront; remove it"
    known = sorted({name for table in _models_at(path[:-1], model) for name in table.model_fields})
    close = difflib.get_close_matches(str(path[-1]), known, n=1) if path else []
    if close:
        return f"no such setting; did you mean {close[0]}?"
    return "no such setting" + (f"; known here: {', '.join(known)}" if known else "")


def _missing(path: Path, model: type[BaseModel]) -> str:
    name = str(path[-1]) if path else ""
    for table in _models_at(path[:-1], model):
        for field_name, field in table.model_fields.items():
            if name == field_name:
                models = list(models_in(field.annotation))
                text = meaning(table, name) or (models[0].__doc__ if len(models) == 1 else None) or ""
                return f"is missing. {' '.join(text.split())}".rstrip()
    return "is missing"


def _models_at(path: Path, model: type[BaseModel]) -> Sequence[type[BaseModel]]:
    """The models that a table at `path` may be: several where the file has a choice."""
    found: list[type[BaseModel]] = [model]
    for step in path:
        if isinstance(step, str):
            found = [
                inner
                for table in found
                for name, field in table.model_fields.items()
                if step == name
                for inner in models_in(field.annotation)
            ]
    return found


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """All settings models inside an annotation: through unions, lists and `Annotated`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from models_in(argument)
