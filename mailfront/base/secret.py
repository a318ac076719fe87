"""Passwords and keys that cannot be printed by accident."""

import hmac
from pathlib import Path

from mailfront.base.errors import ConfigError


class Secret:
    """Holds a secret. Its text form is `***`; only `reveal()` gives the value, at the place that sends it."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The secret itself. Never log, format or store what this returns."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled")


def read_secret_file(path: Path) -> Secret:
    """Read a secret from the first line of a file. Raises ConfigError if it cannot be read or is empty."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(
            (f"{path}: cannot read the secret: {error.strerror}; check the path and its owner",)
        ) from error
    if not lines or not lines[0].strip():
        raise ConfigError((f"{path}: the first line must hold the secret, and it is empty",))
    return Secret(lines[0].strip())
