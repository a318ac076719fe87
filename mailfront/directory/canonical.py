"""One form per address, before any cache key, filter or comparison. Pure.

Keys are lower case and NFC. `str.lower` on purpose, not `casefold`: a key may not be coarser than the directory's own
comparison, or the answer for one address would be remembered for another (`strasse` and `straße` are two people).

LDAP servers prepare strings before they compare (RFC 4518): they fold compatibility characters, drop invisible ones
and squeeze spaces. A look-alike would so reach a mailbox whose address it is not, one cache entry per spelling.
`can_exist` refuses such spellings; no directory lists an address in a form that its own comparison would change.
"""

import re
import unicodedata

from mailfront.mail.address import MAX_DOMAIN_BYTES, MAX_LOCAL_BYTES, Address
from mailfront.mail.names import MailboxKey

MAILBOX_NAME = r"[^\s<>\"\\\x00-\x20\x7f-\x9f]{1,255}"
"""What a storage node may be told: it goes, unquoted, into LMTP commands and logins."""

MAX_LOGIN_CHARS = 255
_AROUND_SEPARATOR = re.compile(r"(?<!\\) *([,=+]) *")

# Printable, unchanged by NFKC, and mapped to nothing by RFC 4518 section 2.2.
_IGNORED_BY_LDAP = re.compile("[\u034f\u1806\u180b-\u180d\ufe00-\ufe0f\ufffc\U000e0100-\U000e01ef]")


def canonical_text(text: str) -> str:
    """Lower case, NFC."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower())


def lookup_key(address: Address) -> str:
    """The form that identifies an address in caches and indexes."""
    local = address.local
    if local.isascii():
        return f"{local.lower()}@{address.domain}"
    return f"{canonical_text(local)}@{address.domain}"


def canonical_address(address: Address) -> Address:
    """The address as the directory is asked for it."""
    return Address(canonical_text(address.local), canonical_text(address.domain))


def canonical_dn(dn: str) -> str:
    """The form that identifies an entry in caches and comparisons: no spaces around separators, lower case. Servers
    write one entry's name in one way, so that this only evens out what people type into `member` and `owner`."""
    return canonical_text(_AROUND_SEPARATOR.sub(r"\1", dn.strip()))


def can_exist(address: Address) -> bool:
    """Whether a directory may hold this address at all. If not, nobody needs to be asked: there is no such."""
    local, domain = address.local, address.domain
    if not (0 < len(local.encode("utf-8", "surrogatepass")) <= MAX_LOCAL_BYTES and local.isprintable()):
        return False
    if not (0 < len(domain.encode("utf-8", "surrogatepass")) <= MAX_DOMAIN_BYTES and domain.isprintable()):
        return False
    if local != local.strip(" ") or "  " in local or " " in domain:
        return False
    return (local.isascii() or _is_prepared(local)) and (domain.isascii() or _is_prepared(domain))


def login_key(name: str) -> str | None:
    """The form that identifies a login name, and that the directory is asked for; None if nobody can have it."""
    if not (0 < len(name) <= MAX_LOGIN_CHARS and name.isprintable()) or name != name.strip(" ") or "  " in name:
        return None
    return canonical_text(name) if name.isascii() or _is_prepared(name) else None


def _is_prepared(text: str) -> bool:
    lower = canonical_text(text)
    return unicodedata.normalize("NFKC", lower) == lower and _IGNORED_BY_LDAP.search(lower) is None


def split_detail(address: Address) -> tuple[Address, str]:
    """Split `user+detail` where the detail may be told to a storage node; else the address itself and ''.

    A detail that stands only in quotes (`"ana+x y"@...`) could not be written unquoted behind a mailbox name, or
    would look like a domain there (`"ana+x@y"@...`): such an address exists only if the directory lists it whole.
    """
    return (address, "") if address.needs_quotes else address.split_detail()


def mailbox_key(value: str, domain: str, *, one_namespace: bool) -> MailboxKey:
    """Make the key that places a mailbox. `value` is the directory's id or mailbox attribute; the domain is added
    unless values are unique over all domains."""
    key = canonical_text(value)
    return MailboxKey(key if one_namespace else f"{key}@{canonical_text(domain)}")
