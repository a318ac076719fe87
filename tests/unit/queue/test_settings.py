"""`[queue]` and the store's limits: defaults, and what is refused."""

import pytest
from pydantic import TypeAdapter, ValidationError

from mailfront.queue.settings import QueueSettings
from mailfront.store.settings import StateUrl, StoreLimits


def test_defaults() -> None:
    """An empty table is a good one."""
    settings = QueueSettings()
    assert settings.retry == (60.0, 300.0, 900.0, 3600.0, 10800.0)
    assert (settings.lifetime, settings.warn_after, settings.max_bytes) == (432_000.0, 14_400.0, None)
    assert StoreLimits().free_space == 256 * 1024 * 1024


def test_from_a_file() -> None:
    """Durations and sizes are written with units, lists as TOML gives them."""
    settings = QueueSettings.model_validate({"retry": ["5s", "1m"], "lifetime": "1d", "max_bytes": "2GiB"})
    assert (settings.retry, settings.lifetime, settings.max_bytes) == ((5.0, 60.0), 86_400.0, 2 * 1024**3)


@pytest.mark.parametrize(
    "values",
    [
        {"retry": []},
        {"retry": ["0s"]},
        {"retry": [60]},
        {"lifetime": "0s"},
        {"store": "elsewhere"},
        {"double_bounce": "postmaster"},
    ],
)
def test_refused(values: dict[str, object]) -> None:
    """What cannot work, and what this version does not have, is refused."""
    with pytest.raises(ValidationError):
        QueueSettings.model_validate(values)


def test_state_urls() -> None:
    """The database is named by an absolute SQLite path; PostgreSQL is refused by name."""
    adapter = TypeAdapter(StateUrl)
    assert adapter.validate_python("sqlite:////var/lib/mailfront/state.db")
    with pytest.raises(ValidationError, match="not in this version"):
        adapter.validate_python("postgresql://mailfront@db/mail")
    with pytest.raises(ValidationError, match="absolute path"):
        adapter.validate_python("sqlite:///state.db")
