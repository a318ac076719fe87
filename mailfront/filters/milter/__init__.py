"""Kind `milter`: any filter that speaks the milter protocol (sendmail's and Postfix's), versions 2 to 6.

The whole dialogue runs at stage `data`, when the message is here: connect, HELO, MAIL, each RCPT, DATA, header, body,
end of message. What it means for the verdict:

| the milter says | verdict |
|---|---|
| continue, accept | go on, with its edits (an early accept has none) |
| reject, a 5xx reply | reject, with its text |
| tempfail, a 4xx reply, shutdown | tempfail, with its text |
| discard | discard |
| quarantine | quarantine, with its edits |
| a refusal of one recipient | the same for the whole message: the others were accepted in the same transaction |

Recipients that were refused are not shown. ESMTP parameters of recipients and senders that a milter sets are dropped.
A connection is used again for another client only with version 6, and only if the milter ended the message with
"continue"; otherwise each message opens one. A kept connection that turns out to be closed is replaced once, and that
is no fault of the milter's.
"""

from typing import Any

from mailfront.filters.contract import Filter, FilterContext, Kind, Stage
from mailfront.filters.milter.settings import MilterSettings

__all__ = ["KIND"]


def _make(settings: Any, context: FilterContext) -> Filter:
    from mailfront.filters.milter.filter import MilterFilter

    return MilterFilter(settings, context)


KIND = Kind(
    summary="Any filter that speaks the milter protocol, such as opendkim, spamass-milter or clamav-milter.",
    settings=MilterSettings,
    stages=frozenset({Stage.DATA}),
    make=_make,
)
