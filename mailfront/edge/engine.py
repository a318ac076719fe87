"""Small parts that stand in for what aiosmtpd builds per connection, and turn its replies into ours."""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from mailfront.mail.reply import Reply

_ENHANCED = {"250": "2.0.0", "221": "2.0.0", "500": "5.5.2", "501": "5.5.4", "502": "5.5.1", "503": "5.5.1"}


class Commands(Protocol):
    """Whoever has commands: their names, and the methods that serve them."""

    commands: ClassVar[Mapping[str, str]]


class AnyCommand(Mapping[str, int]):
    """One limit for every command: the stream has already enforced the real one."""

    def __getitem__(self, command: str) -> int:
        return 1 << 20

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Methods:
    """aiosmtpd looks methods up in a dict of bound methods; this finds them by the table of the class."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Commands) -> None:
        self._connection = connection

    def get(self, command: str) -> Any:
        connection = self._connection
        return getattr(connection, connection.commands.get(command, "unknown_command"))


class MethodTable:
    """In place of the dict that aiosmtpd builds per connection."""

    def __get__(self, connection: Commands, owner: type) -> _Methods:
        return _Methods(connection)


def wire(answer: Reply) -> bytes:
    """`answer.wire()`, quickly for the usual case of one line with an enhanced code."""
    if len(answer.lines) == 1 and answer.enhanced:
        return f"{answer.code} {answer.enhanced} {answer.lines[0]}\r\n".encode("utf-8", "replace")
    return answer.wire()


@functools.lru_cache(maxsize=256)
def with_enhanced_code(status: str) -> bytes:
    """aiosmtpd's replies have no enhanced status code (RFC 2034): put one in."""
    code, text = status[:3], status[4:]
    enhanced = _ENHANCED.get(code)
    if enhanced is not None and text[:2] not in ("2.", "4.", "5."):
        status = f"{code} {enhanced} {text}"
    return (status + "\r\n").encode("utf-8", "replace")
