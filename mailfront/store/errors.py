"""What can go wrong with the database, as the rest of mailfront sees it. No SQLAlchemy error leaves this package."""

from mailfront.base.errors import MailfrontError, Unavailable


class StoreFailed(Unavailable):
    """A transaction was not committed (disk full, I/O error, overload) or a read was not answered.

    Nothing of a failed write may be counted on. Every statement of mailfront's may be sent again.
    """


class StoreLocked(Unavailable):
    """Another process is the writer of this database."""


class StoreRefused(MailfrontError):
    """The database cannot be used as it is: damaged, not ours, or written by a newer mailfront. Says what to do."""


class CorruptBody(MailfrontError):
    """Stored bytes of a message are missing or do not match their checksum."""
