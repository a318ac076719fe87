"""Fields that only our own scanners may have written: strip what the sender wrote under their names. Pure.

Sieve scripts and mail programs believe `X-Spam` and the like. A sender who writes `X-Spam: No` himself would be
believed too, so a scanner's filter deletes all arriving fields of the names that it writes.
"""

from collections.abc import Sequence

from mailfront.filters.headers import Headers
from mailfront.mail.verdict import DeleteHeader


def strip_fields(headers: Headers, patterns: Sequence[str]) -> tuple[DeleteHeader, ...]:
    """Edits that delete the arriving fields whose names fit; a pattern may end in `*`. Case does not matter."""
    if not patterns:
        return ()
    prefixes = tuple([each[:-1].lower() for each in patterns if each.endswith("*")])
    exact = frozenset([each.lower() for each in patterns])
    return tuple([DeleteHeader(name) for name in headers.names() if name in exact or name.startswith(prefixes)])
