"""What the directory answers: `Found`, `NoSuch` or `CannotSay`. Frozen values, no I/O.

The three are never mixed: trouble of ours is `CannotSay` (the caller says 4xx), and `NoSuch` is only the directory's
own word (5xx). A closed union: match on the class and end with `assert_never`.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum

from mailfront.mail.address import Address
from mailfront.mail.names import MailboxKey


class Status(Enum):
    """Whether a mailbox takes mail."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Source(StrEnum):
    """Where an answer comes from: asked just now (STATIC, LDAP), remembered and fresh (CACHE), or remembered longer
    than that because the directory is down (STALE: this process asked once; SNAPSHOT: the file on disk)."""

    STATIC = "static"
    LDAP = "ldap"
    CACHE = "cache"
    STALE = "stale"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryRecord:
    """One mailbox, or an entry whose mail goes elsewhere.

    `key` is canonical, for the placement; `mailbox` is the raw value that a node is told. Both are empty only if
    `redirected` (the entry has forwards or is a group). `address` is the primary one. `host` is the node that the
    directory names, as written. `classes` are the entry's object classes in lower case.
    """

    key: MailboxKey
    mailbox: str
    address: Address
    status: Status = Status.ACTIVE
    over_quota: bool = False
    host: str | None = None
    redirected: bool = False
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The address exists. `age_s` is how long ago the directory said so. `detail` is what stood behind the `+` when
    only the address without it exists; '' when the address itself was found."""

    record: DirectoryRecord
    source: Source
    age_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class NoSuch:
    """The directory knows no such address, and said so `age_s` seconds ago."""

    source: Source
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CannotSay:
    """Nobody can tell now. `reason` is for people. `alarm` names the fault: `directory.unreachable`,
    `directory.ambiguous` (two mailboxes for one address), `directory.bad_entry`; '' if there is none to report."""

    reason: str
    alarm: str = ""


Answer = Found | NoSuch | CannotSay

ALARM_UNREACHABLE = "directory.unreachable"
ALARM_AMBIGUOUS = "directory.ambiguous"
ALARM_BAD_ENTRY = "directory.bad_entry"
