"""The one exception that crosses the border of a filter."""

from mailfront.base.errors import MailfrontError


class FilterFailed(MailfrontError):
    """A filter cannot say anything about this message: its scanner is away, or answered nonsense.

    The chain catches it and applies `on_error`; its text goes to the log.
    """
