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
    CannotSay,
    DirectoryRecord,
    Found,
    NoSuch,
    Source,
    Status,
)
from mailfront.directory.canonical import MAILBOX_NAME, can_exist, mailbox_key
from mailfront.directory.settings import LdapSettings
from mailfront.mail.address import Address, parse_path
from mailfront.mail.names import MailboxKey

GROUP_CLASSES = frozenset(
    {
        "distributionlist",
        "group",
        "groupofmembers",
        "groupofnames",
        "groupofuniquenames",
        "groupofurls",
        "mailgroup",
        "nismailalias",
        "posixgroup",
        "rfc822mailgroup",
    }
)
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
        self._one_namespace = settings.one_namespace
        self._suspended = frozenset(value.lower() for value in settings.status.suspended)
        self._over_quota = frozenset(value.lower() for value in settings.status.over_quota)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The attributes to ask for. Operational ones (entryUUID) come only when named."""
        names = {name.lower() for name in self._attributes.model_dump().values() if name is not None}
        return tuple(sorted(names | {"objectclass"}))

    def answer(self, entries: list[Entry], asked: Address) -> Found | NoSuch | CannotSay:
        """What a complete search result says about an address."""
        if not entries:
            return NoSuch(Source.LDAP)
        try:
            records = [self.read(entry, asked) for entry in entries]
        except BadEntry as error:
            return CannotSay(str(error), ALARM_BAD_ENTRY)
        if len({replace(record, classes=(), address=asked) for record in records}) > 1:
            names = "; ".join(_name(entry) for entry in entries)
            return CannotSay(
                f"<{printable(str(asked))}> belongs to {len(entries)} entries that differ: {names}; "
                "remove the address from all but one",
                ALARM_AMBIGUOUS,
            )
        return Found(records[0], Source.LDAP)

    def read(self, entry: Entry, asked: Address) -> DirectoryRecord:
        """Make a record of an entry that was found for `asked`. Raises BadEntry."""
        classes = tuple(sorted(printable(value.lower()) for value in entry.all("objectClass")))
        redirected = bool(entry.all(self._attributes.forward)) or not GROUP_CLASSES.isdisjoint(classes)
        mailbox = _single(entry, self._attributes.mailbox)
        statuses = {value.lower() for value in entry.all(self._attributes.status)}
        host = _single(entry, self._attributes.host)
        if redirected:
            key, mailbox, address = MailboxKey(""), "", asked
        elif mailbox is None:
            raise BadEntry(
                f"{_name(entry)} has no attribute {self._attributes.mailbox}; add it, or let recipient_filter leave "
                "the entry out"
            )
        elif _MAILBOX.fullmatch(mailbox) is None or not mailbox.isprintable():
            raise BadEntry(f"{_name(entry)}: {self._attributes.mailbox} is not usable as a mailbox name")
        else:
            address = self._primary(entry, asked)
            value = _single(entry, self._attributes.id) or mailbox
            key = mailbox_key(value, address.domain, one_namespace=self._one_namespace)
        return DirectoryRecord(
            key=key,
            mailbox=mailbox,
            address=address,
            status=Status.ACTIVE if self._suspended.isdisjoint(statuses) else Status.SUSPENDED,
            over_quota=not self._over_quota.isdisjoint(statuses),
            host=host,
            redirected=redirected,
            classes=classes,
        )

    def _primary(self, entry: Entry, asked: Address) -> Address:
        """The primary address. It must not depend on which of its addresses was asked: its domain is in the key."""
        name = self._attributes.address
        found = (_stored_address(value) for value in entry.all(name))
        addresses = sorted({str(address): address for address in found if address is not None}.items())
        domains = {address.domain for _, address in addresses}
        if len(domains) == 1 or (domains and self._one_namespace):
            return addresses[0][1]
        if self._one_namespace:
            return asked
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
