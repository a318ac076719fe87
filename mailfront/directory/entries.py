"""From an LDAP entry to a record: the only place that knows what attributes mean. Pure.

An entry that cannot be understood is never guessed at: `BadEntry` says what is wrong and in which entry, and the
address gets a temporary error until somebody corrects the directory.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mailfront.base.errors import MailfrontError
from mailfront.base.printable import printable
from mailfront.directory.answers import (
    ALARM_AMBIGUOUS,
    ALARM_BAD_ENTRY,
    NO_ADDRESS,
    ByDn,
    ByUid,
    CannotSay,
    DirectoryRecord,
    Found,
    Group,
    Member,
    NoSuch,
    Source,
    Status,
)
from mailfront.directory.canonical import MAILBOX_NAME, can_exist, canonical_address, canonical_dn, mailbox_key
from mailfront.directory.posters import read_name, read_posters
from mailfront.directory.settings import LdapSettings
from mailfront.mail.address import Address, parse_path
from mailfront.mail.names import MailboxKey

MAX_VALUE_CHARS = 255
_MAILBOX = re.compile(MAILBOX_NAME)


class BadEntry(MailfrontError):
    """An entry that mailfront cannot use. The text names the entry, the attribute and what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One search result: its name, and its values by attribute name in lower case."""

    dn: str
    values: Mapping[str, tuple[str, ...]]

    def all(self, attribute: str | None) -> tuple[str, ...]:
        """All non-empty values of an attribute; none if the attribute is not configured."""
        if attribute is None:
            return ()
        return tuple(value for value in self.values.get(attribute.lower(), ()) if value)


def entry_from_wire(dn: str, raw: Mapping[str, Iterable[bytes]]) -> Entry:
    """Decode a search result. A value that is not UTF-8 is left out: no address or mailbox can be in it."""
    values: dict[str, tuple[str, ...]] = {}
    for name, found in raw.items():
        texts = []
        for value in found:
            try:
                texts.append(value.decode())
            except UnicodeDecodeError:
                continue
        values[name.lower()] = tuple(texts)
    return Entry(dn, values)


class EntryReader:
    """Reads entries as the settings say. Immutable."""

    def __init__(self, settings: LdapSettings) -> None:
        self._attributes = settings.attributes
        self._groups = settings.groups
        self._group_classes = frozenset(name.lower() for name in settings.groups.classes)
        self._one_namespace = settings.one_namespace
        self._suspended = frozenset(value.lower() for value in settings.status.suspended)
        self._over_quota = frozenset(value.lower() for value in settings.status.over_quota)
        self._copy_values = frozenset(value.lower() for value in settings.copy_values)
        self._default_posters = read_posters(settings.groups.default_may_post)
        groups = settings.groups
        of_people = {name.lower() for name in settings.attributes.model_dump().values() if name is not None}
        of_groups = {name.lower() for name in (*groups.members_dn, *groups.members_uid, *groups.members_address)}
        of_groups.update(name.lower() for name in (groups.owner, groups.may_post) if name is not None)
        self.wanted_of_people = tuple(sorted(of_people | {"objectclass"}))
        """The attributes to ask for where a group is nobody. Operational ones (entryUUID) come only when named."""
        self.wanted = tuple(sorted({*self.wanted_of_people, *of_groups}))
        """The same where it is a list of members."""

    def answer(self, entries: list[Entry], asked: Member) -> Found | NoSuch | CannotSay:
        """What a complete search result says about an address, or about a member of a group."""
        if not entries:
            return NoSuch(Source.LDAP)
        if not isinstance(asked, Address) and all(self._is_nobody(entry) for entry in entries):
            return NoSuch(Source.LDAP)
        try:
            records = [self.read(entry, asked) for entry in entries]
        except BadEntry as error:
            return CannotSay(str(error), ALARM_BAD_ENTRY)
        if len({replace(record, classes=(), address=NO_ADDRESS) for record in records}) > 1:
            names = "; ".join(_name(entry) for entry in entries)
            what = f"<{printable(str(asked))}>" if isinstance(asked, Address) else printable(str(asked))
            return CannotSay(
                f"{what} belongs to {len(entries)} entries that differ: {names}; "
                f"remove the {'address' if isinstance(asked, Address) else 'name'} from all but one",
                ALARM_AMBIGUOUS,
            )
        return Found(records[0], Source.LDAP)

    def read(self, entry: Entry, asked: Member) -> DirectoryRecord:
        """Make a record of an entry that was found for `asked`. Raises BadEntry."""
        classes = tuple(sorted(printable(value.lower()) for value in entry.all("objectClass")))
        statuses = {value.lower() for value in entry.all(self._attributes.status)}
        group = None if self._group_classes.isdisjoint(classes) else self._group(entry)
        forwards = () if group is not None else self._forwards(entry)
        mailbox = None if group is not None else self._mailbox(entry, is_needed=not forwards)
        if mailbox is None:
            key, address = MailboxKey(""), self._any_address(entry, asked)
        else:
            address = self._primary(entry, asked)
            value = _single(entry, self._attributes.id) or mailbox
            key = mailbox_key(value, address.domain, one_namespace=self._one_namespace)
        copies = {value.lower() for value in entry.all(self._attributes.forward_copy)}
        return DirectoryRecord(
            key=key,
            mailbox=mailbox or "",
            address=address,
            status=Status.ACTIVE if self._suspended.isdisjoint(statuses) else Status.SUSPENDED,
            over_quota=not self._over_quota.isdisjoint(statuses),
            host=_single(entry, self._attributes.host),
            forwards=forwards,
            keeps_copy=bool(forwards) and mailbox is not None and not self._copy_values.isdisjoint(copies),
            group=group,
            classes=classes,
            entry=canonical_dn(entry.dn),
        )

    def _is_nobody(self, entry: Entry) -> bool:
        """A member of a group that no mail can reach: a service account, a person without an address."""
        names = self._attributes
        if not self._group_classes.isdisjoint(value.lower() for value in entry.all("objectClass")):
            return False
        if entry.all(names.forward):
            return False
        return not entry.all(names.mailbox) or not (self._one_namespace or entry.all(names.address))

    def _mailbox(self, entry: Entry, *, is_needed: bool) -> str | None:
        name = self._attributes.mailbox
        mailbox = _single(entry, name)
        if mailbox is None:
            if not is_needed:
                return None
            raise BadEntry(
                f"{_name(entry)} has no attribute {name}; add it, or let recipient_filter leave the entry out"
            )
        if _MAILBOX.fullmatch(mailbox) is None or not mailbox.isprintable():
            raise BadEntry(f"{_name(entry)}: {name} is not usable as a mailbox name")
        return mailbox

    def _forwards(self, entry: Entry) -> tuple[Address, ...]:
        """Where its mail goes. A value that is no address is never left out: mail would be lost by a typing error."""
        name = self._attributes.forward
        return tuple(self._named_address(entry, name, value) for value in entry.all(name))

    def _group(self, entry: Entry) -> Group:
        groups = self._groups
        members: list[Member] = []
        for name in groups.members_dn:
            members += [ByDn(value) for value in self._complete(entry, name)]
        for name in groups.members_uid:
            members += [ByUid(value) for value in self._complete(entry, name)]
        for name in groups.members_address:
            members += [self._named_address(entry, name, value) for value in self._complete(entry, name)]
        posters = self._default_posters
        try:
            if values := entry.all(groups.may_post):
                posters = read_posters(values)
        except ValueError as error:
            raise BadEntry(f"{_name(entry)}: {groups.may_post}: {printable(str(error))}") from error
        return Group(members=tuple(dict.fromkeys(members)), owner=self._owner(entry), posters=posters)

    def _owner(self, entry: Entry) -> Address | ByDn | None:
        name = self._groups.owner
        values = entry.all(name)
        if not values:
            return None
        try:
            return read_name(values[0])
        except ValueError as error:
            raise BadEntry(f"{_name(entry)}: {name}: {printable(str(error))}") from error

    def _complete(self, entry: Entry, name: str) -> tuple[str, ...]:
        """All values of an attribute. Some servers give long lists in ranges: a part of a list is no list."""
        if any(found.startswith(f"{name.lower()};range=") for found in entry.values):
            raise BadEntry(
                f"{_name(entry)}: the server gives only a part of {name}; raise its limit of values (MaxValRange)"
            )
        return entry.all(name)

    def _named_address(self, entry: Entry, name: str | None, value: str) -> Address:
        address = _stored_address(value.strip())
        if address is None or not can_exist(address):
            raise BadEntry(f"{_name(entry)}: {name}: {printable(value, 80)!r} is not an address")
        return canonical_address(address)

    def _any_address(self, entry: Entry, asked: Member) -> Address:
        """An address for an entry whose mail goes elsewhere: its own, or what was asked; a nested group needs none."""
        for value in entry.all(self._attributes.address):
            if (address := _stored_address(value)) is not None:
                return canonical_address(address)
        return asked if isinstance(asked, Address) else NO_ADDRESS

    def _primary(self, entry: Entry, asked: Member) -> Address:
        """The primary address. It must not depend on which of its addresses was asked: its domain is in the key."""
        name = self._attributes.address
        found = (_stored_address(value) for value in entry.all(name))
        addresses = sorted({str(address): address for address in found if address is not None}.items())
        domains = {address.domain for _, address in addresses}
        if len(domains) == 1 or (domains and self._one_namespace):
            return addresses[0][1]
        if self._one_namespace:
            return asked if isinstance(asked, Address) else NO_ADDRESS
        wrong = f"{name} in {len(domains)} domains" if domains else f"no address in {name}"
        raise BadEntry(
            f"{_name(entry)} has {wrong}, so the domain of its mailbox is not known; set directory.attributes.address "
            "to an attribute with one value, or directory.one_namespace = true"
        )


def _stored_address(value: str) -> Address | None:
    """An address as directories hold it: like on the wire, but often without the quotes that a strange local part
    needs there."""
    address = parse_path(value)
    if address is not None:
        return address if address.domain else None
    local, _, domain = value.rpartition("@")
    plain = parse_path(f"a@{domain}")
    unquoted = Address(local, plain.domain) if plain is not None else None
    return unquoted if unquoted is not None and can_exist(unquoted) else None


def _single(entry: Entry, attribute: str | None) -> str | None:
    values = entry.all(attribute)
    if len(values) > 1:
        raise BadEntry(f"{_name(entry)} has {len(values)} values of {attribute}; mailfront needs exactly one")
    value = values[0].strip() if values else ""
    # A key, a host and a mailbox are stored, logged and shown from here on.
    if len(value) > MAX_VALUE_CHARS or not value.isprintable():
        raise BadEntry(f"{_name(entry)}: {attribute} is not usable: too long, or with characters that cannot be shown")
    return value or None


def _name(entry: Entry) -> str:
    return printable(entry.dn)
