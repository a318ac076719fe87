"""The kind `rspamd`: asks an rspamd worker over HTTP (`/checkv2`).

`settings` is its part of the table, `answer` reads what rspamd says (pure), `client` talks to it.
"""

from typing import Any

from mailfront.filters.contract import Filter, FilterContext, Kind, Stage
from mailfront.filters.rspamd.settings import RspamdSettings

__all__ = ["KIND"]


def _make(settings: Any, context: FilterContext) -> Filter:
    # aiohttp takes a tenth of a second to import; only workers need it.
    from mailfront.filters.rspamd.client import RspamdFilter

    return RspamdFilter(settings, context)


KIND = Kind(
    summary="Asks rspamd and does what it says: headers, subject, greylisting, refusal.",
    settings=RspamdSettings,
    stages=frozenset({Stage.DATA}),
    make=_make,
)
