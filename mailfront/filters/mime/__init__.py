"""Kind `mime`: refuses forbidden attachments, and messages too complicated to be looked at.

`scan` takes a message apart, in a thread; the message is in memory only there, so at most `filter.THREADS_COUNT`
messages at a time are, in each worker. Names inside zip files count too. What is encrypted or too large to be opened is
not judged by what is in it.
"""

from typing import Any

from mailfront.filters.contract import Filter, FilterContext, Kind, Stage
from mailfront.filters.mime.settings import MimeSettings

__all__ = ["KIND"]


def _make(settings: Any, context: FilterContext) -> Filter:
    from mailfront.filters.mime.filter import MimeFilter

    return MimeFilter(settings, context)


KIND = Kind(
    summary="Refuses forbidden attachments, also inside zip files, and messages with too many parts or fields.",
    settings=MimeSettings,
    stages=frozenset({Stage.DATA}),
    make=_make,
)
