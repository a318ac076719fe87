"""Write a configuration as TOML: tables, arrays of tables, and plain values (Python only reads TOML)."""

import json
from collections.abc import Mapping, Sequence


def toml_text(document: Mapping[str, object]) -> str:
    """Return the document as TOML. A list of mappings is an array of tables; deeper mappings are inline tables."""
    blocks: list[str] = []
    for name, value in document.items():
        if isinstance(value, Mapping):
            blocks.append(f"[{name}]\n{_lines(value)}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            blocks.extend(f"[[{name}]]\n{_lines(table)}" for table in value)
        else:
            raise TypeError(f"{name}: every name at the top is a table")
    return "\n".join(blocks)


def _lines(table: Mapping[str, object]) -> str:
    return "".join(f"{name} = {_value(value)}\n" for name, value in table.items() if value is not None)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        inner = [f"{name} = {_value(inner)}" for name, inner in value.items() if inner is not None]
        return "{ " + ", ".join(inner) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value))  # a JSON string is a TOML string
