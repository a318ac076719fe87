"""Settings that say where the database is and when it is too full."""

from typing import Annotated

from pydantic import AfterValidator

from mailfront.base.errors import ConfigError
from mailfront.base.settings import Settings, SizeBytes
from mailfront.store.location import database_path


def _known(url: str) -> str:
    try:
        database_path(url)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return url


StateUrl = Annotated[str, AfterValidator(_known)]
"""A database: `"sqlite:////var/lib/mailfront/state.db"` (four slashes: the path is absolute)."""


class StoreLimits(Settings):
    """What the store adds to `[limits]`."""

    free_space: SizeBytes = 256 * 1024 * 1024
    """Free disk space under which nothing more is queued; a message also needs twice its own size."""
