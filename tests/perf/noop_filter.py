"""A filter that has no objection: what the chain itself costs. A plug-in, as a site would write one."""

from mailfront.base.settings import Settings
from mailfront.filters.contract import Filter, Kind, Message, Stage
from mailfront.mail.verdict import CONTINUE, Verdict


class NoopFilter(Filter):
    """Says continue, at once."""

    def data(self, message: Message) -> Verdict:
        """See `Filter`."""
        return CONTINUE


class NoopSettings(Settings):
    """It has none."""


KIND = Kind(
    summary="Has no objection.",
    settings=NoopSettings,
    stages=frozenset({Stage.DATA}),
    make=lambda settings, context: NoopFilter(),
)
