"""What `[directory]` accepts, and how it refuses."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mailfront.directory.settings import DirectorySettings, LdapSettings, StaticSettings

GOOD: dict[str, Any] = {"kind": "ldap", "urls": ["ldaps://ldap1.example.edu"], "base": "dc=example,dc=edu"}


def test_the_kind_decides_which_settings_there_are() -> None:
    """`ldap` and `static` are two models under one name."""
    adapter: TypeAdapter[LdapSettings | StaticSettings] = TypeAdapter(DirectorySettings)
    assert isinstance(adapter.validate_python(GOOD), LdapSettings)
    assert isinstance(adapter.validate_python({"kind": "static", "file": "users.toml"}), StaticSettings)
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "static", "file": "users.toml", "urls": []})


def test_the_documented_defaults() -> None:
    """An LDAP directory needs a server and a base; everything else has a default."""
    settings = LdapSettings.model_validate(GOOD)
    assert (settings.timeout, settings.pool) == (5.0, 4)
    assert (settings.cache, settings.negative, settings.stale, settings.snapshot) == (300.0, 30.0, 86400.0, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"urls": []}, "at least 1"),
        ({"urls": ["ldap1.example.edu"]}, "is not a server"),
        ({"urls": ["https://ldap1"]}, "is not a server"),
        ({"urls": ["ldap://user@ldap1"]}, "is not a server"),
        ({"urls": ["ldap://:389"]}, "names no host"),
        ({"urls": ["ldap://ldap1/dc=example"]}, "directory.base"),
        ({"urls": ["ldap://ldap1:99999"]}, "not a URL"),
        ({"urls": ["ldap://a", "ldap://a"]}, "twice"),
        ({"starttls": True}, "starttls is for ldap:// only"),
        ({"bind_dn": "cn=x"}, "need each other"),
        ({"password_file": "/x"}, "need each other"),
        ({"recipient_filter": "(mail=x)"}, "no placeholder"),
        ({"snapshot": "1h", "recipient_filter": "(mail=*{address})"}, "remove snapshot"),
        ({"timeout": "0s"}, "greater than or equal to 1"),
        ({"timeout": 5}, "no unit"),
        ({"login_filter": "(uid={user})"}, "{login}"),
        ({"attributes": {"mailbox": "u)(id"}}, "match pattern"),
    ],
)
def test_a_mistake_is_refused_with_its_reason(change: dict[str, Any], said: str) -> None:
    """Each mistake is named, in words that say what to do."""
    with pytest.raises(ValidationError) as caught:
        LdapSettings.model_validate(GOOD | change)
    assert said in str(caught.value)
