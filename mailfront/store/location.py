"""Where a database is: reads the URL of the configuration. Pure; does not open anything."""

from pathlib import Path

from mailfront.base.errors import ConfigError

_PREFIX = "sqlite:///"


def database_path(url: str) -> Path:
    """The file behind a database URL. Raises ConfigError if the URL is not one that this version can open."""
    if url.startswith(("postgresql:", "postgresql+", "postgres:")):
        raise ConfigError(("PostgreSQL is not in this version; write sqlite:////PATH",))
    path = Path(url.removeprefix(_PREFIX))
    if not url.startswith(_PREFIX) or not path.is_absolute() or "?" in url or "\0" in url:
        raise ConfigError((f'{url!r} must be sqlite with an absolute path: "sqlite:////var/lib/mailfront/state.db"',))
    return path
