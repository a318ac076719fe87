"""The catalogue of events."""

import ast
from pathlib import Path

import pytest

from mailfront.observe import events

PACKAGE = Path(events.__file__).parent.parent


def emitted() -> list[tuple[str, str, tuple[str, ...]]]:
    """Each `emit("name", field=...)` in the source: place, event name, keywords."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called == "emit" and isinstance(first, ast.Constant) and isinstance(first.value, str):
                place = f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"
                found.append((place, first.value, tuple(word.arg for word in node.keywords if word.arg)))
    return found


def test_every_event_in_the_source_is_declared() -> None:
    """Each emit() call in mailfront names a declared event and declared fields."""
    wrong = [f"{place}: {text}" for place, event, fields in emitted() if (text := events.problem(event, fields))]
    assert wrong == []


def test_undeclared_names_and_fields_are_named() -> None:
    """problem() says which name or field is not declared, and nothing for a good event."""
    assert "'no_such_event' is not declared" in events.problem("no_such_event", ())
    assert "undeclared fields: colour, taste" in events.problem("delivery", {"node": 1, "taste": 2, "colour": 3})
    assert events.problem("delivery", {"node": 1, "outcome": 2}) == ""


def test_every_field_is_documented_and_no_common_field_is_redeclared() -> None:
    """Each event and field has a text; time, event and process belong to the log itself."""
    for kind in events.CATALOGUE.values():
        assert kind.summary.endswith(".")
        assert all(kind.fields.values()), kind.name
        assert not kind.fields.keys() & events.COMMON_FIELDS.keys(), kind.name


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("ana@example.edu", "a***@example.edu"),
        ('"a@b"@example.edu', '"***@example.edu'),
        ("postmaster", "p***"),
        ("", ""),
    ],
)
def test_masking_keeps_the_domain_only(address: str, masked: str) -> None:
    """A masked address shows its domain and one character, also for a quoted local part with an @."""
    assert events.mask_address(address) == masked
