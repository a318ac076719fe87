"""What every package's `settings.py` is made of: a strict base model, durations and sizes.

Settings are frozen after they are read. An unknown name is a mistake, not ignored. pydantic reports all mistakes of
a file at once, each with its path; `config` turns them into lines for people.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from mailfront.base.units import parse_duration_s, parse_size_bytes, show_duration, show_size


class Settings(BaseModel):
    """Base of all settings models."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)


def _duration(value: Any) -> Any:
    return parse_duration_s(value) if isinstance(value, str) else _refuse(value, '"30s"')


def _size(value: Any) -> Any:
    return parse_size_bytes(value) if isinstance(value, str) else _refuse(value, '"50MiB"')


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _refuse(value: Any, example: str) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value!r} has no unit; write it as text with one, such as {example}")
    return value


DurationS = Annotated[float, BeforeValidator(_duration), PlainSerializer(show_duration, return_type=str)]
"""Seconds, written `"30s"` in the file. Defaults in code are plain floats."""

SizeBytes = Annotated[int, BeforeValidator(_size), PlainSerializer(show_size, return_type=str)]
"""Bytes, written `"50MiB"` in the file. Defaults in code are plain ints."""

FilePath = Annotated[Path, BeforeValidator(_path)]
"""A path, written as text. Whether it can be read is asked by `config check`, not by the model."""
