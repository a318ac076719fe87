"""Passwords as the static file writes them: `{PLAIN}...` and `{SSHA}...` (RFC 2307 style). Pure.

Comparison takes the same time wherever the first difference is. For somebody who does not exist `NOBODY` is checked
instead, so that an unknown name costs what a wrong password costs.
"""

import base64
import binascii
import hashlib
import hmac

from mailfront.base.secret import Secret

_SHA1_BYTES = 20


def is_password(stored: str) -> bool:
    """Whether a stored password has a form that can be checked."""
    if stored.startswith("{PLAIN}"):
        return len(stored) > len("{PLAIN}")
    return stored.startswith("{SSHA}") and _salted(stored) is not None


def matches(stored: str, given: Secret) -> bool:
    """Whether `given` is the password. An empty one never is."""
    password = given.reveal()
    if stored.startswith("{PLAIN}"):
        wanted = stored.removeprefix("{PLAIN}").encode()
        return hmac.compare_digest(hashlib.sha1(wanted).digest(), hashlib.sha1(password).digest()) and bool(password)  # noqa: S324
    salted = _salted(stored)
    if salted is None:
        return False
    digest, salt = salted[:_SHA1_BYTES], salted[_SHA1_BYTES:]
    return hmac.compare_digest(digest, hashlib.sha1(password + salt).digest()) and bool(password)  # noqa: S324


NOBODY = "{SSHA}" + base64.b64encode(bytes(_SHA1_BYTES) + b"salt").decode()
"""No password matches this."""


def _salted(stored: str) -> bytes | None:
    try:
        salted = base64.b64decode(stored.removeprefix("{SSHA}"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return salted if len(salted) >= _SHA1_BYTES else None
