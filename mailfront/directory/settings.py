"""Settings of `[directory]`: where mailfront learns which addresses exist."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mailfront.base.settings import DurationS, FilePath, Settings
from mailfront.directory.filter_template import LOGIN_PLACEHOLDERS, UID_PLACEHOLDERS, FilterTemplate
from mailfront.directory.posters import read_posters

AttributeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.\-]*$", max_length=128)]
AttributeNames = Annotated[tuple[AttributeName, ...], Field(strict=False)]
GROUP_CLASSES = (
    "distributionList",
    "group",
    "groupOfMembers",
    "groupOfNames",
    "groupOfUniqueNames",
    "groupOfURLs",
    "mailGroup",
    "nisMailAlias",
    "posixGroup",
    "rfc822MailGroup",
)
DEFAULT_PORTS = {"ldap": 389, "ldaps": 636, "ldapi": 0}


class AttributeSettings(Settings):
    """Which LDAP attributes mean what."""

    address: AttributeName = "mail"
    """The primary address. Its domain is part of the mailbox key, unless `one_namespace` is set."""
    mailbox: AttributeName = "uid"
    """What the storage nodes call the mailbox. Exactly one value in every entry that has a mailbox."""
    id: AttributeName | None = None
    """A value that never changes, such as `entryUUID`: the mailbox key is made of it, so that renaming a user moves no
    mail. Absent here or in the entry: `mailbox` is used. Changing this later gives every mailbox another key."""
    forward: AttributeName | None = "mailForwardingAddress"
    """Where an entry's mail goes instead of its mailbox: one address per value. A value that is one of the entry's own
    addresses keeps a copy."""
    forward_copy: AttributeName | None = None
    """An entry with forwards whose value of this attribute is one of `directory.copy_values` keeps a copy too."""
    host: AttributeName | None = None
    """The id of the node on which a mailbox is placed first. Absent: the hash decides."""
    status: AttributeName | None = "mailUserStatus"
    """Compared with `[directory.status]`."""


class StatusSettings(Settings):
    """Which values of the status attribute mean what, whatever their case. Any other value, or none, is active."""

    suspended: tuple[str, ...] = Field(default=("suspended",), strict=False)
    """Mail is refused with `550 5.2.1`."""
    over_quota: tuple[str, ...] = Field(default=("overquota",), strict=False)
    """Mail is refused with `452 4.2.2`, and the sender tries again."""


class GroupSettings(Settings):
    """Which entries are groups (mailing lists), and which of their attributes mean what."""

    classes: tuple[str, ...] = Field(default=GROUP_CLASSES, strict=False)
    """An entry with one of these object classes is a group and has no mailbox."""
    members_dn: AttributeNames = ("member", "uniqueMember")
    """Attributes that name members by the DN of their entry. A member may be a group."""
    members_uid: AttributeNames = ("memberUid",)
    """Attributes that name members by login name; `uid_filter` finds their entries."""
    members_address: AttributeNames = ("mgrpRFC822MailMember", "rfc822MailMember")
    """Attributes that name members by address, of ours or of other sites."""
    uid_filter: str = "(uid={uid})"
    """Finds the entry of a login name. `{uid}` is escaped."""
    owner: AttributeName | None = "mgrpErrorsTo"
    """Who takes the sender's place for the members, so that he hears of bounces: an address, with or without `mailto:`,
    or the DN of an entry that has one. Absent in the entry: the sender stays."""
    may_post: AttributeName | None = "mgrpAllowedBroadcaster"
    """Who may post: addresses (with or without `mailto:`), DNs, `@domain`, or the words `anyone`, `local`, `members`,
    `owner`. Who is none of them gets `550 5.7.2`."""
    default_may_post: tuple[str, ...] = Field(default=("anyone",), min_length=1, strict=False)
    """The same for groups that have no such attribute."""
    max_members: int = Field(default=5000, ge=1, le=100_000)
    """The most recipients that one address may lead to, nested groups and all. More: `451 4.3.5` and an alarm."""

    @field_validator("uid_filter")
    @classmethod
    def _filter_is_sound(cls, value: str) -> str:
        FilterTemplate(value, UID_PLACEHOLDERS)
        return value

    @field_validator("default_may_post")
    @classmethod
    def _posters_are_sound(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        read_posters(value)
        return value


class LdapSettings(Settings):
    """An LDAP directory: OpenLDAP, 389-DS, Active Directory or any other LDAPv3 server."""

    kind: Literal["ldap"]
    """`ldap`."""
    urls: tuple[str, ...] = Field(min_length=1, max_length=16, strict=False)
    """Servers in order of preference: `ldaps://host[:port]`, `ldap://host[:port]`, `ldapi://%2Fpath%2Fsocket`. The
    first that works is used; one that fails is left alone until it works again."""
    base: str = Field(max_length=1024)
    """Where the search starts; everything below it is searched."""
    bind_dn: str | None = Field(default=None, min_length=1, max_length=1024)
    """Who mailfront is there. Absent: anonymous."""
    password_file: FilePath | None = None
    """The file whose first line is the password of `bind_dn`."""
    starttls: bool = False
    """Encrypt `ldap://` connections with StartTLS. A server that refuses is not used."""
    ca: FilePath | None = None
    """The certificates that servers are verified with. Absent: those of the system. Verification is always on."""
    recipient_filter: str = "(|(mail={address})(mailAlternateAddress={address}))"
    """Finds the entry of a recipient. `{address}`, `{local}` and `{domain}` are put in lower case and escaped."""
    login_filter: str = "(uid={login})"
    """Finds the entry of somebody who logs in. `{login}` is the name as given, in lower case and escaped; `{local}` and
    `{domain}` are its parts around the `@`."""
    timeout: DurationS = Field(default=5.0, ge=1.0, le=60.0)
    """The longest a look-up may take, over all servers."""
    pool: int = Field(default=4, ge=1, le=64)
    """Connections to each server, per worker process."""
    cache: DurationS = Field(default=300.0, gt=0)
    """How long a record is used without asking again."""
    negative: DurationS = Field(default=30.0, gt=0)
    """How long "no such address" is used without asking again."""
    stale: DurationS = Field(default=86400.0, ge=0)
    """How old a record may be and still be used while no server answers; for the snapshot too."""
    login_cache: DurationS = Field(default=60.0, ge=0)
    """How long a password that was right is taken for right without asking again. 0: the directory is always asked."""
    cache_entries: int = Field(default=100_000, ge=1000, le=10_000_000)
    """The most records kept in memory, per worker process; about 1 KiB each. A fifth as many "no such address"."""
    snapshot: DurationS | None = Field(default=None, ge=60.0)
    """How often all records are copied to `state_dir`, for a start while no server answers. Absent: never."""
    one_namespace: bool = False
    """Set it if values of `id` (or `mailbox`) are unique over all domains: the key is then the value alone. Needed if
    one entry has primary addresses in several domains. Changing it later gives every mailbox another key."""
    copy_values: tuple[str, ...] = Field(default=("true", "yes", "1", "mailbox", "localdelivery"), strict=False)
    """Values of `directory.attributes.forward_copy` that mean yes, whatever their case."""
    attributes: AttributeSettings = AttributeSettings()
    status: StatusSettings = StatusSettings()
    groups: GroupSettings = GroupSettings()

    @property
    def max_members(self) -> int:
        """See `GroupSettings.max_members`."""
        return self.groups.max_members

    @field_validator("urls")
    @classmethod
    def _urls_are_ldap(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            _check_url(url)
        if len(set(value)) < len(value):
            raise ValueError("a server is listed twice")
        return value

    @field_validator("recipient_filter")
    @classmethod
    def _filter_is_sound(cls, value: str) -> str:
        FilterTemplate(value)
        return value

    @field_validator("login_filter")
    @classmethod
    def _login_filter_is_sound(cls, value: str) -> str:
        FilterTemplate(value, LOGIN_PLACEHOLDERS)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "LdapSettings":
        schemes = {urlsplit(url).scheme for url in self.urls}
        if self.starttls and schemes != {"ldap"}:
            raise ValueError("starttls is for ldap:// only; remove it, or write ldap:// for every server in urls")
        if (self.bind_dn is None) != (self.password_file is None):
            raise ValueError("bind_dn and password_file need each other; without both, mailfront binds anonymously")
        if self.snapshot is not None:
            for name, template in (
                ("recipient_filter", FilterTemplate(self.recipient_filter)),
                ("groups.uid_filter", FilterTemplate(self.groups.uid_filter, UID_PLACEHOLDERS)),
            ):
                if problem := template.snapshot_problem:
                    raise ValueError(f"{name} cannot be answered from a snapshot: {problem}; remove snapshot")
        return self


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in DEFAULT_PORTS or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{url!r} is not a server; write ldaps://host, ldap://host:port or ldapi://%2Fpath%2Fsocket")
    if parts.scheme != "ldapi" and not parts.hostname:
        raise ValueError(f"{url!r} names no host")
    if parts.path not in {"", "/"} or (port is not None and parts.scheme == "ldapi"):
        raise ValueError(f"{url!r} has more than a server in it; the base belongs into directory.base")


class StaticSettings(Settings):
    """A file with all users, for small sites, demonstrations and tests. Read at the start and at each reload."""

    kind: Literal["static"]
    """`static`."""
    file: FilePath
    """The TOML file: `[[user]]` with `address`, `mailbox` and, if wanted, `id`, `aliases`, `forward`, `host`, `status`,
    `over_quota`, `password`, `keep_copy`; `[[group]]` with `address`, `members`, `owner`, `may_post`."""
    one_namespace: bool = False
    """Set it if values of `id` (or `mailbox`) are unique over all domains: the key is then the value alone."""
    max_members: int = Field(default=5000, ge=1, le=100_000)
    """The most recipients that one address may lead to, nested groups and all. More: `451 4.3.5` and an alarm."""


DirectorySettings = Annotated[LdapSettings | StaticSettings, Field(discriminator="kind")]
