"""Passwords of the static file."""

import base64
import hashlib

import pytest

from mailfront.base.secret import Secret
from mailfront.directory import passwords

SSHA = "{SSHA}" + base64.b64encode(hashlib.sha1(b"secretsalt").digest() + b"salt").decode()


@pytest.mark.parametrize("stored", ["{PLAIN}secret", SSHA])
def test_only_the_password_itself_matches(stored: str) -> None:
    """Not a longer one, not an empty one."""
    assert passwords.is_password(stored)
    assert passwords.matches(stored, Secret(b"secret"))
    for wrong in (b"", b"secre", b"secret ", b"SECRET"):
        assert not passwords.matches(stored, Secret(wrong))


@pytest.mark.parametrize("stored", ["secret", "{PLAIN}", "{SSHA}", "{SSHA}@@", "{SSHA}YWJj", "{MD5}abcd"])
def test_a_form_that_cannot_be_checked_is_refused(stored: str) -> None:
    """At start, not at the first login."""
    assert not passwords.is_password(stored)


def test_nobody_matches_nobody() -> None:
    """The stand-in for unknown users lets nobody in."""
    assert not passwords.matches(passwords.NOBODY, Secret(b""))
    assert not passwords.matches(passwords.NOBODY, Secret(b"secret"))
