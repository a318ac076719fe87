"""A configuration as TOML text, defaults filled in: what `config show` prints. Reading it back gives the same."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mailfront.config.diff import as_document
from mailfront.config.model import Configuration


def to_toml(configuration: Configuration) -> str:
    """Write the whole configuration, every setting with its value in force. Settings that are not set are left out."""
    return document_to_toml(as_document(configuration))


def document_to_toml(document: Mapping[str, Any]) -> str:
    """Write a JSON document of tables as TOML. None values are left out."""
    return "\n".join(_lines("", document)).lstrip("\n") + "\n"


def _lines(path: str, table: Mapping[str, Any]) -> Iterator[str]:
    """Plain values first: in TOML what follows a table header belongs to it."""
    plain = {name: value for name, value in table.items() if value is not None and not _is_section(value)}
    for name, value in plain.items():
        yield f"{name} = {_value(value)}"
    for name, value in table.items():
        inner = f"{path}.{name}" if path else name
        if isinstance(value, Mapping) and name not in plain:
            yield f"\n[{inner}]"
            yield from _lines(inner, value)
        elif _is_section(value):
            for element in value:
                yield f"\n[[{inner}]]"
                yield from _lines_of_element(inner, element)


def _lines_of_element(path: str, table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if value is not None:
            yield f"{name} = {_value(value)}"


def _is_section(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(element, Mapping) for element in value)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are valid in a TOML basic string; DEL is the one character that TOML also wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(element) for element in value)}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{name} = {_value(element)}" for name, element in value.items() if element is not None)
        return f"{{ {inner} }}"
    return str(value)
