"""Kind `auth`: who sent this? SPF, DKIM, DMARC and ARC, written into `Authentication-Results`.

| method | by | what is ours around it |
|---|---|---|
| SPF (RFC 7208) | spf3 | made to wait for nothing; DNS by our resolver |
| DKIM (RFC 6376, 8301, 8463) | dkimpy, cryptography | what must not pass does not; bodies hashed in pieces |
| ARC (RFC 8617) | dkimpy | the same |
| DMARC (RFC 7489) | ours, publicsuffixlist | enforced or only reported |

Look-ups run at the same time and share `dns_timeout`; hashing runs in a thread. Fields that arrive with our name are
removed first. DNS trouble is `temperror` and refuses nothing.
"""

from typing import Any

from mailfront.filters.auth.settings import AuthSettings
from mailfront.filters.contract import Filter, FilterContext, Kind, Stage

__all__ = ["KIND"]


def _make(settings: Any, context: FilterContext) -> Filter:
    # dkimpy, spf3 and the list of public suffixes take a third of a second to load; only workers need them.
    from mailfront.filters.auth.filter import AuthFilter

    return AuthFilter(settings, context)


KIND = Kind(
    summary="Authenticates senders by SPF, DKIM, DMARC and ARC, and enforces DMARC if it is told to.",
    settings=AuthSettings,
    stages=frozenset({Stage.DATA}),
    make=_make,
)
