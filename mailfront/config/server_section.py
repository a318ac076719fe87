"""The configuration file as text, and its `[server]` section alone.

Commands that only have to find the running server read no more than this: they start quickly, and they work while
somebody edits the rest of the file. The whole is read by `load`, which stands on this module.
"""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mailfront.base.errors import ConfigError
from mailfront.base.printable import printable
from mailfront.config.mistakes import problems_of
from mailfront.config.settings import ServerSettings

MAX_FILE_BYTES = 4 * 1024 * 1024

M = TypeVar("M", bound=BaseModel)


class _File(BaseModel):
    """A file of which only one section counts."""

    model_config = ConfigDict(extra="ignore")

    server: ServerSettings


def load_server(path: Path) -> ServerSettings:
    """Read `[server]` of the file at `path`. Raises ConfigError; mistakes elsewhere in the file do not matter."""
    data = read_toml(read_text(path), path)
    try:
        server = _File.model_validate(data).server
    except ValidationError as error:
        raise ConfigError(problems_of(error, data, _File)) from error
    return with_absolute_paths(server, path.absolute().parent)


def read_text(path: Path) -> str:
    """Read the file at `path` without looking at what it says. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read: {error.strerror}",)) from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError((f"{path}: is larger than {MAX_FILE_BYTES} bytes; is it the right file?",))
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError((f"{path}: is not UTF-8 (byte {error.start}); TOML must be",)) from error


def read_toml(text: str, path: Path) -> dict[str, Any]:
    """Read TOML. Raises ConfigError with the first mistake, which is all that can be seen."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((f"{path}: is not TOML: {printable(str(error))}",)) from error


def with_absolute_paths(model: M, folder: Path) -> M:
    """The same settings, relative paths taken from `folder`."""
    changes: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        absolute = _absolute(value, folder)
        if absolute is not value:
            changes[name] = absolute
    return model.model_copy(update=changes) if changes else model


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return value if value.is_absolute() else folder / value
    if isinstance(value, BaseModel):
        return with_absolute_paths(value, folder)
    if isinstance(value, tuple):
        elements = tuple(_absolute(element, folder) for element in value)
        return elements if any(new is not old for new, old in zip(elements, value, strict=True)) else value
    return value
