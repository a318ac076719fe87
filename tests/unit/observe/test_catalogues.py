"""The catalogues of metrics and events promise nothing that the program does not do."""

import re
from pathlib import Path

import pytest

import mailfront
from mailfront.observe import events, meters, metrics

SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for path in Path(mailfront.__file__).parent.rglob("*.py")
    if path.parent.name != "observe" or path.name in ("health.py", "log.py")
)
METERS = sorted(name for name, value in vars(metrics).items() if name.isupper() and hasattr(value, "help_text"))


def test_the_lists_are_not_empty() -> None:
    """What the other tests go through is all that is declared."""
    assert len(METERS) == len(meters.CATALOGUE)
    assert events.CATALOGUE


@pytest.mark.parametrize("name", METERS)
def test_every_metric_is_counted_somewhere(name: str) -> None:
    """A metric that nothing sets would look like a zero."""
    assert re.search(rf"\bmetrics\.{name}\.(inc|set|observe)\(", SOURCES)


@pytest.mark.parametrize("name", sorted(events.CATALOGUE))
def test_every_event_is_emitted_somewhere(name: str) -> None:
    """An event that nothing emits would be waited for in vain."""
    assert f'"{name}"' in SOURCES
