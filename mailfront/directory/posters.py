"""Who may post to a group, as directories write it. Pure.

A value is a word (`anyone`, `local`, `members`, `owner`), an address, `mailto:` and an address, `@domain` for everybody
of a domain, or the name of an entry (DN) that is the sender.
"""

from collections.abc import Iterable

from mailfront.directory.answers import Audience, ByDn, Posters
from mailfront.directory.canonical import canonical_address, canonical_dn, canonical_text, lookup_key
from mailfront.mail.address import Address, parse_path

_AUDIENCES = {audience.value: audience for audience in Audience}


def read_posters(values: Iterable[str]) -> Posters:
    """Read all values. No value at all means anyone. Raises ValueError for one that means nothing."""
    audiences: set[Audience] = set()
    addresses: set[str] = set()
    domains: set[str] = set()
    entries: set[str] = set()
    for text in values:
        value = text.strip()
        if (audience := _AUDIENCES.get(value.lower())) is not None:
            audiences.add(audience)
        elif value.startswith("@"):
            domain = parse_path(f"a{value}")
            if domain is None:
                raise ValueError(f"{value!r} is not a domain")
            domains.add(canonical_text(domain.domain))
        else:
            named = read_name(value)
            if isinstance(named, ByDn):
                entries.add(canonical_dn(named.dn))
            else:
                addresses.add(lookup_key(named))
    if not (audiences or addresses or domains or entries):
        return Posters()
    return Posters(
        audiences=frozenset(audiences),
        addresses=frozenset(addresses),
        domains=frozenset(domains),
        entries=frozenset(entries),
    )


def read_name(value: str) -> Address | ByDn:
    """Read an address, with or without `mailto:`, or the name of an entry. Raises ValueError."""
    text = value.strip()
    if text.lower().startswith("mailto:"):
        text = text[len("mailto:") :]
    address = parse_path(text)
    if address is not None and address.domain:
        return canonical_address(address)
    if "=" in text and text.isprintable():
        return ByDn(text)
    raise ValueError(f"{value!r} is neither an address nor the name of an entry")
