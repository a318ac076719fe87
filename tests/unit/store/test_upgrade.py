"""Migrations: what they make is what the schema says, and only our own revisions are accepted."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from mailfront.base.clock import SystemClock
from mailfront.store import upgrade as upgrade_module
from mailfront.store.engine import reader_engine
from mailfront.store.errors import StoreRefused
from mailfront.store.migrations import HEAD
from mailfront.store.schema import metadata
from mailfront.store.writer import Store


def _url(directory: Path) -> str:
    return f"sqlite:///{directory}/state.db"


def test_head_is_the_newest_script() -> None:
    """HEAD and the scripts agree, so that a start without Alembic is right."""
    config = Config()
    config.set_main_option("script_location", str(Path(upgrade_module.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrated_database_equals_the_schema(tmp_path: Path) -> None:
    """The tables and indexes that the migrations make are those that the statements are built from."""
    Store.open(_url(tmp_path), SystemClock())._close()
    with reader_engine(tmp_path / "state.db").connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    """A current database is opened as it is."""
    for _ in range(2):
        Store.open(_url(tmp_path), SystemClock())._close()
    other = sqlite3.connect(tmp_path / "state.db")
    assert other.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
    other.close()


def test_a_database_of_the_first_revision_is_brought_up(tmp_path: Path) -> None:
    """What an older mailfront wrote gets what came since."""
    Store.open(_url(tmp_path), SystemClock())._close()
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("DROP INDEX recipient_unknown")
    other.execute("DROP TABLE imported")
    other.execute("DROP TABLE tally")
    other.execute("ALTER TABLE message DROP COLUMN sender_proven")
    for column in ("via", "list_owner", "warned"):
        other.execute(f"ALTER TABLE recipient DROP COLUMN {column}")
    other.execute("UPDATE alembic_version SET version_num = '0001'")
    other.close()
    Store.open(_url(tmp_path), SystemClock())._close()
    with reader_engine(tmp_path / "state.db").connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_newer_revision_is_refused(tmp_path: Path) -> None:
    """A database of a newer mailfront is not touched."""
    Store.open(_url(tmp_path), SystemClock())._close()
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.close()
    with pytest.raises(StoreRefused, match="newer mailfront \\(revision 9999"):
        Store.open(_url(tmp_path), SystemClock())
    with pytest.raises(StoreRefused, match="revision 9999"):
        Store.open_to_read(_url(tmp_path), SystemClock())


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    """Tables that are not ours are left alone."""
    other = sqlite3.connect(tmp_path / "state.db")
    other.execute("CREATE TABLE contacts (name TEXT)")
    other.commit()
    other.close()
    with pytest.raises(StoreRefused, match="not mailfront's"):
        Store.open(_url(tmp_path), SystemClock())


def test_a_failed_upgrade_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations run in one transaction: a crash in the middle leaves an empty database, and the next start works."""

    def stop(*_: object, **__: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr("alembic.operations.Operations.create_index", stop)
        with pytest.raises(RuntimeError, match="killed here"):
            Store.open(_url(tmp_path), SystemClock())
    Store.open(_url(tmp_path), SystemClock())._close()
