"""How an administrator's request can fail, in the three kinds that the command line has exit codes for."""

from enum import Enum

from mailfront.base.errors import MailfrontError


class Kind(Enum):
    """What the caller can do about it."""

    FAILED = "failed"
    """It was understood and cannot be done: no such id, an active row."""
    USAGE = "usage"
    """The request itself is wrong: no selector, an unknown state."""
    LATER = "later"
    """Something needed is away. The same request may work later."""


class AdminError(MailfrontError):
    """A request was not carried out. The text is one line, for the administrator."""

    def __init__(self, text: str, kind: Kind = Kind.FAILED) -> None:
        super().__init__(text)
        self.kind = kind


class NotRunning(AdminError):
    """No server answers on the admin socket."""

    def __init__(self, text: str) -> None:
        super().__init__(text, Kind.LATER)
