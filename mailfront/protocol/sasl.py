"""SASL as a server sees it before it knows who is there: PLAIN, LOGIN, XOAUTH2, OAUTHBEARER. Pure.

One `SaslExchange` per AUTHENTICATE. `start` takes the initial response, if the client sent one; `respond` each further
one, decoded from base64 by `decode`. The result is a `LoginAsked`, or the next challenge. XOAUTH2 and OAUTHBEARER are
not judged here: the name is read from them, to find the mailbox's home, and the response goes on to the node as it is.

What is malformed raises `SaslError`; nothing of it is kept. Names must be UTF-8 without control characters (RFC 4616);
passwords may hold any byte but NUL.
"""

import binascii
import re
from base64 import b64decode

from mailfront.base.errors import MailfrontError
from mailfront.base.secret import Secret
from mailfront.protocol.login_dialogue import MAX_NAME_BYTES, LoginAsked

PASSWORD_MECHANISMS = frozenset({"PLAIN", "LOGIN"})
BEARER_MECHANISMS = frozenset({"XOAUTH2", "OAUTHBEARER"})

_XOAUTH2 = re.compile(rb"user=([^\x00-\x1f]+)\x01auth=[^\x00\x01]+\x01\x01")
_OAUTHBEARER = re.compile(rb"[ny],a=((?:[^\x00-\x1f,=]|=2C|=3D)+),\x01(?:[^\x00]*\x01)?\x01")


class SaslError(MailfrontError):
    """The client's response is not what its mechanism wants. The text may be shown."""


def decode(line: bytes) -> bytes:
    """Decode one base64 response. Raises SaslError."""
    try:
        return b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raise SaslError("invalid base64") from None


def login_name(raw: bytes) -> str:
    """A login name as text. Raises SaslError if it cannot be one."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise SaslError("the name is not UTF-8") from None
    if not name or len(raw) > MAX_NAME_BYTES or not name.isprintable():
        raise SaslError("the name is empty, too long, or has control characters")
    return name


def password_login(name: bytes, password: bytes, *, mechanism: str = "PLAIN", authorize: bytes = b"") -> LoginAsked:
    """A login by name and password. Raises SaslError. An empty password is not refused here: it is simply wrong."""
    if b"\0" in password:
        raise SaslError("the password has a NUL")
    return LoginAsked(
        name=login_name(name),
        secret=Secret(password),
        mechanism=mechanism,
        authorize=login_name(authorize) if authorize else "",
    )


class SaslExchange:
    """See the module."""

    def __init__(self, mechanism: str) -> None:
        """`mechanism`: one of `PASSWORD_MECHANISMS` and `BEARER_MECHANISMS`."""
        self._mechanism = mechanism
        self._name: bytes | None = None

    def start(self, initial: bytes | None) -> LoginAsked | bytes:
        """Begin. Returns the login, or the first challenge (not yet in base64). Raises SaslError."""
        if initial is None:
            return b"Username:" if self._mechanism == "LOGIN" else b""
        return self.respond(initial)

    def respond(self, response: bytes) -> LoginAsked | bytes:
        """Take a response. Returns the login, or the next challenge. Raises SaslError."""
        if self._mechanism == "PLAIN":
            parts = response.split(b"\0")
            if len(parts) != 3:
                raise SaslError("PLAIN needs three parts")
            authorize, name, password = parts
            return password_login(name, password, authorize=b"" if authorize == name else authorize)
        if self._mechanism == "LOGIN":
            if self._name is None:
                self._name = response
                return b"Password:"
            return password_login(self._name, response, mechanism="LOGIN")
        return self._bearer(response)

    def _bearer(self, response: bytes) -> LoginAsked:
        is_xoauth2 = self._mechanism == "XOAUTH2"
        match = (_XOAUTH2 if is_xoauth2 else _OAUTHBEARER).fullmatch(response)
        if match is None:
            raise SaslError(f"not a response of {self._mechanism}")
        name = match[1] if is_xoauth2 else match[1].replace(b"=2C", b",").replace(b"=3D", b"=")
        return LoginAsked(name=login_name(name), secret=Secret(response), mechanism=self._mechanism)
