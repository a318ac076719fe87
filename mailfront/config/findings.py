"""What `config check` found: one line per thing that it tried."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """OK: tried and well. NOTE: worth knowing. WARNING: works, and should be looked at. FAILED: mail would suffer."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """`where` is the setting or node that it is about; `text` says what was seen and what to do."""

    level: Level
    where: str
    text: str


def ok(where: str, text: str) -> Finding:
    """It was tried and is well."""
    return Finding(Level.OK, where, text)


def note(where: str, text: str) -> Finding:
    """Worth knowing; nothing has to be done."""
    return Finding(Level.NOTE, where, text)


def warning(where: str, text: str) -> Finding:
    """It works, or could not be tried; somebody should look."""
    return Finding(Level.WARNING, where, text)


def failed(where: str, text: str) -> Finding:
    """It does not work."""
    return Finding(Level.FAILED, where, text)


def is_good(findings: list[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.level is not Level.FAILED for finding in findings)
