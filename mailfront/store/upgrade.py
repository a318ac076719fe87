"""Bring a database to the revision that this mailfront knows.

Run by the one writer at its start, under the writer's lock and in one transaction: a kill leaves the old revision.
Never goes back. A revision that is not ours is refused, so that an older mailfront does not damage newer data.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect

from mailfront.store.errors import StoreRefused
from mailfront.store.migrations import HEAD

_SCRIPTS = Path(__file__).parent / "migrations"


def found_revision(connection: Connection) -> str | None:
    """The revision of a database; None when it is empty. Raises StoreRefused when it holds somebody else's tables."""
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" not in tables:
        if tables:
            raise StoreRefused("the database holds tables that are not mailfront's; give mailfront a file of its own")
        return None
    rows = connection.exec_driver_sql("SELECT version_num FROM alembic_version").all()
    if len(rows) != 1:
        raise StoreRefused(f"the database names {len(rows)} revisions instead of one; restore it from a backup")
    return str(rows[0][0])


def require_current(connection: Connection) -> None:
    """Refuse a database that is not at our revision (for readers, which do not change it)."""
    revision = found_revision(connection)
    if revision != HEAD:
        raise StoreRefused(f"the database has revision {revision or 'none'}, this mailfront reads {HEAD}")


def upgrade(connection: Connection) -> None:
    """Create or upgrade the tables inside the open transaction. Raises StoreRefused for an unknown revision."""
    revision = found_revision(connection)
    if revision == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    if revision is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(revision)
        except CommandError as error:
            raise StoreRefused(
                f"the database was written by a newer mailfront (revision {revision}, this one knows {HEAD}); "
                "start the newer version, or restore the backup from before the upgrade"
            ) from error
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
