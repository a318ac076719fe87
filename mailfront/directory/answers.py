"""What the directory answers: `Found`, `NoSuch` or `CannotSay`. Frozen values, no I/O.

The three are never mixed: trouble of ours is `CannotSay` (the caller says 4xx), and `NoSuch` is only the directory's
own word (5xx). A closed union: match on the class and end with `assert_never`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from mailfront.directory.canonical import lookup_key
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


@dataclass(frozen=True, slots=True)
class ByDn:
    """An entry by its name: members and owners of groups."""

    dn: str


@dataclass(frozen=True, slots=True)
class ByUid:
    """An entry by the login name that a posixGroup lists."""

    uid: str


Member = Address | ByDn | ByUid
"""How an entry names another one."""
NO_ADDRESS = Address("", "")
"""A group that only other groups name needs no address."""


class Audience(Enum):
    """Who may post to a group, in a word."""

    ANYONE = "anyone"
    LOCAL = "local"
    MEMBERS = "members"
    OWNER = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Posters:
    """Who may post to a group: whoever one part lets. `addresses` are canonical; `entries` are names of entries in
    lower case; `domains` are canonical, without the `@`."""

    audiences: frozenset[Audience] = frozenset({Audience.ANYONE})
    addresses: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    entries: frozenset[str] = frozenset()

    @property
    def is_everybody(self) -> bool:
        """Whether nobody needs to be asked who he is."""
        return Audience.ANYONE in self.audiences

    def names(self, sender: Address, entries: Collection[str]) -> bool:
        """Whether a sender is listed. `entries`: the names of the entries that are he."""
        return (
            lookup_key(sender) in self.addresses
            or sender.domain in self.domains
            or not self.entries.isdisjoint(entries)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What makes an entry a group. `owner` takes the sender's place for its members; None: the sender stays."""

    members: tuple[Member, ...]
    owner: Address | ByDn | None = None
    posters: Posters = Posters()


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryRecord:
    """One mailbox, an entry whose mail goes elsewhere, or both.

    `key` is canonical, for the placement; `mailbox` is the raw value that a node is told. Both are empty if there is no
    mailbox, and always for a group. `forwards` are where its mail goes; `keeps_copy`: to its own mailbox too. `address`
    is the primary one. `host` is the node that the directory names, as written. `classes` are the entry's object
    classes in lower case. `entry` identifies the entry itself, whichever of its names was asked.
    """

    key: MailboxKey
    mailbox: str
    address: Address
    status: Status = Status.ACTIVE
    over_quota: bool = False
    host: str | None = None
    forwards: tuple[Address, ...] = ()
    keeps_copy: bool = False
    group: Group | None = None
    classes: tuple[str, ...] = ()
    entry: str = field(default="", compare=False)

    @property
    def redirected(self) -> bool:
        """Whether mail for it goes elsewhere: it has forwards or is a group."""
        return bool(self.forwards) or self.group is not None


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
