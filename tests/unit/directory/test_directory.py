"""The directory as others see it, over a file."""

from pathlib import Path

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.errors import ConfigError
from mailfront.directory.answers import Found, NoSuch
from mailfront.directory.directory import Directory
from mailfront.directory.settings import LdapSettings, StaticSettings
from mailfront.mail.address import Address

USERS = '[[user]]\naddress = "ana@example.edu"\nmailbox = "ana"\n'


async def test_a_static_directory_answers_and_counts(tmp_path: Path) -> None:
    """Both answers come from the file, no LDAP search is counted, nothing is in trouble."""
    (tmp_path / "users.toml").write_text(USERS)
    settings = StaticSettings.model_validate({"kind": "static", "file": str(tmp_path / "users.toml")})
    directory = Directory(settings, state_dir=tmp_path, clock=ManualClock())
    await directory.open()
    assert isinstance(await directory.recipient(Address("ana", "example.edu")), Found)
    assert isinstance(await directory.recipient(Address("bob", "example.edu")), NoSuch)
    assert (directory.counters.lookups, directory.counters.ldap_searches) == (2, 0)
    assert await directory.reachable() == ()
    assert directory.troubles() == ()
    await directory.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bind_dn": "cn=x", "password_file": "/nonexistent/password"}, "cannot read the secret"),
        ({"urls": ["ldaps://x"], "ca": "/nonexistent/ca.pem"}, "directory.ca"),
    ],
)
def test_a_missing_file_is_a_configuration_error(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    """Files that the settings name are read before anything connects."""
    settings = LdapSettings.model_validate({"kind": "ldap", "urls": ["ldap://x"], "base": "dc=x"} | changes)
    with pytest.raises(ConfigError, match=said):
        Directory(settings, state_dir=tmp_path, clock=ManualClock())
